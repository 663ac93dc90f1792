"""What to label next, as a user types it, and what the choice on arrays promises."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import shotfit
from shotfit.errors import UsageError
from shotfit.evaluation.suggest import choose

from .test_cli import Result, Shell, one_line

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"
Matrix = NDArray[Any]
CLASSES, SAME = ("bird", "fruit", "tool"), "bird_07.png"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes, and an inbox of other pictures: two are one, one was learned, one is broken."""
    folder = tmp_path_factory.mktemp("suggest")
    (folder / "inbox").mkdir()
    for name in CLASSES:
        (folder / "photos" / name).mkdir(parents=True)
        for number, path in enumerate(sorted((CLIPART / name).glob("*.png"))[:14]):
            shutil.copy(path, folder / "inbox" if number >= 6 else folder / "photos" / name)
    shutil.copy(folder / "inbox" / SAME, folder / "inbox" / "zz-same.png")
    model = shotfit.fit(folder / "photos", "linear_probe", keep=True)
    assert model.support is not None
    learned = next(item for item in model.support[0].train)
    shutil.copy(learned.picture.path, folder / "inbox" / "learned.png")
    (folder / "inbox" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model.save(folder / "model")
    return folder


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(home)
    return Shell(capsys)


def suggested(shell: Shell, *more: object) -> Result:
    return shell("suggest", "model", "inbox", *more)


def test_broken_picture_is_told_and_the_others_are_ranked(shell: Shell) -> None:
    done = suggested(shell, "-n", 5)
    assert done.code == 4
    lines = done.out.splitlines()
    assert len(lines) == 6 and lines[1].split()[:2][0] == "1"
    assert "not looked at" in done.err and "broken.png" in done.err
    assert "5 of 26 pictures to label next (passed over: 1 learned before, 1 double)" in done.err


def test_no_picture_is_named_twice_and_none_that_was_learned(shell: Shell) -> None:
    done = suggested(shell, "-n", 100, "--json")
    found = json.loads(done.out)
    images = [Path(one["image"]).name for one in found["suggestions"]]
    assert len(images) == len(set(images)) == 24 and "learned.png" not in images
    assert ("zz-same.png" in images) != (SAME in images)
    assert [one["rank"] for one in found["suggestions"]] == [*range(1, 25)]
    assert (found["images"], found["learned"], found["copies"], len(found["broken"])) == (26, 1, 1, 1)
    assert all(one["image"] not in one["nearest"] for one in found["suggestions"])


def test_csv_has_the_rows_of_the_json_and_is_written_whole(shell: Shell, tmp_path: Path) -> None:
    listed = json.loads(suggested(shell, "-n", 3, "--json").out)["suggestions"]
    done = suggested(shell, "-n", 3, "--out", tmp_path / "next.csv")
    assert (done.code, done.out) == (4, "")
    rows = list(csv.DictReader((tmp_path / "next.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == [one["image"] for one in listed]
    assert rows[0]["nearest"].split("|") == listed[0]["nearest"]
    assert suggested(shell, "-n", 3, "--format", "csv").out == (tmp_path / "next.csv").read_text()


def test_inbox_is_as_it_was(shell: Shell, home: Path) -> None:
    before = {path: path.read_bytes() for path in sorted((home / "inbox").iterdir())}
    suggested(shell)
    assert {path: path.read_bytes() for path in sorted((home / "inbox").iterdir())} == before


def test_hostile_name_is_text(shell: Shell, home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "inbox" / "bird_08.png", tmp_path / "=1+1\x1b[31m.png")
    done = shell("suggest", "model", tmp_path)
    assert done.code == 0 and "\x1b" not in done.out + done.err and "\\x1b[31m.png" in done.out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["suggest", "model", "nowhere"], 3, "There is no image nowhere"),
        (["suggest", "photos", "inbox"], 3, "adapter.json"),
        (["suggest", "inbox", "model"], 2, "is the model, and comes first"),
        (["suggest", "model", "inbox", "-n", 0], 2, "-n"),
        (["suggest", "model", "inbox", "--format", "xml"], 2, "There is no format 'xml'"),
        (["suggest", "model", "inbox", "--out", "next.xml"], 2, "no ending that says its format"),
        (["suggest", "model", "inbox", "--json", "--format", "csv"], 2, "two formats"),
        (["suggest", "model", "inbox/broken.png"], 3, "None of 1 pictures can be read"),
    ],
)
def test_wrong_call_is_one_line(shell: Shell, words: list[object], code: int, sentence: str) -> None:
    done = shell(*words)
    assert done.code == code and sentence in one_line(done)


def test_python_gives_what_a_notebook_shows(home: Path) -> None:
    model = shotfit.load(home / "model")
    found = shotfit.suggest(model, home / "inbox", 4)
    assert len(found.to_frame()) == len(found) == 4 and found[0].picture.exists()
    assert "<table>" in found._repr_html_()
    with pytest.raises(UsageError, match="count is 0"):
        shotfit.suggest(model, home / "inbox", 0)


def test_each_kind_of_doubt_is_asked_once_and_what_is_sure_is_not() -> None:
    random = np.random.default_rng(5)
    kinds = np.repeat(np.arange(5), 40)  # of which the last is sure
    features = np.eye(5)[kinds] * 3 + random.normal(size=(200, 5))
    sure = np.where(kinds == 4, 0.99, 0.5 + 0.1 * random.random(200))
    chosen = choose(features, np.stack([sure, 1 - sure], axis=1), 4)
    assert sorted(kinds[chosen.rows]) == [0, 1, 2, 3]
    assert all(score > 0.1 for score in chosen.scores)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Matrix, Matrix, int]:
    seed, n, classes = draw(st.integers(0, 999)), draw(st.integers(1, 40)), draw(st.integers(1, 5))
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, 6))[random.integers(0, n, n)]  # some of them twice
    probabilities = random.dirichlet(np.ones(classes), n)
    return features, probabilities, draw(st.integers(1, 50))


