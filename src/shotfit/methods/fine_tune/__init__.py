"""Full fine-tuning, WiSE-FT's average, and CLIP-CITE's terms of the loss (`cite.py`)."""

from shotfit.methods.fine_tune.method import FineTune, WiseFT

__all__ = ["FineTune", "WiseFT"]
