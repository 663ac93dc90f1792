"""Scores, protocols, and comparisons of methods with their tables."""
