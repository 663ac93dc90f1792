"""Where the process that fits leaves what the page shows of a fit; both know the file, and one of them no torch."""

__all__ = ["PLOTS", "RESULT", "VERSION"]

RESULT = "fit.json"
PLOTS = ("confusion", "reliability")  # beside it, as SVG, where there were enough pictures for them
VERSION = 1  # of what is in it; a record of another one is passed over
