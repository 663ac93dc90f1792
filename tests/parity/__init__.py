"""Recorded results of the official programs: each case is one test whose id holds `folder/case`."""
