"""The frozen model as a method sees it; nothing is computed twice."""
