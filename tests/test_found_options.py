"""Options that are `auto`: what a fit finds stands in the model and its record, and nothing else is an `auto`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import torch

from shotfit.data.tasks import ClassList, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.compare import compare
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.refit import refit
from shotfit.methods import find, option
from shotfit.methods.apex import Apex
from shotfit.methods.base import Method, Support
from shotfit.methods.mma import MMA
from shotfit.methods.taskres import TaskRes
from shotfit.report.recorded import how_to_fit
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

SEEN = list[int]()  # support images that an option was found by


class Finding(TaskRes):
    """TaskRes with an option of its own that can be found, and one that is declared to be and cannot."""

    name: ClassVar[str] = "finding"

    strength: float = option(0.5, "a number", at_least=0, at_most=99, auto=True)
    lost: int = option(1, "a number", auto=True)

    def find_option(self, name: str, support: Support) -> Any:
        """The number of support images."""
        if name == "lost":
            return super().find_option(name, support)
        SEEN.append(len(support.labels))
        return float(len(support.labels))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("found") / "backbone")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("found") / "images", images=8)


def fitted(task: Task, backbone: Backbone, method: Method, **settings: Any) -> Model:
    given: dict[str, Any] = {"shots": 4, "store": MemoryStore(), "keep": True, "recipe": "paper", "epochs": 1}
    return fit(task.sealed(), method, backbone=backbone, **given | settings)


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("mma", {"start": "soon"}, "mma: start must be a whole number, or auto, but is 'soon'."),
        ("mma", {"start": "-2"}, "mma: start must be a whole number at least -1, or auto, but is -2."),
        ("mma", {"end": "auto"}, "mma: end must be a whole number, but is 'auto'."),
        ("apex", {"beta": "nan"}, "apex: beta must be a number at least 0, or auto, but is nan."),
        ("apex", {"epsilon": "auto"}, "apex: epsilon must be a number, but is 'auto'."),
    ],
)
def test_other_words_are_refused_in_one_line(method: str, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find(method).with_options(options)
    assert str(refusal.value) == sentence


def test_option_that_says_nothing_of_auto_has_none() -> None:
    with pytest.raises(UsageError, match="mma: dim must be"):
        MMA(dim="auto")  # type: ignore[arg-type]


def test_until_it_is_found_an_option_is_as_by_default() -> None:
    method = MMA.with_options({"start": "auto"})
    assert isinstance(method, MMA) and method.start == -1
    assert method.options()["start"] == "auto" and MMA(**method.options()).options()["start"] == "auto"


def test_model_and_record_hold_what_was_found(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    model = fitted(task, backbone, Finding(strength="auto"), check=False)  # type: ignore[arg-type]
    record = model.record
    assert (record["options"]["strength"], record["found"]) == (12.0, ["strength"])
    assert record["selection"].startswith("strength=12 found, ")
    assert "strength=12 found" in model.card()
    assert "--set strength=auto" in how_to_fit(record, "photos")
    opened = Model.open(model.save(tmp_path / "model"), method=Finding, trust_backbone=True)
    assert opened.method.options()["strength"] == 12.0 and opened.record["found"] == ["strength"]


def test_each_fold_of_the_check_finds_by_its_own_images(task: Task, backbone: Backbone) -> None:
    SEEN.clear()
    model = fitted(task, backbone, Finding(strength="auto"))  # type: ignore[arg-type]
    assert SEEN == [12, 9, 9, 9, 9, 5]  # the last with half of the labels
    assert model.record["options"]["strength"] == 12.0


def test_fit_once_more_keeps_what_was_found(task: Task, backbone: Backbone) -> None:
    model = fitted(task, backbone, Finding(strength="auto"), check=False)  # type: ignore[arg-type]
    again = refit(model, [task], shots=4, epochs=1)
    assert len(again.learned) > len(model.learned)
    assert (again.record["options"]["strength"], again.record["found"]) == (12.0, ["strength"])


def test_value_out_of_bounds_is_refused(task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Finding, "find_option", lambda *_: 100.0)
    with pytest.raises(UsageError, match="finding: strength must be a number at least 0 and at most 99, or auto"):
        fitted(task, backbone, Finding(strength="auto"))  # type: ignore[arg-type]


def test_option_that_cannot_be_found_is_refused(task: Task, backbone: Backbone) -> None:
    with pytest.raises(ShotfitError, match="finding has no way to find lost: give it a value"):
        fitted(task, backbone, Finding(lost="auto"))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"options": {"start": "auto"}}, {"found": ["other"]}, {"found": [["start"]]}])
def test_record_that_no_fit_writes_is_refused(
    change: dict[str, Any], task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    folder = fitted(task, backbone, MMA(start=1), check=False).save(tmp_path / "model")
    record = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps(record | change))
    with pytest.raises(ShotfitError, match="fit the model again"):
        Model.open(folder, trust_backbone=True)


def test_comparison_says_what_was_found(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    rows = compare(task, ["apex+beta=auto"], [4], [1], backbone=backbone, epochs=1, recipe="paper",
                   store=MemoryStore(), out=tmp_path / "runs.jsonl")  # fmt: skip
    assert next(iter(rows)).selection.startswith("beta=")
    assert " found, nothing was chosen" in next(iter(rows)).selection


# What is found


def found_beta(backbone: Backbone, *names: str) -> float:
    method = Apex(beta="auto")  # type: ignore[arg-type]
    method.attach(Frozen(backbone), [ClassList("fit", names)])
    none = ImagePool([])
    method.find_options(Support(none, none, 0))
    return method.beta


def distances(backbone: Backbone, *names: str) -> torch.Tensor:
    frozen = Frozen(backbone)
    features = frozen.text(frozen.encode([f"a photo of a {name}." for name in names]))
    features = features / features.norm(dim=1, keepdim=True)
    return 1 - features @ features.T


def test_beta_is_by_how_much_nearer_the_nearest_class_is(backbone: Backbone) -> None:
    names = ("cat", "cats", "traffic light", "a red traffic light")
    apart, others = distances(backbone, *names), ~torch.eye(4, dtype=torch.bool)
    mean, near = float(apart[others].mean()), float(apart.where(others, 9.0).min(dim=1).values.mean())
    assert math.exp(-found_beta(backbone, *names) * mean) == pytest.approx(1 - near / mean, rel=1e-3)


def test_beta_of_names_without_neighbours_keeps_the_coefficient_above_nothing(backbone: Backbone) -> None:
    with patch.object(Frozen, "text", lambda *_: torch.eye(4)):
        beta = found_beta(backbone, "a", "b", "c", "d")
    assert math.exp(-beta) == pytest.approx(0.05)


def test_beta_of_fewer_than_three_classes_or_of_one_name_is_the_default(backbone: Backbone) -> None:
    assert found_beta(backbone, "cat", "dog") == 4.0
    assert found_beta(backbone, "cat", "cat", "cat") == 4.0


def test_start_is_within_the_blocks_and_by_depth_where_nothing_can_be_held_out(task: Task, backbone: Backbone) -> None:
    starts = {shots: fitted(task, backbone, MMA(start="auto", end=2), shots=shots, check=False)  # type: ignore[arg-type]
              for shots in (1, 4)}  # fmt: skip
    assert starts[1].record["options"]["start"] == 2  # of three blocks
    assert 1 <= starts[4].record["options"]["start"] <= 2
    assert starts[4].method.state().keys() >= {"parameter.image_2_down_weight"}
