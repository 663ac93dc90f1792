"""The benchmarks compare like with like: both manners give the same loss and take the same steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import BENCHMARKS
from benchmarks.measure import Timing, check_same
from benchmarks.names import CALTECH101, TASKS
from benchmarks.sizes import TINY
from benchmarks.steps import METHODS, pair
from shotfit.errors import ShotfitError


@pytest.mark.parametrize("fresh", [False, True], ids=["stored", "fresh"])
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_agree_with_the_reference_manner(name: str, fresh: bool, tmp_path: Path) -> None:
    both = pair(name, TINY, TINY.backbone().double(), tmp_path, fresh)
    assert both.same() < 1e-9
    for _ in range(20):
        ours, reference = both.step(), both.reference_step()
        assert float((ours - reference).abs() / reference.abs()) < 1e-9
    expected = dict(both.reference.named_parameters())
    assert check_same(dict(both.ours.named_parameters()), expected, 1e-9) > 0  # not the same tensors


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_gives_its_line(name: str) -> None:
    found = BENCHMARKS[name](TINY, 1)
    assert found["name"] == name
    assert found.keys() >= {"value", "unit", "target", "sizes", "dtype", "machine"}
    if "ratio" in found:
        assert found["value"] == found["ratio"] == pytest.approx(found["reference_s"] / found["ours_s"])


def test_what_differs_is_not_timed() -> None:
    with pytest.raises(ShotfitError, match=r"context of ours differs by 1\.0e\+00 of .* nothing was timed\."):
        check_same({"context": torch.zeros(2)}, {"context": torch.ones(2)}, 1e-3)


def test_ratio_is_the_median_of_the_pairs() -> None:
    assert Timing([1.0, 2.0, 4.0], [3.0, 4.0, 20.0]).fields()["ratio"] == 3.0


def test_names_are_as_many_as_said() -> None:
    assert len(set(CALTECH101)) == 100
    assert [len(task.names) for task in TASKS] == [100, 43, 17, 40]
