"""What the layers of a tower know: every level in one run, what it tells, the gap, and the command that shows them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from shotfit.analysis.layers import Layers, Level, layers
from shotfit.checkpoints.weights import load_in
from shotfit.commands.analyze import GROUP
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.layers import image_levels, text_levels
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.methods.levels import alignment, first_block, told_apart
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .encoders import Both
from .test_cli import Shell, one_line, shell

__all__ = ["shell"]

KINDS = ("vit", "resnet", "siglip", "bert_mean")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """Two data sets of unlike pictures and names."""
    folder = tmp_path_factory.mktemp("sets")
    return [
        tiny_task(folder / "colors", ("red", "green", "blue"), images=5),
        tiny_task(folder / "things", ("a long name of a thing", "another long name of a thing"), images=8, seed=1),
    ]


def levels_of(folder: Path, kind: str, task: Task) -> tuple[Frozen, list[torch.Tensor], list[torch.Tensor]]:
    frozen = Frozen(tiny_backbone(folder / kind, kind), MemoryStore())
    texts = frozen.encode(["a red thing", "a much longer name of a thing"])
    return frozen, image_levels(frozen, ImagePool(task.train)), text_levels(frozen, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_end_in_the_towers_features(tmp_path: Path, tasks: list[Task], kind: str) -> None:
    frozen, images, texts = levels_of(tmp_path, kind, tasks[0])
    assert (len(images), len(texts)) == (frozen.backbone.image.last + 1, frozen.backbone.text.last + 1)
    torch.testing.assert_close(images[-1], frozen.image(ImagePool(tasks[0].train).all()))
    torch.testing.assert_close(texts[-1], frozen.text(frozen.encode(["a red thing", "a much longer name of a thing"])))


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_level_is_the_read_token_or_the_mean_where_all_are_read(tmp_path: Path, tasks: list[Task], kind: str) -> None:
    frozen, images, _ = levels_of(tmp_path, kind, tasks[0])
    (pixels,) = frozen.pixels(ImagePool(tasks[0].train), [0, 1])
    tokens = frozen.backbone.image.run(frozen.backbone.image.start(pixels), until=2).hidden.view(2, -1, 16)
    torch.testing.assert_close(images[2][:2], tokens[:, 0] if kind == "vit" else tokens.mean(dim=1))


@pytest.mark.parametrize("kind", ["vit", "bert_mean"])
def test_level_of_a_text_does_not_depend_on_longer_ones(tmp_path: Path, tasks: list[Task], kind: str) -> None:
    frozen, _, texts = levels_of(tmp_path, kind, tasks[0])
    for level, own in zip(texts, text_levels(frozen, frozen.encode(["a red thing"])), strict=True):
        torch.testing.assert_close(level[:1], own)


def test_second_look_decodes_no_image(tmp_path: Path, tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, images, _ = levels_of(tmp_path, "vit", tasks[0])
    monkeypatch.setattr(ImagePool, "pixels", None)
    assert torch.equal(image_levels(frozen, ImagePool(tasks[0].train))[0], images[0])


def test_what_is_apart_is_told_and_noise_is_not() -> None:
    labels, noise = [0] * 40 + [1] * 40, torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    apart = noise + 20 * torch.tensor(labels)[:, None]
    assert told_apart(apart, labels, seed=1) == 1
    assert told_apart(1e4 * apart, labels, seed=1) == 1
    assert 0.3 < told_apart(noise, labels, seed=1) < 0.7


def test_where_nothing_can_be_held_out_nothing_is_known() -> None:
    assert math.isnan(told_apart(torch.randn(4, 3), [0, 0, 1, 1], 1, ["a", "a", "b", "b"]))


def test_large_data_set_counts_no_more_than_a_small_one() -> None:
    labels = [0] * 180 + [1] * 20
    assert told_apart(torch.zeros(200, 3), labels, seed=1) == 0.5


def test_alignment_does_not_depend_on_width_turn_or_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, 8, generator=generator)
    turned = 3 * features @ torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    assert alignment(features, torch.cat([turned, torch.zeros(30, 5)], dim=1)) == pytest.approx(1, abs=1e-6)
    others = [alignment(features, torch.randn(30, 500, generator=generator)) for _ in range(20)]
    assert abs(sum(others) / 20) < 0.05
    assert alignment(features, torch.ones(30, 4)) == 0


@pytest.mark.parametrize(
    ("told", "start"), [([0.2, 0.3, 0.8, 0.9], 2), ([0.2, 0.9, 0.9], 1), ([0.5, 0.5, 0.5], 1), ([0.9, 0.2, 0.3], 2)]
)
def test_block_to_start_at_is_where_half_is_gained(told: list[float], start: int) -> None:
    assert first_block(told) == start


def test_data_sets_that_look_unlike_are_told_at_every_level(tmp_path: Path, tasks: list[Task]) -> None:
    found = layers(Frozen(tiny_backbone(tmp_path), MemoryStore()), tasks, seeds=(1, 2))
    assert [(level.image, level.text) for level in found.levels] == [
        ("embedding", ""), ("block 1", "embedding"), ("block 2", "block 1"), ("block 3", "block 2"),
        ("block 4", "block 3"), ("features", "features"),
    ]  # fmt: skip
    assert found.samples == (("colors", 12, 3), ("things", 12, 2)) and found.chance == 0.5
    assert all(len(level.image_told) == 2 and min(level.image_told) >= 0 for level in found.levels)
    assert found.levels[0].gap is None and all(level.gap is not None for level in found.levels[1:])
    assert 1 <= found.start <= 3


def test_images_are_drawn_evenly_over_the_classes(tmp_path: Path, tasks: list[Task]) -> None:
    found = layers(Frozen(tiny_backbone(tmp_path), MemoryStore()), tasks, seeds=(1,), images=6)
    assert [images for _, images, _ in found.samples] == [6, 6]


def test_findings_are_held_against_the_paper() -> None:
    def level(image: float, text: float, gap: float) -> Level:
        return Level("block", "block", (image,), (text,), gap)

    samples = (("x", 2, 2), ("y", 2, 2))
    as_there = Layers("b", samples, (1,), (level(0.5, 0.6, 0.9), level(0.8, 0.9, 0.5)), 1)
    assert [one.holds for one in as_there.findings()] == [True] * 4
    turned = Layers("b", samples, (1,), (level(0.8, 0.7, 0.5), level(0.5, 0.5, 0.9)), 1)
    assert [one.holds for one in turned.findings()] == [False] * 4


def test_finding_that_the_seeds_do_not_bear_out_does_not_hold() -> None:
    first = Level("block 1", "block 1", (0.4, 0.5), (0.4, 0.5), None)
    last = Level("block 2", "block 2", (0.5, 0.6), (0.8, 0.9), None)
    image, text, _ = Layers("b", (("x", 2, 2), ("y", 2, 2)), (1, 2), (first, last), 1).findings()
    assert (image.holds, text.holds) == (False, True)


def test_what_cannot_be_judged_is_refused(tmp_path: Path, tasks: list[Task]) -> None:
    frozen = Frozen(tiny_backbone(tmp_path / "b"), MemoryStore())
    with pytest.raises(UsageError, match="name two or more"):
        layers(frozen, tasks[:1])
    with pytest.raises(ShotfitError, match="lone has a single training image or class"):
        layers(frozen, [tasks[0], tiny_task(tmp_path / "lone", ["one"], images=3)])


def run(shell: Shell, tmp_path: Path, tasks: list[Task], *words: object) -> Any:
    tiny_backbone(tmp_path / "backbone")
    places = [task.source for task in tasks]
    return shell("analyze", "layers", *places, "--backbone", tmp_path / "backbone", *words)


def test_command_prints_a_level_a_row_and_what_follows(shell: Shell, tmp_path: Path, tasks: list[Task]) -> None:
    result = run(shell, tmp_path, tasks, "--seeds", "1,2")
    assert result.code == 0, result.err
    lines = [line for line in result.out.splitlines() if line.startswith(("embedding", "block", "features"))]
    assert len(lines) == 6 and " ± " in lines[0]
    assert result.out.splitlines()[-1].startswith("mma on this backbone: --set start=")


def test_json_and_plots_have_all_of_it(shell: Shell, tmp_path: Path, tasks: list[Task]) -> None:
    result = run(shell, tmp_path, tasks, "--json", "--plot", tmp_path / "layers.svg")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["seeds"] == [1, 2, 3] and len(found["levels"][1]["text"]["told"]) == 3
    assert found.keys() == {"backbone", "data_sets", "seeds", "chance", "levels", "start", "findings"}
    assert (tmp_path / "layers.svg").read_text().startswith("<?xml")
    assert run(shell, tmp_path, tasks, "--plot", tmp_path / "layers.png").code == 0
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Missing argument FOLDER"),
        (["colors"], "is one data set"),
        (["colors", "things", "--plot", "a.pdf"], "ends in .svg or .png"),
        (["colors", "things", "--plot", "nowhere/a.svg"], "there is no folder nowhere"),
        (["colors", "things", "--images", "1"], "--images"),
        (["colors", "things", "--seeds", "x"], "--seeds"),
        (["colors", "--tasks", "tasks.toml"], "give one of them"),
    ],
)
def test_wrong_usage_is_one_line(shell: Shell, words: list[str], sentence: str) -> None:
    result = shell("analyze", "layers", *words)
    assert result.code == 2 and sentence in one_line(result)


@pytest.mark.parametrize("command", [command.__name__ for command in GROUP])
def test_help_of_every_analysis_has_an_example_and_the_exit_codes(shell: Shell, command: str) -> None:
    result = shell("analyze", command, "--help")
    assert result.code == 0 and f"shotfit analyze {command}" in result.out.split("Example")[1]
    assert "130  interrupted" in result.out


def test_one_data_set_twice_is_one_line(shell: Shell, tmp_path: Path, tasks: list[Task]) -> None:
    result = run(shell, tmp_path, [tasks[0], tasks[0]])
    assert result.code == 2 and "Two tasks are called 'colors'" in one_line(result)


def test_closed_encoders_are_refused(tasks: list[Task]) -> None:
    with pytest.raises(UsageError, match="is closed: nothing can be seen between its steps"):
        layers(Frozen(load_in(Both(), "float32"), MemoryStore()), tasks)
