"""Shots, base classes and new classes equal those that the official program draws."""

from __future__ import annotations

import pytest
from torch import Tensor

from shotfit.data.shots import base_and_new, draw, renumbered

from .cases import Case, cases


def is_shots(case: Case) -> bool:
    return bool(case.meta["variant"] == "shots")


def labels(case: Case, part: str) -> list[int]:
    return ints(case[f"in/{part}_labels"])


def ints(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor]


@pytest.mark.parametrize("case", cases("coop", is_shots))
def test_shots_are_those_of_the_official_program(case: Case) -> None:
    train, val = labels(case, "train"), labels(case, "val")
    for seed in case.settings["seeds"]:
        for shots in case.settings["shots"]:
            recorded = case.under(f"out/seed{seed}/shots{shots}/")
            drawn = draw(train, val, shots, seed)
            assert drawn == (ints(recorded["train"]), ints(recorded["val"])), f"seed {seed}, {shots} shots"


@pytest.mark.parametrize("case", cases("coop", is_shots))
def test_base_and_new_classes_are_those_of_the_official_program(case: Case) -> None:
    lists = {part: labels(case, part) for part in ("train", "val", "test")}
    settings = case.settings
    train, val = draw(lists["train"], lists["val"], settings["base_new_shots"], settings["base_new_seed"])
    drawn = {"train": train, "val": val, "test": list(range(len(lists["test"])))}
    groups = base_and_new(lists["train"][position] for position in train)
    for group, kept in zip(("base", "new"), groups, strict=True):
        recorded = case.under(f"out/{group}/")
        for part, positions in drawn.items():
            chosen, new_labels = renumbered([lists[part][position] for position in positions], kept)
            assert [positions[i] for i in chosen] == ints(recorded[part]), f"{group} {part}"
            assert new_labels == ints(recorded[f"{part}_labels"]), f"{group} {part} labels"
