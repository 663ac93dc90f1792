"""The formats that data lie in, a module each; `listing.py` says what a reader gives, `readers.py` has the table."""
