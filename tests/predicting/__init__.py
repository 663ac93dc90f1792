"""`shotfit predict`."""
