"""Prediction sets and unknown images as typed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from shotfit.commands.cli import main
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_backbone(folder / "backbone")
    tiny_task(folder / "photos", images=14)
    words = ["fit", "photos", "--backbone", "backbone", "--out", "model", "--method", "tip_adapter", "--keep"]
    assert main([str(folder / word) if word in ("photos", "backbone", "model") else word for word in words]) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_sets_and_marks_stand_in_each_format(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["predict", home / "model", home / "photos" / "blue", "--coverage", 0.9, "--unknown", "--known-share", 0.9]
    asked += ["--trust-backbone"]
    code, out, error = run(capsys, *asked, "--format", "csv")
    assert code == 0, error
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 14 and {row["unknown"] for row in rows} <= {"true", "false"}
    objects = [json.loads(line) for line in run(capsys, *asked, "--format", "jsonl")[1].splitlines()]
    assert ["|".join(one["set"]) for one in objects] == [row["set"] for row in rows]
    assert [str(one["unknown"]).lower() for one in objects] == [row["unknown"] for row in rows]
    assert all("{" in line for line in run(capsys, *asked)[1].splitlines())


def test_nothing_is_said_that_was_not_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(
        capsys, "predict", home / "model", home / "photos" / "blue", "--format", "jsonl", "--trust-backbone"
    )
    assert set(json.loads(out.splitlines()[0])) == {"image", "predictions"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--coverage", "1"], "--coverage is 1.0; expected a share between 0 and 1"),
        (["--coverage", "95"], "--coverage is 95.0; expected a share between 0 and 1"),
        (["--per-class"], "add --coverage"),
        (["--known-share", "0.9"], "add --unknown"),
        (["--coverage", "0.99"], "needs 99 held-out images"),
        (["--unknown", "--known-share", "0"], "--known-share is 0.0; expected"),
        (["--unknown", "--known-share", "0.999"], "needs 999 held-out images"),
        (["--coverage", "0.95", "--per-class"], "needs 19 held-out images of each class"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    asked = ["predict", home / "model", home / "photos" / "blue", *words, "--trust-backbone"]
    for form in ("table", "csv"):
        code, out, error = run(capsys, *asked, "--format", form)
        assert (code, out) == (2, "") and sentence in error


def test_each_task_of_a_list_has_sets_marks_and_calibration(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def listed(*names: str) -> Path:
        path = tmp_path / f"{len(names)}.toml"
        path.write_text("".join(f'[[task]]\nname = "{name}"\ndata = "{home / "photos"}"\n' for name in names))
        return path

    fitted = ["--method", "coop_mt", "--lr", 0.01, "--steps", 8, "--keep", "--backbone", home / "backbone"]
    code, _, error = run(capsys, "fit", "--tasks", listed("one", "two"), *fitted, "--out", tmp_path / "many")
    assert code == 0, error
    asked = ["--coverage", 0.9, "--unknown-images", home / "photos" / "blue", "--trust-backbone"]
    words = ["evaluate", tmp_path / "many", *asked, "--tasks", listed("one", "two", "new")]
    code, out, error = run(capsys, *words, "--out", tmp_path / "rows.csv", "--json")
    assert code == 0, error
    found = json.loads(out)
    alone = run(capsys, "evaluate", tmp_path / "many", home / "photos", "--task", "two", *asked, "--json")
    assert found["tasks"]["two"]["trust"] == json.loads(alone[1])["trust"]
    both = [found["tasks"][name]["trust"]["covered"] for name in ("one", "two")]
    assert found["trust"]["covered"] == pytest.approx(sum(both) / 2)
    assert found["tasks"]["new"]["trust"]["covered"] is None
    assert "note: without sets and marks: new. Prediction sets are for the classes that the model" in error
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert {row["unknown"] for row in rows if row["task"] == "new"} == {""}
    assert {row["unknown"] for row in rows if row["task"] != "new"} <= {"true", "false"}
    lines = run(capsys, *words)[1].splitlines()
    head = next(line for line in lines if "calibration error" in line)
    assert head.split("  ")[0] == "task" and "covered" in head and "AUROC" in head
    assert next(line for line in lines if line.startswith("new ") and " to " in line).split()[-1] == "-"
    code, out, error = run(capsys, *words[:2], "--tasks", listed("new"), *asked)
    assert code == 2 and "Prediction sets are for the classes" in error


def test_unknown_of_a_model_of_format_1_is_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.test_trust import format_1

    words = ["predict", format_1(home, tmp_path / "old"), home / "photos" / "blue", "--unknown", "--trust-backbone"]
    code, out, error = run(capsys, *words)
    assert (code, out) == (2, "")
    assert "--unknown needs images that were held out" in error and "fit it again" in error


def test_evaluate_reports_sets_and_unknown_images(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", home / "model", home / "photos", "--all", "--coverage", 0.9, "--trust-backbone"]
    code, out, error = run(capsys, *words, "--unknown-images", home / "photos" / "blue", "--json")
    assert code == 0, error
    found = json.loads(out)["trust"]
    assert found["coverage"] == 0.9 and found["unknown_images"] == 14
    assert {"covered", "mean_set_size", "auroc", "fpr_at_95", "log_loss", "log_loss_before"} <= found.keys()
    _, lines, _ = run(capsys, *words)
    assert "calibration            before: error " in lines and "prediction sets" in lines


def test_broken_unknown_image_stops_unless_it_is_skipped(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "photos" / "blue", tmp_path / "others")
    (tmp_path / "others" / "broken.png").write_bytes(b"no image")
    words = ["evaluate", home / "model", home / "photos", "--unknown-images", tmp_path / "others", "--trust-backbone"]
    code, out, error = run(capsys, *words, "--json")
    assert (code, out) == (3, "") and "broken.png" in error
    code, out, error = run(capsys, *words, "--json", "--skip-broken")
    assert code == 0 and json.loads(out)["trust"]["unknown_images"] == 14
    assert "note: left out of" in error and "broken.png" in error


@pytest.mark.parametrize("words", [["--coverage", 0.9], ["--unknown-images", "."], ["--per-class"], ["--out", "a.csv"]])
def test_what_is_about_one_model_is_refused_of_two(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[object]
) -> None:
    code, out, error = run(capsys, "evaluate", home / "model", home / "model", home / "photos", *words)
    assert (code, out) == (2, "") and f"{words[0]} is about one model" in error


def test_open_set_asks_for_the_other_half_as_unknown(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", home / "photos", "--protocol", "open-set", "--backbone", home / "backbone", "--seeds", "1"]
    words += ["--methods", "zero_shot,tip_adapter", "--shots", "1,8", "--out", tmp_path / "runs.jsonl"]
    code, out, error = run(capsys, *words)
    assert code == 0, error
    assert "known" in out and "AUROC" in out and "FPR95" in out
    one_shot = next(line for line in out.splitlines() if line.startswith("tip_adapter"))
    assert one_shot.split()[-2:] == ["-", "-"]  # nothing is held out of a single shot
