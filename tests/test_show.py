"""What `shotfit show` says of the calls of the towers is what was chosen from ids and edits."""

from __future__ import annotations

import pytest

from shotfit.commands.describe import describe
from shotfit.errors import UsageError
from shotfit.methods import Grid, find
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("show"))


CHOSEN = {
    "frozen_beginning": ("taskres", {}, "all frozen: its features are computed once and stored"),
    "cut": ("coop", {"length": "4"}, "tokens run instead of 231 padded ones"),
    "shared": ("coop", {"length": "4"}, "shared beginning: 5 tokens run once for 3 texts"),
    "read_alone": ("coop", {"length": "4"}, "the last block runs for the read token alone"),
    "replaced": ("apex", {"visual_tokens": "3"}, "keys and values only: 9 prompt tokens of an image"),
    "silu": ("mma", {}, "QuickGELU runs as SiLU"),
}


@pytest.mark.parametrize("saving", CHOSEN)
def test_each_saving_is_told_where_it_is_used(backbone: Backbone, saving: str) -> None:
    method, options, words = CHOSEN[saving]
    used = "\n".join(describe(method, backbone, options))
    off = "\n".join(describe(method, backbone, options, savings=Savings.without([saving])))
    assert words in used
    assert saving == "cut" or words not in off
    assert saving != "cut" or "231 tokens run instead of 231" in off


def test_what_auto_chooses_is_told_with_its_reasons(backbone: Backbone) -> None:
    lines = describe("taskres", backbone)
    grid = find("taskres").grid
    assert grid is not None
    for axis in grid.axes:
        (line,) = [line for line in lines if line.endswith(axis.reason)]
        values = ", ".join(f"{value:g}" for value in axis.values)
        assert line.split(maxsplit=1) == [axis.name, line.split(maxsplit=1)[1]] and values in line
    robust = ", ".join(f"{name}={value:g}" for name, value in grid.robust.items())
    assert f"  where none can be held out: {robust}" in lines


def test_option_that_is_given_is_not_told_to_be_chosen(backbone: Backbone) -> None:
    reasons = {axis.name: axis.reason for axis in (find("taskres").grid or Grid((), {})).axes}
    told = "\n".join(describe("taskres", backbone, {"alpha": "0.5"}))
    assert reasons["alpha"] not in told and reasons["lr"] in told


@pytest.mark.parametrize(
    ("method", "options"), [("linear_probe", {}), ("zero_shot", {}), ("dualadapter", {"training_free": "true"})]
)
def test_method_without_a_choice_says_so(backbone: Backbone, method: str, options: dict[str, str]) -> None:
    assert "Recipe auto: chooses nothing" in describe(method, backbone, options)


def test_ensemble_is_not_shown_as_a_method(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="ensemble is made by --method auto"):
        describe("ensemble", backbone)


def test_input_of_a_block_is_told_to_be_kept(backbone: Backbone) -> None:
    assert "computed once and stored with its input" in "\n".join(describe("mma", backbone))


def test_chunks_are_told(backbone: Backbone) -> None:
    assert "3 chunks, each run again in the backward pass" in "\n".join(describe("mma", backbone, memory=1))
