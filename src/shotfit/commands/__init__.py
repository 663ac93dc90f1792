"""The commands, which `cli.py` puts together: each is a call of the library, with its result printed."""
