"""The contract that every method keeps, for us and for third parties, and tiny backbones to run it on."""

from shotfit.testing.contract import CONTRACT, check

__all__ = ["CONTRACT", "check"]
