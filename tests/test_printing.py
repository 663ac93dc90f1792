"""Names from outside: a terminal shows them, a program reads them back, and a spreadsheet or page runs none."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotfit.commands.cli import main
from shotfit.commands.console import LONGEST, to, warn
from shotfit.data.readers import read_task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.evaluation.rows import Row
from shotfit.evaluation.written import table_text
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.printing import as_cell, as_code, as_json, as_markdown, from_cell, printable
from shotfit.testing.tiny import tiny_backbone, tiny_task

EVIL = "\x1b[31mred\x07\r\x9b2J\u202egnp\u200b\u2066"
FORMULA = "=HYPERLINK(1)"
NAMES = (EVIL, FORMULA, "<script>alert(1)</script>|`x`](http://a)")


def unseen(text: str) -> set[str]:
    """Signs in it, other than line ends, that control a terminal or are not seen."""
    return {sign for sign in text if sign != "\n" and unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@given(st.text())
def test_printed_text_is_one_line_without_control_signs(text: str) -> None:
    assert unseen(printable(text)) == set() and "\n" not in printable(text)
    assert printable(printable(text)) == printable(text)


@given(st.text())
def test_json_line_gives_the_text_back_and_a_terminal_shows_it(text: str) -> None:
    line = as_json({text: [text]})
    assert unseen(line) == set() and "\n" not in line
    assert json.loads(line) == {text: [text]}


def test_line_for_people_has_bounded_length() -> None:
    stream = io.StringIO()
    to(stream)("\x1b" * 100_000 + "the end")
    assert len(stream.getvalue()) < LONGEST + 10 and stream.getvalue().endswith("the end\n")


@given(st.text(alphabet=st.one_of(st.sampled_from("'=+-@\t\r\n1a"), st.characters())))
def test_cell_gives_the_text_back_and_no_spreadsheet_runs_it(text: str) -> None:
    cell = as_cell(text)
    assert isinstance(cell, str) and not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert from_cell(cell) == text


@given(st.text(min_size=1))
def test_markdown_of_a_text_has_no_sign_of_markup_without_a_backslash(text: str) -> None:
    within_words = re.sub(r"(?<=[^\W_])_(?=[^\W_])", "", as_markdown(text))
    assert re.search(r"(?<!\\)(?:\\\\)*[|`<>\[\]*_~&$]", within_words) is None


@given(st.text(alphabet="`a |"))
def test_code_ends_where_its_fence_ends(text: str) -> None:
    code = as_code(text)
    (fence,) = re.findall("^`+", code)
    assert code.endswith(fence) and fence not in re.findall("`+", code[len(fence) : -len(fence)])


def test_error_and_warning_hold_no_control_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert unseen(str(ShotfitError(f"{EVIL} is missing."))) == set()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warn
        warnings.warn(f"{EVIL} is odd", stacklevel=1)
    assert unseen(capsys.readouterr().err) == set()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a folder and of classes with hostile names, and a model of them."""
    home = tmp_path_factory.mktemp("home")
    photos = home / f"photos{EVIL}"
    for source, name in zip(sorted(p for p in tiny_task(home / "plain").source.iterdir()), NAMES, strict=True):
        folder = photos / name.replace("/", "\u2215")
        shutil.copytree(source, folder)
        (folder / "0.png").rename(folder / f"-{EVIL}.png")
    tiny_backbone(home / "backbone")
    model = fit(read_task(photos), "taskres", epochs=1, recipe="paper", keep=True, backbone=str(home / "backbone"),
                store=MemoryStore())  # fmt: skip
    model.save(home / "model")
    return home


