"""Timings of shotfit against the reference manner, both in one run on the same machine."""
