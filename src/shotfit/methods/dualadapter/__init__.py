"""DualAdapter and SimNL: the method, its options, and what it alone uses."""

from shotfit.methods.dualadapter.method import DualAdapter

__all__ = ["DualAdapter"]