def test_commands_print_no_control_sign(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, backbone = str(home / f"photos{EVIL}"), str(home / "backbone")
    model, broken = str(home / "model"), home / "broken" / f"{EVIL}.png"
    broken.parent.mkdir()
    broken.write_text("no picture")
    runs: list[list[str]] = [
        ["doctor", photos],
        ["doctor", photos, "--json"],
        ["predict", model, photos, "--backbone", backbone, "--top", "3"],
        ["predict", model, photos, "--backbone", backbone, "--format", "jsonl"],
        ["predict", model, str(broken), "--backbone", backbone],
        ["predict", model, str(broken), "--backbone", backbone, "--strict"],
        ["predict", model, f"gone{EVIL}", "--backbone", backbone],
        ["evaluate", model, photos, "--backbone", backbone, "--all"],
        ["evaluate", model, photos, "--backbone", backbone, "--all", "--json"],
        ["compare", photos, "--backbone", backbone, "--shots", "1", "--seeds", "1", "--methods", "zero_shot",
         "--out", str(home / "runs.jsonl")],
        ["fit", photos, "--backbone", EVIL, "--out", str(home / "other")],
        ["fit", photos, "--method", EVIL, "--out", str(home / "other")],
        ["fit", photos, "--method", "coop", "--set", f"{EVIL}=1", "--out", str(home / "other")],
        ["fit", photos, "--method", "coop", "--set", f"position={EVIL}", "--out", str(home / "other")],
        ["fit", photos, f"--{EVIL}"],
        [EVIL],
    ]  # fmt: skip
    for words in runs:
        code = main(words)
        printed = capsys.readouterr()
        assert (code in (0, 2, 3, 4), unseen(printed.out + printed.err)) == (True, set()), words


def test_json_lines_of_predict_have_the_names_as_they_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(home / f"photos{EVIL}")
    main(["predict", str(home / "model"), photos, "--backbone", str(home / "backbone"), "--format", "jsonl"])
    found = [json.loads(line)["image"] for line in capsys.readouterr().out.splitlines()]
    assert sum(EVIL in Path(image).name for image in found) == 3 and all(Path(image).is_file() for image in found)


@pytest.mark.parametrize("terminal", [False, True])
def test_csv_has_the_names_as_they_are_but_on_a_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    photos = str(home / f"photos{EVIL}")
    main(["predict", str(home / "model"), photos, "--backbone", str(home / "backbone"), "--format", "csv"])
    printed = capsys.readouterr().out
    assert bool(unseen(printed)) is not terminal
    if not terminal:
        rows = list(csv.DictReader(io.StringIO(printed, newline="")))
        assert all(Path(from_cell(row["image"])).is_file() for row in rows)


def test_csv_of_predict_runs_in_no_spreadsheet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(home / f"photos{EVIL}")
    words = ["predict", str(home / "model"), photos, "--backbone", str(home / "backbone"), "--format", "csv"]
    main([*words, "--top", "3"])
    labels = {row["label"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out, newline=""))}
    assert f"'{FORMULA}" in labels and FORMULA in map(from_cell, labels)


def test_manifest_reads_neutralised_cells_back(home: Path, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(next((home / "plain" / "red_thing").iterdir()), tmp_path / f"-{number}.png")
    cells = [[as_cell(f"-{number}.png"), as_cell(label)] for number, label in enumerate((FORMULA, "@cat"))]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *cells])
    task = read_task(tmp_path / "labels.csv")
    assert task.classes.names == (FORMULA, "@cat")
    assert {item.picture.path.name for item in task.train} <= {"-0.png", "-1.png"}


def test_tables_of_a_comparison_are_escaped() -> None:
    row = Row("coop+words=</script>", 1, f"{FORMULA}|{EVIL}", (1,), (-0.5,), -0.5, None, 1.0, 4)
    (line,) = csv.DictReader(io.StringIO(table_text(".csv", [row], [row.column]), newline=""))
    assert (line["column"], line["mean"]) == (f"'{row.column}", "-0.5")
    markdown, latex = (table_text(suffix, [row], [row.column]) for suffix in (".md", ".tex"))
    assert unseen(markdown + latex) == set()
    assert "\\</script\\>" in markdown and f"{FORMULA}\\|" in markdown and "$<$/script$>$" in latex


def test_card_of_hostile_class_names_shows_them_as_text(home: Path) -> None:
    card = (home / "model" / "README.md").read_text(encoding="utf-8")
    assert unseen(card) == set() and "<script>" not in card
    assert "\\<script\\>" in card and "\\](http" in card and card.startswith("# TaskRes on ")


def test_record_has_the_class_names_as_they_are(home: Path) -> None:
    model = Model.open(home / "model", str(home / "backbone"))
    assert set(model.class_names) == {name.replace("/", "\u2215") for name in NAMES}