@settings(max_examples=60)
@given(pools())
def test_choice_has_no_double_and_as_many_as_can_be(pool: tuple[Matrix, Matrix, int]) -> None:
    features, probabilities, count = pool
    chosen = choose(features, probabilities, count, near=0.999)
    assert len(set(chosen.rows)) == len(chosen.rows) == len(chosen.scores)
    assert len(chosen.rows) == min(count, len(features) - chosen.doubles)
    plain = features[chosen.rows] / np.linalg.norm(features[chosen.rows], axis=1, keepdims=True)
    assert (np.triu(plain @ plain.T, 1) < 0.9991).all()
    assert chosen.scores == sorted(chosen.scores, reverse=True) and sum(chosen.scores) <= 1 + 1e-6
    assert choose(features, probabilities, count, near=0.999).rows == chosen.rows


def test_calibration_moves_no_choice() -> None:
    random = np.random.default_rng(3)
    features, logits = random.normal(size=(200, 8)), random.normal(size=(200, 2))
    soft, hard = (np.exp(scale * logits) for scale in (0.5, 3.0))
    rows = [choose(features, one / one.sum(axis=1, keepdims=True), 12).rows for one in (soft, hard)]
    assert rows[0] == rows[1]


def test_nothing_near_a_labelled_picture_is_chosen() -> None:
    random = np.random.default_rng(4)
    features = random.normal(size=(30, 16))
    chosen = choose(features, np.full((30, 3), 1 / 3), 30, labelled=2 * features[:10])
    assert sorted(chosen.rows) == [*range(10, 30)] and chosen.doubles == 10
    assert choose(features, np.full((30, 3), 1 / 3), 5, labelled=features).rows == []


@pytest.mark.parametrize(
    ("features", "probabilities", "count", "sentence"),
    [
        (np.zeros((3, 2)), np.ones((2, 2)), 1, "3 rows of features and 2 of probabilities"),
        (np.zeros(3), np.ones((3, 2)), 1, "features is an array"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), 1, "finite"),
        (np.zeros((3, 2)), np.ones((3, 2)), 0, "count is 0"),
    ],
)
def test_wrong_arrays_are_one_sentence(features: Matrix, probabilities: Matrix, count: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        choose(features, probabilities, count)
