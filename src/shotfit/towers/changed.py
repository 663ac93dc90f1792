"""A step of a tower with other values of some of its weights (`Weights`).

The frozen modules stay as they are: a step runs a copy that shares all of its tensors but those that are given, so that
several models may run on one tower at once, in threads too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from shotfit.towers.edits import Edit, Factors, Weights
from shotfit.towers.int8 import Int8
from shotfit.towers.linear import Int8Linear, Matrix

__all__ = ["changed", "merged", "parameters_at", "step_of", "weight_of"]

THIRDS = ("query", "key", "value")  # of the joint matrix `qkv`
BEGINS = {"embedding", "token_embedding", "positions", "token_type", "embedding_norm", "stem"}  # what step 0 runs
STEPS = ("blocks", "stages")
M = TypeVar("M", bound=nn.Module)


def changed(module: M, step: int, edits: Sequence[Edit]) -> M:
    """The module that runs a step (the tower itself, for its first and last), with the values of all edits there."""
    values: dict[str, Tensor | Factors] = {}
    for edit in edits:
        if isinstance(edit, Weights) and edit.step == step:
            values |= edit.values
    return _copy(module, _whole(module, values)) if values else module


def merged(tower: nn.Module, edit: Weights) -> Weights:
    """The same edit with every matrix put together, for a prediction."""
    found = _whole(step_of(tower, edit.step), edit.values)
    whole = {name: value.merged() if isinstance(value, Matrix) else value for name, value in found.items()}
    return Weights(edit.tower, edit.step, whole)


def step_of(tower: nn.Module, step: int) -> nn.Module:
    """The module within which a step's weights have their names: a block or stage, or the tower."""
    steps = next(child for name, child in tower.named_children() if name in STEPS)
    assert isinstance(steps, nn.ModuleList)
    return steps[step - 1] if 1 <= step <= len(steps) else tower


def parameters_at(tower: nn.Module, step: int) -> dict[str, Tensor]:
    """What a training may change of a step, by name: no statistics of batch norms, no table of rotations."""
    module = step_of(tower, step)
    every: dict[str, Tensor] = dict(module.named_parameters())
    for name, child in module.named_modules():
        if isinstance(child, Int8Linear):
            every[f"{name}.weight"] = child.kept.whole()
    found = {name: value for name, value in every.items() if not name.rpartition(".")[2].startswith("runn")}
    if module is not tower:
        return found
    return {
        name: value
        for name, value in found.items()
        if (root := name.partition(".")[0]) not in (*STEPS, "rotation") and (root in BEGINS) == (step == 0)
    }


def weight_of(tower: nn.Module, step: int, name: str) -> Tensor:
    """The frozen value of a weight, by its name in `Weights`."""
    joint, rows = _place(module := step_of(tower, step), name)
    weight = _frozen(module, joint)
    weight = weight[rows] if rows else weight
    return weight.whole() if isinstance(weight, Int8) else weight.detach()


def _whole(module: nn.Module, values: Mapping[str, Tensor | Factors]) -> dict[str, Tensor | Matrix]:
    """Values by the names of whole parameters, in the parameters' precision."""
    pieces: dict[str, dict[int, Tensor | Factors]] = {}
    for name, value in values.items():
        joint, rows = _place(module, name)
        frozen = _frozen(module, joint)
        frozen = frozen[rows] if rows else frozen
        if value.shape != frozen.shape:
            raise ValueError(f"{name} has the shape {list(frozen.shape)}, but was given {list(value.shape)}")
        pieces.setdefault(joint, {})[rows.start if rows else 0] = value
    return {name: _joined(_frozen(module, name), parts) for name, parts in pieces.items()}


def _frozen(module: nn.Module, name: str) -> Tensor | Int8:
    """A parameter, or a matrix in 8 bits, by its name."""
    parent, _, leaf = name.rpartition(".")
    found: Tensor | Int8 = getattr(module.get_submodule(parent), leaf)
    return found


def _place(module: nn.Module, name: str) -> tuple[str, slice | None]:
    """The parameter that holds a weight, and which rows of it, if it is a third of a joint one."""
    parent, _, leaf = name.rpartition(".")
    above, _, own = parent.rpartition(".")
    if own not in THIRDS or not hasattr(module.get_submodule(above), "qkv"):
        return name, None
    joint = f"{above}.qkv.{leaf}"
    size, number = len(_frozen(module, joint)) // 3, THIRDS.index(own)
    return joint, slice(number * size, (number + 1) * size)


def _joined(frozen: Tensor | Int8, parts: Mapping[int, Tensor | Factors]) -> Tensor | Matrix:
    """A parameter of which rows from some on have other values.

    One in 8 bits stays so where all of them are factors; else the others of its rows become float32.
    """
    factors = [(first, value) for first, value in sorted(parts.items()) if isinstance(value, Factors)]
    if isinstance(frozen, Int8):
        if len(factors) == len(parts):
            return _with_factors(frozen, factors)
        frozen = frozen.whole()
    reached, rows = 0, list[Tensor]()
    for first, value in sorted(parts.items()):
        if isinstance(value, Factors):
            continue
        if len(parts) == 1 and value.shape == frozen.shape:
            return value.to(frozen.dtype)
        rows += [frozen[reached:first], value.to(frozen.dtype)]
        reached = first + len(value)
    weight = torch.cat([*rows, frozen[reached:]]) if rows else frozen
    return _with_factors(weight, factors) if factors else weight


def _with_factors(weight: Tensor | Int8, factors: Sequence[tuple[int, Factors]]) -> Matrix:
    if len(factors) > 1 and all(one.beside and one.gains is None for _, one in factors):
        factors = [(0, _side_by_side(len(weight), factors))]
    return Matrix(weight, tuple(factors))


def _side_by_side(rows: int, parts: Sequence[tuple[int, Factors]]) -> Factors:
    """Factors of several parts of a matrix as one: tokens are read once for all of them."""
    columns, ups = sum(len(one.down) for _, one in parts), list[Tensor]()
    before = reached = 0
    for first, one in parts:
        rank, up = len(one.down), one.up
        ups += [up.new_zeros(first - reached, columns), nn.functional.pad(up, (before, columns - before - rank))]
        before, reached = before + rank, first + len(up)
    return Factors(
        torch.cat([*ups, ups[0].new_zeros(rows - reached, columns)]), torch.cat([one.down for _, one in parts])
    )


def _copy(module: M, values: Mapping[str, Tensor | Matrix]) -> M:
    other: M = object.__new__(type(module))
    parameters, modules = dict(module._parameters), dict(module._modules)
    other.__dict__.update(module.__dict__, _parameters=parameters, _modules=modules)
    below: dict[str, dict[str, Tensor | Matrix]] = {}
    for name, value in values.items():
        child, _, rest = name.partition(".")
        if rest:
            below.setdefault(child, {})[rest] = value
        else:
            parameters[child] = value  # type: ignore[assignment]
    for child, inner in below.items():
        modules[child] = _copy(module.get_submodule(child), inner)
    return other
