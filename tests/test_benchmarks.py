"""The benchmarks compare like with like: both manners give the same loss and take the same steps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import ABOUT, BENCHMARKS
from benchmarks.clip_folder import byte_pairs
from benchmarks.measure import Timing, check_same
from benchmarks.names import CALTECH101, TASKS
from benchmarks.plot import HEIGHT, WIDTH, draw
from benchmarks.sizes import TINY
from benchmarks.steps import METHODS, pair
from benchmarks.table import BEGIN, END
from shotfit.checkpoints.tokenizers import load_tokenizer
from shotfit.errors import ShotfitError

ROOT = Path(__file__).parent.parent
# its own tokenizer comes with it
WITH_MINI = {
    "whole_fit",
    "compare_seeds",
    "compare_jobs",
    "second_fit",
    "features_jpeg",
    "mini_images",
    "light_start",
    "serve_rate",
}

needs_clip = pytest.mark.skipif(
    importlib.util.find_spec("instant_clip_tokenizer") is None,
    reason="instant-clip-tokenizer has no wheel for this Python",
)


@needs_clip
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in WITH_MINI else pytest.param(name, marks=needs_clip) for name in BENCHMARKS]
)
def test_benchmark_gives_its_line(name: str) -> None:
    found = BENCHMARKS[name](TINY, 1)
    assert found["name"] == name
    assert found.keys() >= {"value", "unit", "target", "sizes", "dtype", "machine"}
    assert json.loads(json.dumps(found)) == found
    if "ratio" in found:
        assert found["value"] <= found["ratio"] == pytest.approx(found["reference_s"] / found["ours_s"])


def test_page_has_a_row_for_every_benchmark() -> None:
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    written = page.partition(BEGIN)[2].partition(END)[0]
    names = re.findall(r"^\| `(\w+)` \| (.*?) \|", written, re.MULTILINE)
    assert dict(names) == ABOUT


@needs_clip
def test_tokenizer_files_give_the_ids_of_the_package(tmp_path: Path) -> None:
    vocabulary, merges = byte_pairs()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    config = TINY.backbone(image_tower=False).config.text
    made, package = load_tokenizer(tmp_path, config, "clip"), load_tokenizer(None, config, "clip")
    assert made is not None and package is not None
    prompts = [f"a photo of a {name}." for task in TASKS for name in task.names]
    assert made.encode(prompts) == package.encode(prompts)


def test_picture_has_a_panel_for_every_curve() -> None:
    curve = {"title": "a", "x": "b", "series": {"ours": [(1, 0.5), (4, 2.0)], "reference": [(1, 3.0)]}}
    sheet = draw([curve, curve, curve])
    assert sheet.size == (2 * WIDTH, 2 * HEIGHT)
    panels = [sheet.crop((x, y, x + WIDTH, y + HEIGHT)) for y in (0, HEIGHT) for x in (0, WIDTH)]
    assert [panel.getextrema() != ((255, 255),) * 3 for panel in panels] == [True, True, True, False]


def test_what_differs_is_not_timed() -> None:
    with pytest.raises(ShotfitError, match=r"context of ours differs by 1\.0e\+00 of .* say nothing\."):
        check_same({"context": torch.zeros(2)}, {"context": torch.ones(2)}, 1e-3)


def test_ratio_is_the_median_of_the_pairs() -> None:
    assert Timing([1.0, 2.0, 4.0], [3.0, 4.0, 20.0]).fields()["ratio"] == 3.0


def test_names_are_as_many_as_said() -> None:
    assert len(set(CALTECH101)) == 100
    assert [len(task.names) for task in TASKS] == [100, 43, 17, 40]
