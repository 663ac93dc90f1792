"""Which tensors a fitted method has: each method declares them, and a model that is opened is checked against it.

    def declared(self):
        return {"parameter.residual": Declared(len(self.class_names), self.frozen.embed)}

A size is a number, or a name for one that only the fit knew ("support": how many images it learned from), which is the
same wherever the name stands.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shotfit.errors import ShotfitError, first_few

__all__ = ["Declared", "check_declared"]

FLOATING = (torch.float32, torch.float64)


class Declared:
    """A tensor of floating-point numbers of a shape; with `below`, of whole numbers from 0 up to it.

    >>> Declared("support", 512), Declared("support", below=3)
    (numbers [support, 512], whole numbers below 3 [support])
    """

    def __init__(self, *shape: int | str, below: int | None = None) -> None:
        self.shape, self.below = shape, below

    def __repr__(self) -> str:
        kind = "numbers" if self.below is None else f"whole numbers below {self.below}"
        return f"{kind} [{', '.join(map(str, self.shape))}]"


def check_declared(tensors: Mapping[str, Tensor], declared: Mapping[str, Declared]) -> None:
    """Refuse tensors that are not those that are declared.

    Raises ShotfitError that says which is missing, unknown, or of another shape or kind, without naming the file.
    """
    for names, what in (
        (sorted(declared.keys() - tensors.keys()), "lacks"),
        (sorted(tensors.keys() - declared.keys()), "has no place for"),
    ):
        if names:
            raise ShotfitError(f"{what} {first_few(names)}")
    free: dict[str, int] = {}
    for name, expected in declared.items():
        tensor = tensors[name]
        sizes = [free.setdefault(size, own) if isinstance(size, str) else size
                 for size, own in zip(expected.shape, tensor.shape, strict=False)]  # fmt: skip
        if tensor.dim() != len(expected.shape) or sizes != list(tensor.shape):
            known = ", ".join(str(free.get(size, size) if isinstance(size, str) else size) for size in expected.shape)
            raise ShotfitError(f"has {name} of shape {list(tensor.shape)}, where [{known}] is expected")
        if expected.below is None and tensor.dtype not in FLOATING:
            raise ShotfitError(f"has {name} of {_kind(tensor)}, where float32 is expected")
        if expected.below is not None and tensor.dtype != torch.int64:
            raise ShotfitError(f"has {name} of {_kind(tensor)}, where int64 is expected")
        if expected.below is not None and not bool(((tensor >= 0) & (tensor < expected.below)).all()):
            raise ShotfitError(f"has a number in {name} that is not from 0 to {expected.below - 1}")


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
