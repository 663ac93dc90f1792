"""A comparison runs every cell once, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import Tensor

from shotfit.data.tasks import Task
from shotfit.engine.frozen import ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare
from shotfit.evaluation.rows import Row, summarize
from shotfit.evaluation.table import selections, table
from shotfit.fitting.fit import fit
from shotfit.methods import address, find
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import Preprocessing
from shotfit.towers.edits import Edit
from shotfit.towers.layout import Savings, Stream
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import TextTransformer, VisionTransformer

METHODS = ("zero_shot", "tip_adapter")
OWN = """
from shotfit.methods.zero_shot import ZeroShot

class Own(ZeroShot):
    def text_features(self):
        features = super().text_features()
        return {sign} * features
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("task"))


class Runs(list[Mapping[str, Any]]):
    """Collects what `compare` reports."""

    @property
    def resumed(self) -> list[bool]:
        return [run["resumed"] for run in self]


def run(task: Task, backbone: Backbone, out: Path | None, methods: tuple[str, ...] = METHODS) -> tuple[list[Row], Runs]:
    runs = Runs()
    store = MemoryStore()
    rows = compare(task, methods, [1, 2], [1, 2], backbone=backbone, store=store, out=out, report=runs.append)
    return rows, runs


def test_second_comparison_fits_nothing(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    first, _ = run(task, backbone, tmp_path / "runs.jsonl")
    second, runs = run(task, backbone, tmp_path / "runs.jsonl")
    assert all(runs.resumed)
    assert second == first


def test_validation_part_is_used_in_full_if_asked(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    split = replace(task, val=task.train)
    runs = Runs()
    choices: tuple[Literal["few", "full"], ...] = ("few", "full")
    for validation in choices * 2:
        compare(split, ["tip_adapter"], [1], backbone=backbone, store=MemoryStore(), validation=validation,
                out=tmp_path / "runs.jsonl", report=runs.append)  # fmt: skip
    few, full = len(split.shots(1, 1).val), len(split.val)
    assert few < full
    said = [f"validation part ({few} images)", f"full validation part ({full} images)"]
    assert [run["selection"] for run in runs] == said * 2
    assert runs.resumed == [False, False, True, True]


def test_validation_in_full_needs_a_validation_part(task: Task, backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="has no validation part that could be used in full"):
        compare(task, ["zero_shot"], [1], backbone=backbone, store=MemoryStore(), validation="full")


def test_run_whose_line_was_cut_off_is_done_again(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    run(task, backbone, out)
    out.write_bytes(out.read_bytes()[:-20])
    _, runs = run(task, backbone, out)
    assert runs.resumed == [True] * 7 + [False]
    assert run(task, backbone, out)[1].resumed == [True] * 8


def test_first_line_may_be_cut_off_and_broken_lines_run_again(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    run(task, backbone, out)
    lines = out.read_text().splitlines()
    out.write_text(lines[0][:40])
    assert not any(run(task, backbone, out)[1].resumed)
    broken = json.loads(lines[0]) | {"scores": {"task0": {"accuracy": "high"}}}
    out.write_text("\n".join([json.dumps(broken), *lines[1:]]) + "\n")
    assert run(task, backbone, out)[1].resumed == [False] + [True] * 7


def test_file_that_cannot_be_written_is_refused_before_any_fit(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runs = Runs()
    with pytest.raises(ShotfitError, match="cannot be written"):
        compare(task, ["zero_shot"], [1], backbone=backbone, out=tmp_path / "file" / "runs.jsonl", report=runs.append)
    assert not runs


def test_other_images_are_not_taken_for_the_same(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    run(task, backbone, tmp_path / "runs.jsonl")
    _, runs = run(replace(task, held_out=task.test[1:]), backbone, tmp_path / "runs.jsonl")
    assert not any(runs.resumed)


def test_new_method_joins_finished_runs(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    run(task, backbone, tmp_path / "runs.jsonl", METHODS[:1])
    _, runs = run(task, backbone, tmp_path / "runs.jsonl")
    assert runs.resumed == [True] * 4 + [False] * 4


def test_file_of_something_else_is_not_touched(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "letter.txt"
    out.write_text("Dear reader,\n")
    with pytest.raises(ShotfitError, match=r"is not a file of finished runs"):
        run(task, backbone, out)
    assert out.read_text() == "Dear reader,\n"


@pytest.mark.parametrize("what", ["methods", "shots", "seeds"])
def test_nothing_to_compare_is_refused(task: Task, backbone: Backbone, what: str) -> None:
    given: dict[str, Any] = {"methods": ["zero_shot"], "shots": [1], "seeds": [1], what: []}
    with pytest.raises(UsageError, match=f"There are no {what} to compare: give at least one"):
        compare(task, backbone=backbone, store=MemoryStore(), **given)


def test_unknown_method_is_refused_before_any_fit(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean zero_shot"):
        run(task, backbone, tmp_path / "runs.jsonl", ("tip_adapter", "zeroshot"))
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("mma+end=40", "end is 40, but the text tower has"),
        ("apex+rank=100000", "rank is 100000"),
        ("coop_mt+length=80", "a context of 80 and the longest name take"),
        ("softcpt+task_length=80", "a context of 80 and the longest name take"),
        ("mma+prefix=<end>", "holds the special token"),
        ("apex+template=<end> {}", "holds the special token"),
        ("dualadapter+negative_templates=<end> {}", "holds the special token"),
        ("dualadapter+left_out=9", "left_out is 9"),
        ("dualadapter+descriptions=nowhere.json", "nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_any_fit(
    task: Task, backbone: Backbone, tmp_path: Path, method: str, sentence: str
) -> None:
    with pytest.raises(ShotfitError, match=sentence):
        run(task, backbone, tmp_path / "runs.jsonl", ("zero_shot", method))
    assert not (tmp_path / "runs.jsonl").exists()


def test_training_that_diverges_is_a_dash(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    methods = ["zero_shot", "clip_adapter+lr=1e30+epochs=5"]
    settings: dict[str, Any] = {"backbone": backbone, "store": MemoryStore(), "out": tmp_path / "runs.jsonl"}
    for resumed in (False, True):
        runs = Runs()
        rows = compare(task, methods, [1], [1, 2], report=runs.append, **settings)
        assert runs.resumed == [resumed] * 4
        assert {row.method for row in rows} == {"zero_shot"}
    assert str(runs[-1]["refusal"]).startswith("clip_adapter+lr=1e30+epochs=5, 1 shot, seed 2: clip_adapter did not")


def test_same_settings_under_two_names_are_fitted_once(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    methods = ("coop+length=2+epochs=1", "coop+epochs=1+length=2")
    rows, runs = run(task, backbone, tmp_path / "runs.jsonl", methods)
    assert runs.resumed == [False] * 4 + [True] * 4
    assert [row.method for row in rows] == [methods[0]] * 2 + [methods[1]] * 2
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 4


def test_method_files_of_one_name_are_not_mixed_up(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    methods = []
    for folder, sign in (("first", 1), ("second", -1)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "own.py"
        file.write_text(OWN.format(sign=sign))
        methods.append(f"{file}:Own")
        assert address(find(methods[-1])) == methods[-1]  # not that of the method whose name it has
    for _ in range(2):
        rows, _ = run(task, backbone, tmp_path / "runs.jsonl", tuple(methods))
        first, second = ([row.mean for row in rows if row.method == method] for method in methods)
        assert first != second
    assert address(find(methods[0])) == methods[0]


def test_names_that_are_no_text_and_lines_in_names_are_found_again(
    task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    odd = replace(task, classes=replace(task.classes, task="b\udce9rds\u2028"))
    run(odd, backbone, tmp_path / "runs.jsonl")
    assert all(run(odd, backbone, tmp_path / "runs.jsonl")[1].resumed)


def test_changed_descriptions_run_again(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    sentences = tmp_path / "sentences.json"
    resumed = []
    for word in ("old", "old", "new"):
        sentences.write_text(json.dumps({name: [f"{word} {name}"] for name in task.classes.names}))
        method = f"dualadapter+training_free=true+descriptions={sentences}"
        _, runs = run(task, backbone, tmp_path / "runs.jsonl", (method,))
        resumed.append(all(runs.resumed))
    assert resumed == [False, True, False]


def test_table_names_what_methods_chose_by(task: Task, backbone: Backbone) -> None:
    rows, _ = run(task, backbone, None)
    assert selections(rows) == [
        "selection of tip_adapter (1 shot): fixed defaults (no validation part and too few shots for cross-validation)",
        "selection of tip_adapter (2 shots): cross-validation of the support images (2 folds)",
    ]


def test_mean_and_spread_over_seeds() -> None:
    runs = [
        {"method": "m", "shots": 1, "seed": seed, "scores": {"t": {"accuracy": value, "images": 9}}, "seconds": 1.0}
        for seed, value in ((1, 0.5), (2, 0.7))
    ]
    (row,) = summarize(json.loads(json.dumps(runs)))
    assert [row.mean, row.spread] == pytest.approx([0.6, 0.1414213])
    assert table([row]) == ["method       1 shot", "m       60.0 ± 14.1"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each view of an image was read, how many went through the tower, how often each frozen text did."""
    counted: Counter[str] = Counter()
    pixels, start, begin = ImagePool.pixels, VisionTransformer.start, TextTransformer.start

    def count_pixels(pool: ImagePool, rows: tuple[int, ...], rule: Preprocessing, reduced: bool) -> list[Tensor]:
        counted.update(pool.keys()[row] for row in rows)
        return pixels(pool, rows, rule, reduced)

    def count_images(
        tower: VisionTransformer, batch: Tensor, edits: Sequence[Edit] = (), savings: Savings = Savings()
    ) -> Stream:
        counted["encoded"] += len(batch)
        return start(tower, batch, edits, savings)

    def count_texts(
        tower: TextTransformer, texts: Texts, edits: Sequence[Edit] = (), savings: Savings = Savings()
    ) -> Stream:
        counted.update(f"text {ids}" for ids in texts.rows if not edits)
        return begin(tower, texts, edits, savings)

    monkeypatch.setattr(ImagePool, "pixels", count_pixels)
    monkeypatch.setattr(VisionTransformer, "start", count_images)
    monkeypatch.setattr(TextTransformer, "start", count_texts)
    return counted


@pytest.mark.slow
def test_comparison_and_checked_fits_after_it_read_and_encode_nothing_twice(
    task: Task, backbone: Backbone, computed: Counter[str]
) -> None:
    methods, store = ("zero_shot", "tip_adapter_f", "taskres", "coop"), MemoryStore()
    compare(task, methods, [1, 2], [1, 2], backbone=backbone, epochs=1, store=store)
    for method in methods:
        epochs = 1 if find(method).recipe else None
        fit(task, method, shots=4, epochs=epochs, backbone=backbone, store=store)  # four folds each
    encoded = computed.pop("encoded")
    assert set(computed.values()) == {1}
    assert encoded == sum(not key.startswith("text") for key in computed)


def test_race_is_a_row_of_its_own(task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter"))
    monkeypatch.setattr("shotfit.fitting.race.WITH_NEW_CLASSES", ("zero_shot",))
    runs = Runs()
    rows = compare(
        task, ["auto", "zero_shot", "tip_adapter"], [2], [1], backbone=backbone, store=MemoryStore(), report=runs.append
    )
    scores = {row.method: row.mean for row in rows}
    fitted = fit(task, method="auto", shots=2, seed=1, backbone=backbone, keep=True, store=MemoryStore())
    assert runs[0]["fitted_method"] == fitted.record["fitted_method"]
    assert scores["auto"] in {scores["zero_shot"], scores["tip_adapter"]} or fitted.method.name == "ensemble"
    new = compare(task, ["auto", "zero_shot"], [2], [1], protocol="base-to-new", backbone=backbone, store=MemoryStore())
    assert {row.column for row in new if row.method == "auto"} == {row.column for row in new}


@pytest.mark.parametrize("method, given", [("auto+lr=0.1", {}), ("auto", {"lr": 0.1}), ("auto", {"epochs": 3})])
def test_race_takes_no_settings(task: Task, backbone: Backbone, method: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"auto tries several methods, but (lr|epochs) is given"):
        compare(task, [method], backbone=backbone, store=MemoryStore(), **given)
