"""`python -m shotfit` is the command `shotfit`."""

from __future__ import annotations

import sys

from shotfit.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
