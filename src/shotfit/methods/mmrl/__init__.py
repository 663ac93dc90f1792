"""MMRL and MMRL++: the tokens, and how they are trained and read."""

from shotfit.methods.mmrl.method import MMRL

__all__ = ["MMRL"]
