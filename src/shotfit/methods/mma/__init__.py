"""MMA and MMA++: the network of both, and how each is trained and read."""

from shotfit.methods.mma.method import MMA
from shotfit.methods.mma.plus_plus import MMAPlusPlus

__all__ = ["MMA", "MMAPlusPlus"]
