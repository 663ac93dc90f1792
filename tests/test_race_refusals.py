"""A method of a race that cannot be fitted: the others run on, and the user is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shotfit.commands.console import say_checked
from shotfit.data.tasks import Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.fitting.heldout import HeldOut, pooled
from shotfit.fitting.refit import refit
from shotfit.methods.linear_probe import LinearProbe
from shotfit.methods.tip_adapter import TipAdapter
from shotfit.towers.backbone import Backbone

from .test_race import backbone, folder, raced, task

__all__ = ["backbone", "folder", "task"]  # fixtures


def refuse(self: object) -> None:
    raise ShotfitError("its prompts are too long for this backbone.")


def test_race_runs_on_without_a_method_that_cannot_be_fitted(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter", "linear_probe"))
    monkeypatch.setattr(TipAdapter, "check", refuse)
    model, lines = fit(task.sealed(), shots=4, backbone=backbone, store=MemoryStore(), keep=True), list[str]()
    say_checked(model, lines.append)
    assert "not tried: tip_adapter (its prompts are too long for this backbone)" in lines
    assert model.record["method"] in ("zero_shot", "linear_probe", "ensemble")
    assert "tip_adapter" in (model.save(tmp_path / "model") / "README.md").read_text()
    assert refit(model, [task], shots=4).record["method"] == model.record["method"]


def test_race_of_which_no_method_can_be_fitted_says_why(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("tip_adapter", "linear_probe"))
    for method in (TipAdapter, LinearProbe):
        monkeypatch.setattr(method, "check", refuse)
    with pytest.raises(ShotfitError, match="its prompts are too long"):
        fit(task.sealed(), shots=4, backbone=backbone, store=MemoryStore())


def test_folds_are_pooled_only_where_none_diverged() -> None:
    part = HeldOut(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(2, 4), "here")
    whole = pooled([part, part])
    assert whole is not None and (len(whole), whole.source) == (4, "here")
    assert pooled([part, None]) is None and pooled([]) is None


def test_race_leaves_out_a_method_that_would_take_long(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter", "linear_probe"))
    monkeypatch.setattr("shotfit.fitting.race.UP_TO", {"tip_adapter": 2 * len(task.classes.names)})
    lines = list[str]()
    say_checked(fit(task.sealed(), shots=4, backbone=backbone, store=MemoryStore(), keep=True), lines.append)
    most = f"{2 * len(task.classes.names):,}"
    reason = f"it takes long with more than {most} support images; --method tip_adapter runs it"
    assert f"not tried: tip_adapter ({reason})" in lines
    tried = fit(task.sealed(), shots=2, backbone=backbone, store=MemoryStore(), keep=True).record["race"]
    assert not any("refused" in row for row in tried)


def test_race_of_one_method_runs_it_however_long_it_takes(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shotfit.fitting.fit.ALONE", "tip_adapter")
    monkeypatch.setattr("shotfit.fitting.race.UP_TO", {"tip_adapter": 1})
    model = fit(task.sealed(), shots=1, backbone=backbone, store=MemoryStore())  # nothing can be held out
    assert (model.record["method"], model.record["race"]) == ("tip_adapter", [])


@pytest.mark.slow
def test_candidates_that_do_not_fit_side_by_side_are_chosen_from_alike(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for most in (2**24, 1):
        monkeypatch.setattr("shotfit.fitting.fitter.TOGETHER", most)
        model = fit(task.sealed(), "dualadapter", shots=4, backbone=backbone, store=MemoryStore(), keep=True)
        rows.append(model.record["choice"]["tried"])
    for one, other in zip(*rows, strict=True):
        assert one | {"score": None} == other | {"score": None}
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_race_that_zero_shot_wins_says_so(task: Task, backbone: Backbone) -> None:
    model, lines = raced(task, backbone, "zero_shot", shots=4), list[str]()
    model.record["race"] = [{"method": "zero_shot", "accuracy": 0.5, "chosen": {}}]
    say_checked(model, lines.append)
    assert lines[0] == "selection: zero_shot, since no other is clearly better on held-out images"
