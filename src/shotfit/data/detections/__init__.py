"""Files of boxes that get other labels and else stay what they are, a module each; `reading.py` finds the format."""
