"""What a comparison says of its rows beside their accuracy: intervals, tests, costs, published figures, files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shotfit.commands.cli import main
from shotfit.data.tasks import Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare, plan_of
from shotfit.evaluation.costs import PeakMemory
from shotfit.evaluation.predictions import file_name
from shotfit.evaluation.protocols import plan_data_sets
from shotfit.evaluation.published import caption, published, with_published
from shotfit.evaluation.rows import Row, summarize
from shotfit.evaluation.runs import as_bits, as_text, read_runs
from shotfit.evaluation.table import cells, interval_lines, marks, table
from shotfit.evaluation.written import table_text
from shotfit.methods import METHODS
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

DOCS = Path(__file__).parent.parent / "docs"
NEW_KEYS = ("data", "targets", "templates", "settings", "date", "peak_memory", "model_bytes", "images_per_second")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("data") / "toys", ("ball", "doll", "kite"), images=6, seed=2)


def run(method: str, right: Sequence[int], seed: int = 1, **more: Any) -> dict[str, Any]:
    """A line of the file of runs, by which images are right."""
    bits = np.array(right, dtype=bool)
    score = {"accuracy": float(bits.mean()), "images": len(bits), "right": as_text(bits)}
    return {"method": method, "shots": 4, "seed": seed, "seconds": 1.0, "scores": {"photos": score}} | more


def without_right(line: dict[str, Any]) -> dict[str, Any]:
    scores = {column: {"accuracy": own["accuracy"], "images": own["images"]} for column, own in line["scores"].items()}
    return line | {"scores": scores}


def test_which_images_are_right_survives_the_file() -> None:
    for images in (1, 7, 8, 9, 100):
        right = np.random.default_rng(images).random(images) < 0.5
        assert as_bits({"images": images, "right": as_text(right)}).tolist() == right.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize("right", [None, 5, "", "!", "AAAA"])
def test_bits_that_are_missing_or_damaged_are_none(right: object) -> None:
    assert as_bits({"images": 9, "right": right}) is None


def test_rows_are_tested_against_the_best_of_their_column() -> None:
    rows = summarize([run("good", [1] * 40), run("near", [1] * 39 + [0]), run("bad", [1] * 20 + [0] * 20)])
    assert [row.standing for row in rows] == ["best", "alike", "worse"]
    assert [row.p for row in rows] == [None, 1.0, pytest.approx(2 * 2**-19)]  # twice by Holm
    lines = table(rows)
    assert [line.rstrip()[-1] for line in lines[1:]] == ["*", "~", "0"]
    assert lines[1].index("100.0") + 1 == lines[2].index("97.5") == lines[3].index("50.0")
    assert "Holm's correction for the table's 2 tests" in marks(rows)[1]


def test_columns_that_a_terminal_has_no_room_for_stand_below() -> None:
    more = {name: run("m", [1, 0])["scores"]["photos"] for name in ("photos", "flowers", "textures")}
    rows = summarize([run("m", [1, 0], scores=more)])
    assert [line.split() for line in table(rows, width=26)] == [
        ["4", "shots", "photos", "flowers"], ["m", "50.0", "50.0"], [], ["4", "shots", "textures"], ["m", "50.0"],
    ]  # fmt: skip
    assert len(table(rows)) == 2


def test_seeds_are_pooled_by_image() -> None:
    runs = [run(name, [1, 1, 0, 0] if name == "a" else [1, 0, 0, 0], seed) for name in "ab" for seed in (1, 2, 3)]
    assert summarize(runs)[1].p == 1.0  # one image, not three


def test_runs_of_an_older_version_are_shown_untested() -> None:
    rows = summarize([run("good", [1] * 40), without_right(run("old", [0] * 40)), run("bad", [0] * 40)])
    assert [row.standing for row in rows] == ["best", "untested", "worse"]
    assert rows[1].interval_by_image is None and rows[1].peak_memory is None
    assert any(line.startswith("? not tested") for line in marks(rows))
    older = summarize([without_right(run(name, [1, 0])) for name in ("a", "b")])
    assert marks(older) == [] and table(older) == ["method  4 shots", "a          50.0", "b          50.0"]


def test_single_row_is_not_tested() -> None:
    (row,) = summarize([run("alone", [1, 0, 1])])
    assert (row.standing, row.p) == ("", None)
    assert row.interval_by_image is not None and row.interval_by_seed is None
    assert interval_lines([row])[1].split()[0] == "alone"


def test_costs_are_the_largest_peak_and_the_sum_of_the_models() -> None:
    costs: list[dict[str, Any]] = [
        {"peak_memory": 5, "model_bytes": 100, "images_per_second": 10.0},
        {"peak_memory": 9, "model_bytes": 300},
    ]
    (row,) = summarize([run("m", [1], seed, **more) for seed, more in enumerate(costs)])
    assert (row.seconds, row.peak_memory, row.model_bytes, row.images_per_second) == (1.0, 9, 200, 10.0)


def test_peak_memory_counts_what_is_used_meanwhile() -> None:
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as peak:
        torch.ones(50_000_000).sum()
    with PeakMemory(torch.device("cpu")) as after:
        pass
    assert before.bytes and peak.bytes and after.bytes
    assert 190e6 < peak.bytes - before.bytes < 260e6
    assert after.bytes < peak.bytes - 150e6


def test_lines_of_runs_hold_data_settings_date_and_costs(photos: Task, backbone: Backbone, tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    methods = ["zero_shot", "coop+length=2"]
    rows = compare(photos, methods, [1], [1], backbone=backbone, epochs=1, store=MemoryStore(), out=out, speed=True)
    line = list(read_runs(out).values())[-1]
    assert line.keys() >= {*NEW_KEYS}
    assert line["data"] == [str(photos.source)]
    assert (line["settings"]["epochs"], line["settings"]["options"]["length"], line["settings"]["seed"]) == (1, 2, 1)
    assert rows[-1].images_per_second and rows[-1].model_bytes and rows[-1].peak_memory


def test_file_of_an_older_version_is_resumed(photos: Task, backbone: Backbone, tmp_path: Path) -> None:
    out, resumed = tmp_path / "runs.jsonl", list[bool]()
    methods = ["zero_shot", "tip_adapter"]
    compare(photos, methods, [1], [1], backbone=backbone, store=MemoryStore(), out=out)
    lines = [without_right(line) for line in read_runs(out).values()]
    older = [{name: value for name, value in line.items() if name not in NEW_KEYS} for line in lines]
    out.write_text("".join(json.dumps(line) + "\n" for line in older))
    rows = compare(photos, methods, [1], [1], backbone=backbone, store=MemoryStore(), out=out,
                   report=lambda line: resumed.append(line["resumed"]))  # fmt: skip
    assert resumed == [True, True]
    assert [row.model_bytes for row in rows] == [None, None]


def test_data_sets_are_fitted_apart_and_averaged(photos: Task, toys: Task, backbone: Backbone) -> None:
    settings: dict[str, Any] = {"backbone": backbone, "epochs": 1, "store": MemoryStore()}
    rows = compare([photos, toys], ["softcpt"], [2], [1], apart=True, **settings)
    assert [row.column for row in rows] == ["photos", "toys", "mean"]
    alone = [compare(task, ["softcpt"], [2], [1], **settings)[0].mean for task in (photos, toys)]
    assert [row.mean for row in rows] == [*alone, pytest.approx(sum(alone) / 2)]


def test_data_sets_have_base_new_and_h_each(photos: Task, toys: Task) -> None:
    plan = plan_of([photos, toys], "base-to-new", apart=True)
    own = [f"{name} {part}" for name in ("photos", "toys") for part in ("base", "new", "H")]
    assert plan.columns == (*own, "base", "new", "H")


def test_data_sets_of_a_protocol_with_targets_and_doubled_ones_are_refused(photos: Task, toys: Task) -> None:
    with pytest.raises(UsageError, match="is fitted to one data set"):
        plan_data_sets([photos, toys], "transfer")
    with pytest.raises(UsageError, match=r"open-set is fitted to one data set: name one folder\.$"):
        plan_data_sets([photos, toys], "open-set")
    with pytest.raises(UsageError, match="is named twice"):
        plan_data_sets([photos, photos])


def test_predictions_are_kept_and_made_again_where_they_are_gone(
    photos: Task, backbone: Backbone, tmp_path: Path
) -> None:
    resumed = list[bool]()

    def once() -> list[Row]:
        return compare(photos, ["zero_shot"], [1], [1], backbone=backbone, store=MemoryStore(), keep_predictions=kept,
                       out=tmp_path / "runs.jsonl", report=lambda line: resumed.append(line["resumed"]))  # fmt: skip

    kept = tmp_path / "kept"
    (row,) = once()
    (file,) = kept.iterdir()
    lines = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [line["image"] for line in lines] == [str(item.picture.path) for item in photos.test]
    assert np.mean([line["label"] == line["predicted"] for line in lines]) == row.mean
    once()
    file.unlink()
    once()
    assert resumed == [False, True, False] and file.is_file()


def test_names_of_predictions_are_safe_and_differ() -> None:
    names = {file_name("m", 1, 1, "k", column, number) for number, column in enumerate(["a/b", "a b", "..", "con:"])}
    assert len(names) == 4
    assert not any(set(name) & set('/\\: *?"<>|') or name.startswith(".") for name in names)
    assert len(file_name("m" * 500, 1, 1, "k", "c" * 500, 0)) < 120


def test_folder_of_predictions_that_cannot_be_made_is_refused_first(
    photos: Task, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShotfitError, match="name another folder with --keep-predictions"):
        compare(photos, ["zero_shot"], [1], backbone=backbone, keep_predictions=tmp_path / "file")


def test_published_figures_are_those_of_the_documentation() -> None:
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    found = 0
    for head, methods, protocol in (
        ("| data set | zero-shot | Tip-Adapter |", ("zero_shot", "tip_adapter", "tip_adapter_f", "clip_adapter"), ""),
        ("| data set | CLIP | CLIP-Adapter | APEX |", ("zero_shot", "clip_adapter", "apex"), "base-to-new"),
        (
            "| data set | CoCoOp |",
            ("cocoop", "prograd", "vpt", "deep_language", "ivlp", "maple", "promptsrc"),
            "base-to-new",
        ),
    ):
        for line in page.split(head)[1].split("\n\n")[0].splitlines()[2:]:
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            for method, cell in zip(methods, cells, strict=True):
                parts = ("base", "new", "H") if protocol else ("accuracy",)
                for part, value in zip(parts, cell.split(" / "), strict=True):
                    name = "average of 11" if name == "average" else name
                    own = published(method, name, 16, protocol or "few-shot", part)
                    assert own is not None and own.value == pytest.approx(float(value) / 100), (method, name, part)
                    found += 1
    for line in page.split("| data set (RN50) | 1 | 2 | 4 | 8 | 16 |")[1].split("\n\n")[0].splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for shots, cell in zip((1, 2, 4, 8, 16), cells, strict=True):
            own = published("gda", name, shots)
            assert own is not None and own.value == pytest.approx(float(cell) / 100), (name, shots)
            found += 1
    assert found == 4 * 11 + 9 * 12 + 5 * 11 + 7 * 3 * 11
    for line in page.split("| method | base | new | H | from |")[1].split("\n\n")[0].splitlines()[2:]:
        method, *values, source = (cell.strip() for cell in line.strip("|").split("|"))
        for part, value in zip(("base", "new", "H"), values, strict=True):
            own = published(method.strip("`"), "average of 11", 16, "base-to-new", part)
            assert own is not None and own.value == pytest.approx(float(value) / 100) and own.source == source


def test_published_figures_go_only_with_their_own_case(photos: Task) -> None:
    known = replace(photos, classes=replace(photos.classes, task="DTD"))
    rows = [Row(method, shots, "DTD", (1,), (0.5,), 0.5, None, 1.0, 9) for method in ("tip_adapter", "taskres")
            for shots in (16, 3)]  # fmt: skip
    found = with_published(rows, plan_of(known), "few-shot")
    assert [row.published for row in found] == [0.6093, None, None, None]
    assert "on CLIP" in caption(found) and "RN50" in caption(found)
    assert with_published(rows, plan_of(known), "transfer") == rows
    assert published("zero_shot", "oxford_flowers", 1) == published("zero_shot", "Flowers102", 16) is not None
    assert published("tip_adapter", "flowers17", 16) is None
    assert {own.partition("+")[0] for own in ("coop+class_specific=true", "softcpt")} <= METHODS.keys()


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".csv", ["method,shots,column", "coop_mt,16,a|b_c", "0.6093"]),
        (".md", ["| 16 shots | a\\|b_c | published |", "| coop_mt | 50.0 | 60.93 |"]),
        (".tex", [r"coop\_mt & 50.0 & 60.93 & 1.0 s", r"\toprule", r"a|b\_c & published"]),
    ],
)
def test_table_is_written_with_what_the_format_escapes(suffix: str, words: list[str]) -> None:
    row = Row("coop_mt", 16, "a|b_c", (1,), (0.5,), 0.5, None, 1.0, 9, published=0.6093, published_by="RN50, someone")
    text = table_text(suffix, [row], ["a|b_c"], ["a note"])
    for word in words:
        assert word in text
    if suffix != ".csv":
        assert "the authors' figures on CLIP" in text and "a note" in text


def test_command_compares_data_sets_and_writes_all_it_prints(
    photos: Task, toys: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    words = ["compare", photos.source, toys.source, "--backbone", backbone.name, "--methods", "zero_shot,linear_probe"]
    words += ["--shots", 2, "--seeds", "1,2", "--out", tmp_path / "runs", "--out-table", tmp_path / "t.md"]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    (head,) = (line for line in printed.splitlines() if line.startswith("2 shots"))
    assert head.split()[2:] == ["photos", "toys", "mean"]
    for part in ("95 % interval", "peak memory", "images/s", "table in"):
        assert part in printed
    assert "| zero_shot |" in (tmp_path / "t.md").read_text()
    assert main([*(str(word) for word in words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"] == ["photos", "toys", "mean"]
    assert all(note in printed for note in found["notes"])
    assert {"interval_by_image", "p", "peak_memory", "images_per_second", "published"} <= found["rows"][0].keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out-table", "table.txt"], "expected a file that ends in .csv, .md or .tex"),
        (["OTHER", "--class-names", "names.toml"], "--class-names goes with one folder"),
        (["OTHER", "--protocol", "transfer", "--targets", "OTHER"], "transfer is fitted to one data set"),
        (["PHOTOS"], "is named twice"),
    ],
)
def test_wrong_call_is_one_line(
    photos: Task, toys: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    places = {"PHOTOS": str(photos.source), "OTHER": str(toys.source)}
    given = [str(photos.source), *(places.get(word, word) for word in words)]
    assert main(["compare", *given, "--backbone", backbone.name, "--out", str(tmp_path / "runs")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1 and sentence in lines[0]


def test_method_without_any_result_is_a_row_of_dashes() -> None:
    row = Row("zero_shot", 1, "photos", (1,), (0.5,), 0.5, None, 1.0, 9)
    (lines,) = cells([row], ["photos"], None, ["coop", "zero_shot"], [1, 4])
    assert lines == [["method", "1 shot", "4 shots"], ["coop", "-", "-"], ["zero_shot", "50.0", "-"]]
    text = table_text(".md", [row], ["photos"], (), ["coop", "zero_shot"], [1, 4])
    assert text.count("| coop | - | - | - | - | - |") == 2
    assert text.count("| zero_shot | 50.0 |") == 1


def test_one_seed_has_no_deviation_and_a_diverged_method_its_dash(
    photos: Task,
    backbone: Backbone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    lost = "clip_adapter+lr=1e30+epochs=5"
    words = ["compare", photos.source, "--backbone", backbone.name, "--methods", f"zero_shot,{lost}", "--shots", 1]
    assert main([str(word) for word in [*words, "--seeds", 1, "--out", tmp_path / "runs"]]) == 0
    out, err = capsys.readouterr()
    assert "accuracy in percent, one seed; runs in" in out
    assert re.search(rf"^{re.escape(lost)} +-$", out, re.MULTILINE)
    assert f"{lost}, 1 shot, seed 1: no result in" in err
