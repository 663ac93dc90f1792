"""How hard a transfer is: what each measure means, what is looked at, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from shotfit.analysis.difficulty import PUBLISHED, Difficulty, coefficient_of, difficulty_of, separability
from shotfit.analysis.gains import Gain, advice_of, claims_of, gains_of, rank_test, roles_of, seconds_of
from shotfit.analysis.plots import _draw_separability
from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.train import hits
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .analyses import frozen, home, shell
from .test_cli import Shell, one_line

__all__ = ["frozen", "home", "shell"]  # fixtures

NAMES = ("red_thing", "green thing", "blue", "a fourth one", "the last")


@pytest.fixture(scope="module", autouse=True)
def data_sets(home: Path) -> None:
    tiny_task(home / "colors", NAMES)
    tiny_task(home / "others", NAMES[:3], seed=1)


def found(task: str, rtd: float | None = 0.1, zero_shot: float = 0.2) -> Difficulty:
    return Difficulty(task, 5, 10, zero_shot, (0.0, 1.0), rtd, 0.5, 0.4, 1.25, None, None)


def gain(task: str, role: str, mean: float) -> Gain:
    return Gain(task, role, role, 0.2, 0.2 + mean, (mean,), mean, None)


# What is measured


def test_separability_is_the_mean_over_pairs_of_images_each_class_alike() -> None:
    features = F.normalize(torch.randn(11, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 3, 3, 5])
    cosines = features @ features.T
    own = [
        [cosines[i, j] for i in range(11) for j in range(11) if i != j and labels[i] == labels[j] == one]
        for one in (0, 2, 3)
    ]
    others = [
        cosines[labels == one][:, labels == two].mean() for one in (0, 2, 3, 5) for two in (0, 2, 3, 5) if one != two
    ]
    within, between = separability(features, labels)
    assert within == pytest.approx(float(np.mean([np.mean(pairs) for pairs in own])))
    assert between == pytest.approx(float(np.mean(others)))


def test_classes_of_one_image_have_no_cosine_within() -> None:
    assert separability(torch.eye(3), torch.tensor([0, 1, 2])) == (None, 0.0)


def test_rtd_is_guessing_over_zero_shot_on_training_images(frozen: Frozen, home: Path) -> None:
    task = tiny_task(home / "colors", NAMES)
    looked = difficulty_of(frozen, task)
    pool = ImagePool(task.train)
    accuracy = float(hits(zero_shot(frozen, [task.classes]), pool.all(), pool.labels).double().mean())
    assert looked.zero_shot == pytest.approx(accuracy)
    assert looked.rtd == (pytest.approx(1 / (5 * accuracy)) if accuracy else None)
    assert looked.zero_shot_interval[0] <= accuracy <= looked.zero_shot_interval[1]


def test_published_figures_fall_with_difficulty() -> None:
    correlation, p = rank_test([-rtd for rtd, _ in PUBLISHED.values()], [ratio for _, ratio in PUBLISHED.values()])
    assert correlation > 0.85 and p < 0.001


def test_alpha_is_that_of_apex_for_the_second_half_of_the_classes(frozen: Frozen) -> None:
    classes = ClassList("colors", NAMES)
    texts = frozen.encode([f"a photo of a {name}." for name in classes.readable])
    with torch.no_grad():
        features = F.normalize(frozen.text(texts), dim=1)
    cosines = features[3:] @ features[:3].T
    alpha = torch.exp(-4 * (1 - cosines.mean(dim=1)))
    alpha[cosines.max(dim=1).values >= 0.95] = 1
    looked = coefficient_of(frozen, classes)
    assert looked is not None
    assert [looked.mean, looked.least, looked.largest] == pytest.approx(
        [float(alpha.mean()), float(alpha.min()), float(alpha.max())], abs=1e-5
    )


def test_names_are_measured_to_the_nearest_of_the_list(frozen: Frozen, home: Path) -> None:
    task = tiny_task(home / "colors", NAMES)
    assert difficulty_of(frozen, task).names is None
    assert difficulty_of(frozen, task, [*NAMES, "zebra"]).names == pytest.approx(0, abs=1e-6)
    far = difficulty_of(frozen, task, ["zebra"]).names
    assert far is not None and far > 1e-4


class Untouched(tuple[Item, ...]):
    """A test part that nobody may look at."""

    def __iter__(self) -> Iterator[Item]:
        raise AssertionError("the test part was looked at")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("the test part was looked at")


def test_the_test_part_is_not_looked_at(frozen: Frozen, home: Path) -> None:
    task = replace(tiny_task(home / "colors", NAMES), held_out=Untouched())
    assert difficulty_of(frozen, task).images == len(task.train)


# Advice and claims


@pytest.mark.parametrize(
    ("rtd", "zero_shot", "begin"),
    [(0.005, 0.5, "easy"), (0.02, 0.5, "between"), (0.05, 0.4, "hard"), (0.9, 0.1, "very hard"), (None, 0.0, "very"),
     (0.2, 0.97, "easy")],
)  # fmt: skip
def test_advice_follows_the_scale_of_the_paper(rtd: float | None, zero_shot: float, begin: str) -> None:
    assert found("photos", rtd, zero_shot).advice().startswith(begin)


def test_advice_by_what_was_measured_goes_first() -> None:
    gains = [gain("photos", role, mean) for role, mean in (("text", 0.1), ("image", 0.3), ("combined", 0.2))]
    assert advice_of(found("photos"), gains) == "measured: image (+30.0 points over zero-shot)"
    assert advice_of(found("photos"), [gain("photos", "text", -0.1)]).startswith("none of the three")
    assert advice_of(found("other"), gains) == found("other").advice()


def test_claims_are_asked_of_the_lead_over_the_text_side() -> None:
    looked = [found(name, rtd) for name, rtd in (("a", 0.01), ("b", 0.1), ("c", 0.5), ("d", None))]
    gains = [gain(one.task, "text", 0.1) for one in looked]
    gains += [gain(one.task, "image", 0.1 * place) for place, one in enumerate(looked)]
    gains += [gain(one.task, "combined", 0.3 - 0.1 * place) for place, one in enumerate(looked)]
    claims = claims_of(looked, gains)[1:]
    assert [(round(one.correlation, 6), one.holds) for one in claims[:2]] == [(1.0, True), (-1.0, False)]
    assert "holds here" in claims[0].sentence() and "does not show here" in claims[1].sentence()
    assert all(one.holds is None for one in claims_of(looked[:3], gains))
    assert [one.what for one in claims_of(looked)] == ["classes are less separable on harder sets"]


def test_rank_test_counts_every_order() -> None:
    assert rank_test([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]) == pytest.approx((0.9, 5 / 120))
    assert rank_test([1, 1, 1, 1], [1, 2, 3, 4]) == (0.0, 1.0)


@pytest.mark.slow
def test_gains_are_those_of_compare(home: Path) -> None:
    tasks = [tiny_task(home / "colors", NAMES), tiny_task(home / "others", NAMES[:3], seed=1)]
    roles = roles_of(["gda", "nearest_centroid", "knn"], 2, [1, 2])
    backbone, store = tiny_backbone(home / "same"), MemoryStore()
    gains = gains_of(tasks, roles, 2, [1, 2], backbone=backbone, store=store)
    assert [(one.task, one.role) for one in gains[:4]] == [
        ("colors", "text"), ("colors", "image"), ("colors", "combined"), ("others", "text")
    ]  # fmt: skip
    rows = compare(tasks[1], ["zero_shot", "knn"], [2], [1, 2], backbone=backbone, store=store)
    plain, ours = (next(row for row in rows if row.method == name) for name in ("zero_shot", "knn"))
    assert gains[-1].by_seed == tuple(a - b for a, b in zip(ours.accuracies, plain.accuracies, strict=True))


def test_a_gain_that_is_not_known_and_a_set_without_test_part_are_refused(home: Path, frozen: Frozen) -> None:
    task = tiny_task(home / "others", NAMES[:3], seed=1)
    with pytest.raises(ShotfitError, match=r"did not converge on others"):
        gains_of(
            [task], {"text": "taskres@paper+lr=1e30", "image": "knn", "combined": "gda"}, 2, [1],
            backbone=frozen.backbone, store=MemoryStore(),
        )  # fmt: skip
    with pytest.raises(ShotfitError, match="no test images"):
        seconds_of(frozen, [replace(task, held_out=())], {"text": "knn"}, 2, [1])


def test_a_forecast_counts_what_is_trained(home: Path) -> None:
    frozen, tasks = Frozen(tiny_backbone(home / "same"), MemoryStore()), [tiny_task(home / "others", NAMES[:3], seed=1)]
    untrained = roles_of(["tip_adapter", "nearest_centroid", "knn"], 2, [1])
    assert seconds_of(frozen, tasks, untrained, 2, [1]) == 0
    trained = roles_of(["taskres@paper+epochs=1000", "nearest_centroid", "knn"], 2, [1])
    assert seconds_of(frozen, tasks, trained, 2, [1]) > 0


def test_names_of_points_do_not_cover_each_other() -> None:
    figure = Figure(layout="constrained")
    _draw_separability(figure, figure.subplots(), [found(name) for name in NAMES])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(NAMES)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


# As typed


def test_a_table_a_plot_and_one_object(shell: Shell, home: Path) -> None:
    told = shell("analyze", "difficulty", "colors", "others", "--backbone", "tiny", "--plot", "hard.svg")
    assert told.code == 0
    assert "separability" in told.out and "colors: " in told.out and "written: hard.svg" in told.out
    assert "colors" in Path("hard.svg").read_text(encoding="utf-8")
    told = shell("analyze", "difficulty", "colors", "--backbone", "tiny", "--reference", "cat", "--json")
    (task,) = json.loads(told.out)["tasks"]
    assert told.code == 0 and task["classes"] == 5 and task["names"] > 0 and task["advice"]


@pytest.mark.slow
def test_gains_as_typed(shell: Shell) -> None:
    words = ("--methods", "gda,nearest_centroid,knn", "--shots", "2", "--seeds", "1")
    told = shell(
        "analyze", "difficulty", "colors", "others", "--backbone", "tiny", "--gains", *words, "--plot", "hard.png"
    )
    assert told.code == 0
    assert "6 fits: about " in told.out and "cannot be told of fewer than 4" in told.out
    assert Path("hard.png").read_bytes().startswith(b"\x89PNG") and Path("shotfit-difficulty.jsonl").is_file()
    assert "measured: " in told.out or "none of the three" in told.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing argument FOLDER"),
        (("colors", "--reference", "@nowhere.txt"), "--reference names the file nowhere.txt"),
        (("colors", "--gains", "--methods", "coop,vpt"), "--methods names 2; expected three"),
        (("colors", "--gains", "--methods", "coop,auto,apex"), "--methods names auto"),
        (("colors", "--gains", "--methods", "coop,zero_shot,apex"), "--methods names zero_shot"),
        (("colors", "--plot", "hard.pdf"), "--plot is hard.pdf"),
        (("colors", "colors"), "Two tasks are called 'colors'"),
    ],
)
def test_a_wrong_call_is_one_line(shell: Shell, words: tuple[str, ...], said: str) -> None:
    result = shell("analyze", "difficulty", *words, "--backbone", "tiny")
    assert result.code == 2 and said in one_line(result)


def test_a_single_class_and_a_folder_without_images_are_refused(shell: Shell, home: Path) -> None:
    (home / "empty").mkdir(exist_ok=True)
    result = shell("analyze", "difficulty", "empty", "--backbone", "tiny")
    assert result.code == 3 and "empty" in one_line(result)
    task = tiny_task(home / "single", ["only"])
    with pytest.raises(ShotfitError, match="a single class"):
        difficulty_of(Frozen(tiny_backbone(home / "same"), MemoryStore()), task)


def test_a_reference_that_the_backbone_cannot_read_is_refused(frozen: Frozen, home: Path) -> None:
    with pytest.raises(ShotfitError):
        difficulty_of(frozen, tiny_task(home / "colors", NAMES), ["long " * 100])


def test_roles_are_three(home: Path) -> None:
    with pytest.raises(UsageError, match="expected three"):
        roles_of(["coop"], 16, [1])
