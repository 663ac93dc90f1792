"""Pairs of images, texts and negatives: what is counted, what each half decides, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shotfit.analysis.comparing import pairs_of
from shotfit.analysis.pairs import HALVES, KINDS, Disagreement, Kind, Overlap, Pairs, Share
from shotfit.analysis.pairs_page import write_pairs_page
from shotfit.analysis.similarities import BINS, Distribution, in_order
from shotfit.data.pictures import Picture
from shotfit.engine.frozen import Frozen
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fitter import Fitter, held_out_by
from shotfit.methods import find
from shotfit.methods.base import Validation
from shotfit.testing.tiny import tiny_task

from .analyses import frozen, home, shell
from .test_cli import Shell, one_line

__all__ = ["frozen", "home", "shell"]  # fixtures

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def data_sets(home: Path) -> None:
    tiny_task(home / "colors")


# Counting


@given(st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=2, max_size=12))
def test_in_order_is_the_share_of_pairs_and_equal_ones_count_half(row: list[tuple[int, bool]]) -> None:
    ours, theirs = ([value / 10 for value, own in row if own is wanted] for wanted in (True, False))
    if not ours or not theirs:
        return
    points = [1.0 if one > two else 0.5 if one == two else 0.0 for one in ours for two in theirs]
    values, own = torch.tensor([[value / 10 for value, _ in row]]), torch.tensor([[own for _, own in row]])
    assert in_order(values, own).item() == pytest.approx(np.mean(points))


def test_a_distribution_is_that_of_all_its_parts() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = Distribution()
    for part in values.split(300):
        seen.add(part)
    summary = seen.summary()
    assert (summary.pairs, sum(summary.counts)) == (1000, 1000)
    assert summary.mean == pytest.approx(float(values.mean()), abs=1e-6)
    assert summary.deviation == pytest.approx(float(values.std(correction=0)), abs=1e-6)
    assert summary.quantiles == pytest.approx(np.quantile(values.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95]), abs=0.01)
    plain = summary.as_json()["histogram"]
    assert plain["from"] + plain["width"] * len(plain["counts"]) <= 1 + 1e-9


def test_cosines_beyond_one_by_rounding_are_counted() -> None:
    seen = Distribution()
    seen.add(torch.tensor([1.0000001, -1.0000001]))
    summary = seen.summary()
    assert summary.counts[0] == summary.counts[BINS - 1] == 1


# What is compared


def test_every_image_is_compared_once_a_seed_with_caches_without_it(frozen: Frozen, home: Path) -> None:
    found = pairs_of(frozen, tiny_task(home / "colors"), shots=4, seeds=(1, 2))
    assert list(found.kinds) == list(KINDS)
    text, image = found.kinds["positive text"], found.kinds["image"]
    assert (text.own.pairs, text.other.pairs) == (2 * 12, 2 * 24)  # 3 classes of 4 images
    assert (image.own.pairs, image.other.pairs) == (2 * 12 * 3, 2 * 12 * 6)  # 4 folds: without the class's own image
    assert [overlap.images for overlap in found.overlaps] == [12, 12]
    assert all(
        one.both_right + one.only_positive + one.only_negative + one.neither == one.images for one in found.overlaps
    )


def test_halves_decide_as_the_method_does(frozen: Frozen, home: Path) -> None:
    task = tiny_task(home / "colors")
    found = pairs_of(frozen, task, shots=4, seeds=(1,))
    items = task.support(4, 1).train
    fitter = Fitter(frozen, (task.classes,), 1, None)
    for name in ("positive text", "positive", "negative text", "negative", "both"):
        options = {"training_free": "true", "search": "false", "paths": name.partition(" ")[0]}
        options |= {"cache": "false"} if name.endswith("text") else {}
        right = []
        for fold in fitter.folds(items).folds:
            part = [items[index] for index in fold.train.tolist()]
            method = fitter.fit(find("dualadapter").with_options(options), part, Validation("none", ()), "")
            right.append(held_out_by(method, fold).argmax(dim=1) == fold.labels)
        assert found.halves[name].mean == pytest.approx(float(torch.cat(right).double().mean())), name


def test_a_cache_alone_decides_by_its_nearest_or_farthest_keys(frozen: Frozen, home: Path) -> None:
    task = tiny_task(home / "colors")
    found = pairs_of(frozen, task, shots=4, seeds=(1,))
    items = task.support(4, 1).train
    fitter, right = Fitter(frozen, (task.classes,), 1, None), []
    for fold in fitter.folds(items).folds:
        part = [items[index] for index in fold.train.tolist()]
        options = {"training_free": "true", "search": "false", "paths": "negative", "negative_scale": "0"}
        method = fitter.fit(find("dualadapter").with_options(options), part, Validation("none", ()), "")
        right.append(held_out_by(method, fold).argmax(dim=1) == fold.labels)
    assert found.halves["negative cache"].mean == pytest.approx(float(torch.cat(right).double().mean()))


def test_disagreements_are_what_the_halves_say_differently(frozen: Frozen, home: Path) -> None:
    found = pairs_of(frozen, tiny_task(home / "colors"), shots=0, seeds=(1,))
    (overlap,) = found.overlaps
    assert len(found.disagreements) == overlap.images - overlap.alike
    assert [sum(one.right == half for one in found.disagreements) for half in ("positive", "negative")] == [
        overlap.only_positive, overlap.only_negative
    ]  # fmt: skip
    sure = [one.positive_share * one.negative_share for one in found.disagreements]
    assert sure == sorted(sure, reverse=True)


def test_own_negative_templates_are_used(frozen: Frozen, home: Path) -> None:
    task = tiny_task(home / "colors")
    plain = pairs_of(frozen, task, 2)
    other = pairs_of(frozen, task, 2, negative_templates=["nothing like {}", "no {}"])
    assert plain.negative_templates == ("a photo without {}.",)
    assert other.negative_templates == ("nothing like {}", "no {}")
    assert plain.kinds["negative text"].own.mean != other.kinds["negative text"].own.mean
    assert plain.kinds["positive text"] == other.kinds["positive text"]


# As typed


def made(label: str = "cat", positive: float = 0.5, negative: float = 0.5) -> Pairs:
    """A result of two classes, with one disagreement."""

    def kind(mean: float) -> Kind:
        seen = Distribution()
        seen.add(torch.tensor([mean - 0.1, mean + 0.1]))
        return Kind(seen.summary(), seen.summary(), Share((0.6, 0.7)))

    kinds = dict(zip(KINDS, map(kind, (positive, negative, 0.8, 0.3)), strict=True))
    doubt = Disagreement(Picture.of("nowhere.png"), label, label, 0.9, "dog", 0.8)
    return Pairs(
        "pets", 2, 4, (1, 2), ("a {}.",), ("no {}.",), kinds, dict.fromkeys(HALVES, Share((0.5, 0.75))),
        (Overlap(1, 4, 3, 2, 1, 0, 1, 1.0),), (doubt,),
    )  # fmt: skip


def test_the_sentence_says_whether_the_negation_is_read() -> None:
    assert "does not read the negation" in made(positive=0.5, negative=0.49).sentence()
    assert "speaks against the class" in made().sentence()
    assert "tells the two apart" in made(positive=0.5, negative=0.1).sentence()


def test_a_page_escapes_names_and_fetches_nothing(tmp_path: Path) -> None:
    write_pairs_page(made(HOSTILE), Path("photos"), tmp_path / "pairs.html", command="shotfit analyze pairs photos")
    page = (tmp_path / "pairs.html").read_text(encoding="utf-8")
    assert HOSTILE not in page and "&lt;img src=x" in page
    assert "<script" not in page and "http-equiv" in page and "cannot be read" in page
    assert "shotfit analyze pairs photos" in page and "62.5 ± 17.7" in page


def test_a_table_a_plot_a_page_and_one_object(shell: Shell) -> None:
    written = ("--plot", "pairs.png", "--page", "pairs.html")
    told = shell("analyze", "pairs", "colors", "--backbone", "tiny", "--seeds", "1", *written)
    assert told.code == 0 and "negative cache" in told.out and "McNemar" in told.out
    assert Path("pairs.png").read_bytes().startswith(b"\x89PNG")
    page = Path("pairs.html").read_text(encoding="utf-8")
    assert "shotfit analyze pairs colors --seeds 1" in page
    assert ("data:image/jpeg" in page) == ("right by the" in page.casefold())
    told = shell("analyze", "pairs", "colors", "--backbone", "tiny", "--seeds", "1,2", "--json")
    found = json.loads(told.out)
    assert told.code == 0 and set(found["pairs"]) == set(KINDS) and set(found["halves"]) == set(HALVES)
    assert len(found["halves"]["both"]["by_seed"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--negative-template", "no such thing"), "expected templates with {} exactly once"),
        (("--negative-template", "a photo of a {}."), "is a positive one too"),
        (("--page", "pairs.pdf"), "--page is pairs.pdf"),
        (("--plot", "pairs.pdf"), "--plot is pairs.pdf"),
        (("--seeds", "one"), "--seeds is 'one'"),
    ],
)
def test_a_wrong_call_is_one_line(shell: Shell, words: tuple[str, ...], said: str) -> None:
    result = shell("analyze", "pairs", "colors", "--backbone", "tiny", *words)
    assert result.code == 2 and said in one_line(result)


def test_what_cannot_be_compared_is_refused(frozen: Frozen, home: Path, shell: Shell) -> None:
    with pytest.raises(ShotfitError, match="a single class"):
        pairs_of(frozen, tiny_task(home / "single", ["only"]))
    with pytest.raises(ShotfitError, match="a single image of most classes"):
        pairs_of(frozen, tiny_task(home / "colors"), shots=1)
    with pytest.raises(UsageError, match="no seeds"):
        pairs_of(frozen, tiny_task(home / "colors"), seeds=())
    (home / "empty").mkdir(exist_ok=True)
    result = shell("analyze", "pairs", "empty", "--backbone", "tiny")
    assert result.code == 3 and "empty" in one_line(result)
