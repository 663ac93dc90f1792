"""`--method auto`: what won on center views is fitted to random views too, and stays so where that is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shotfit
from shotfit.data.tasks import Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import DivergedError
from shotfit.fitting import race
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import Fitter
from shotfit.fitting.model import Model
from shotfit.fitting.race import Entrant, better_in_views, decided
from shotfit.fitting.refit import refit
from shotfit.methods.linear_probe import LinearProbe
from shotfit.methods.recipe import VIEWS
from shotfit.towers.backbone import Backbone

from .test_race import backbone, folder, raced, task

__all__ = ["backbone", "folder", "task"]  # fixtures


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortlist that is run in a second, and that zero-shot does not win."""
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("linear_probe", "tip_adapter"))


@pytest.fixture
def viewed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Makes views win, and lists what would have been said of each race."""
    said: list[bool] = []

    def wins(winner: Entrant, other: Entrant | None) -> tuple[bool, dict[str, Any]]:
        better, row = better_in_views(winner, other)
        said.append(better)
        return True, row

    monkeypatch.setattr("shotfit.fitting.fit.better_in_views", wins)
    return said


def rows_in_views(model: Model) -> list[dict[str, Any]]:
    return [row for row in model.record["race"] if row["chosen"].get("views") == VIEWS]


def test_winner_runs_in_views_and_keeps_them_only_where_it_is_better(task: Task, backbone: Backbone) -> None:
    model = raced(task, backbone)
    (row,) = rows_in_views(model)
    (first,) = [one for one in model.record["race"] if one["method"] == row["method"] and one is not row]
    assert row["score"] is not None and 0 <= row["accuracy"] <= 1
    if row["score"] <= first["score"]:
        assert model.record["views"] == "center"


def test_model_in_views_is_that_of_a_fit_that_names_them(task: Task, backbone: Backbone, viewed: list[bool]) -> None:
    model = raced(task, backbone)
    assert model.record["views"] == VIEWS and len(viewed) == 1
    found = fit(task.sealed(), model.method.name, options=model.method.options(), views=VIEWS, backbone=backbone,
                store=MemoryStore(), keep=True)  # fmt: skip
    for name, tensor in found.method.state().items():
        assert torch.equal(tensor, model.method.state()[name])
    assert model.record["checked"]["accuracy"] == found.record["checked"]["accuracy"]
    assert "cross-validation" in model.record["selection"]


def test_model_in_views_is_saved_and_learns_the_rest(
    task: Task, backbone: Backbone, viewed: list[bool], tmp_path: Path
) -> None:
    model = raced(task, backbone)
    model.save(tmp_path / "model")
    items = ImagePool(task.test).all()
    assert torch.equal(
        shotfit.load(tmp_path / "model", trust_backbone=True).method.logits(items), model.method.logits(items)
    )
    again = refit(model, [task], keep=True)
    assert again.record["views"] == VIEWS and again.record["refit"]
    assert len(again.learned) > len(model.learned)


def test_ensemble_is_in_views_as_a_whole(
    task: Task, backbone: Backbone, viewed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def together(entrants: list[Entrant]) -> tuple[Entrant, list[dict[str, Any]]]:
        return race._ensemble(entrants, entrants[0].fitted.sizes), decided(entrants)[1]

    monkeypatch.setattr("shotfit.fitting.fit.decided", together)
    model = raced(task, backbone)
    assert model.method.name == "ensemble" and rows_in_views(model)[-1]["method"] == "ensemble"
    assert refit(model, [task], keep=True).record["views"] == VIEWS


@pytest.mark.parametrize("settings", [{"views": "center"}, {"views": 2}, {"budget": 60.0}], ids=str)
def test_views_that_are_given_and_a_budget_leave_it_out(
    settings: dict[str, Any], task: Task, backbone: Backbone
) -> None:
    assert not rows_in_views(raced(task, backbone, **settings))


def test_many_images_leave_it_out(task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shotfit.fitting.fit.VIEWED", len(task.train) - 1)
    assert not rows_in_views(raced(task, backbone))


def test_training_that_diverges_in_views_loses(task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fitter.fit

    def diverging(self: Fitter, *given: Any, **more: Any) -> Any:
        if self.views == VIEWS:
            raise DivergedError("not finite")
        return whole(self, *given, **more)

    monkeypatch.setattr(Fitter, "fit", diverging)
    model = raced(task, backbone)
    assert model.record["views"] == "center" and rows_in_views(model)[0]["score"] is None


def test_probe_counts_an_image_once_however_many_views_it_has(task: Task, backbone: Backbone) -> None:
    probe = LinearProbe(search=False, tolerance=1e-9)
    frozen = Frozen(backbone, MemoryStore())
    probe.attach(frozen, (task.classes,))
    probe.build(frozen, (task.classes,))
    features = np.random.default_rng(0).normal(size=(1, 12, frozen.embed))
    labels = np.arange(12) % len(task.classes.names)
    once, often = (probe._solved(np.concatenate([features] * count), labels, 0.3) for count in (1, 5))
    for one, other in zip(once, often, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
