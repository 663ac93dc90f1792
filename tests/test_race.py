"""`--method auto`: who wins a race, what an ensemble is, what is refused, and what a fit says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from shotfit.commands.cli import main
from shotfit.commands.console import say_checked
from shotfit.data.tasks import Item, Task
from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.plans import Plan
from shotfit.engine.store import MemoryStore
from shotfit.errors import FallbackWarning, NewClassesError, ShotfitError, UsageError
from shotfit.evaluation.compare import compare
from shotfit.evaluation.variants import read_variant
from shotfit.fitting import race
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import Setting
from shotfit.fitting.heldout import HeldOut, log_likelihoods
from shotfit.fitting.model import Model
from shotfit.fitting.race import SHORTLIST, WITH_NEW_CLASSES, Entrant, decided
from shotfit.fitting.refit import everything, refit
from shotfit.fitting.selection import Candidate, Choice
from shotfit.fitting.summary import training_lines
from shotfit.methods import Axis, Grid, find
from shotfit.methods.base import Fold
from shotfit.methods.ensemble import Ensemble, averaged
from shotfit.methods.zero_shot import ZeroShot
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

CLASSES = 3


class Hopeless(ZeroShot):
    """Says the opposite of zero-shot."""

    name: ClassVar[str] = "hopeless"

    def logits(self, images: Images) -> Tensor:
        """[images, classes]."""
        return -super().logits(images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("race")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOTFIT_CACHE", str(place / "cache"))
        yield place


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return tiny_backbone(folder / "backbone")


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return tiny_task(folder / "images", images=8)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shortlist that is run in a second."""
    monkeypatch.setattr("shotfit.fitting.race.SHORTLIST", ("zero_shot", "tip_adapter", "linear_probe"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained methods that take eight steps, with two rates to choose from."""
    for name in WITH_NEW_CLASSES:
        grid = Grid((Axis("lr", (2e-3, 2e-2), ""), Axis("steps", (8,), "")), robust={"lr": 2e-3, "steps": 8})
        monkeypatch.setattr(find(name), "grid", grid if find(name).recipe else None)


@pytest.fixture
def averaging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races in which averaging all but the first wins."""

    def together(entrants: Sequence[Entrant]) -> tuple[Entrant, list[dict[str, Any]]]:
        return race._ensemble(entrants[1:], entrants[0].fitted.sizes), decided(entrants)[1]

    monkeypatch.setattr("shotfit.fitting.fit.decided", together)


def raced(task: Task, backbone: Backbone, method: str = "auto", **settings: Any) -> Model:
    given: dict[str, Any] = {"store": MemoryStore(), "keep": True} | settings
    return fit(task.sealed(), method, backbone=backbone, **given)


# Who wins


@pytest.fixture
def frozen(backbone: Backbone) -> Frozen:
    return Frozen(backbone, MemoryStore())


def entrant(name: str, said: Tensor | None, frozen: Frozen, task: Task) -> Entrant:
    """A method that says this of held-out images of class 0, 1 and 2 in turn; None: it diverged."""
    method = find(name)()
    method.attach(frozen, (task.classes,))
    labels = torch.arange(60) % CLASSES
    fold = Fold(torch.arange(0), ImagePool(()).all(), labels)
    held = None if said is None else HeldOut(said, labels, torch.zeros(60, 2), "")
    return Entrant(Choice(Candidate(method, Setting(), {}, 0)), method, [(fold, held)])


def logits(right: float, seed: int, noise: float = 1.0) -> Tensor:
    """Of sixty images, so far apart on average, with noise: [60, 3]."""
    drawn = torch.randn(60, CLASSES, generator=torch.Generator().manual_seed(seed)) * noise
    return drawn + right * torch.eye(CLASSES)[torch.arange(60) % CLASSES]


def of(frozen: Frozen, task: Task, *said: Tensor | None) -> list[Entrant]:
    names = ("zero_shot", "tip_adapter", "linear_probe")
    return [entrant(name, own, frozen, task) for name, own in zip(names, said, strict=False)]


def test_simplest_within_one_standard_error_wins(frozen: Frozen, task: Task) -> None:
    near = logits(2.0, 1)
    winner, rows = decided(of(frozen, task, near, near + 0.1 * logits(0.0, 11)))
    assert winner.fitted.name == "zero_shot"
    assert min(row["score"] for row in rows[1:]) > rows[0]["score"]  # better, but not by a standard error
    assert [row["method"] for row in rows] == ["zero_shot", "tip_adapter", "ensemble"]


def test_clearly_better_method_wins_though_it_stands_last(frozen: Frozen, task: Task) -> None:
    good = logits(4.0, 3, noise=0.5)
    winner, rows = decided(of(frozen, task, logits(0.0, 1), logits(0.0, 2), good))
    assert winner.fitted.name == "linear_probe"
    assert rows[2]["accuracy"] == 1.0 and rows[2]["score"] == max(row["score"] for row in rows)


def test_ensemble_wins_where_its_members_err_on_different_images(frozen: Frozen, task: Task) -> None:
    said = of(frozen, task, logits(1.5, 1), logits(1.5, 2), logits(1.5, 3))
    winner, rows = decided(said)
    assert isinstance(winner.fitted, Ensemble) and len(winner.fitted.parts) == 3
    assert winner.lead is not None and winner.lead in said
    assert rows[-1]["chosen"]["members"].count("+") == 2
    held = winner.held_out()
    assert held is not None
    alone = max(row["score"] for row in rows[:3])
    assert float(log_likelihoods(held.logits, held.labels, (CLASSES,)).mean()) > alone


def test_method_that_diverged_loses_and_is_recorded(frozen: Frozen, task: Task) -> None:
    winner, rows = decided(of(frozen, task, logits(1.0, 1), None))
    assert winner.fitted.name == "zero_shot"
    assert (rows[1]["accuracy"], rows[1]["score"]) == (None, None)


def test_where_every_method_diverged_the_first_is_given(frozen: Frozen, task: Task) -> None:
    winner, rows = decided(of(frozen, task, None, None))
    assert winner.fitted.name == "zero_shot" and len(rows) == 2


def test_average_is_the_mean_of_log_probabilities_at_their_temperatures() -> None:
    first, second = logits(1.0, 1), logits(1.0, 2)
    expected = ((first / 2).softmax(dim=1).log() + (second / 3).softmax(dim=1).log()) / 2
    torch.testing.assert_close(averaged([first, second], [2.0, 3.0]), expected)


# A race of fits


def test_race_runs_the_shortlist_and_records_every_method(task: Task, backbone: Backbone) -> None:
    model = raced(task, backbone, shots=3)
    rows = {row["method"]: row for row in model.record["race"]}
    assert [name for name in rows if name != "ensemble"] == list(SHORTLIST)
    assert rows.keys() >= {model.record["fitted_method"]}
    assert all(0 <= row["accuracy"] <= 1 for row in rows.values())
    assert {name for name, row in rows.items() if row["tried"]} == {"taskres", "dualadapter"}
    assert rows["taskres"]["chosen"] in [trial["point"] for trial in rows["taskres"]["tried"]]
    assert model.record["views"] == "center" and model.record["checked"]["images"] == 9


def test_race_of_the_same_seed_gives_the_same_bits(task: Task, backbone: Backbone, short: None) -> None:
    one, other = (raced(task, backbone, shots=4) for _ in range(2))
    assert one.record["race"] == other.record["race"]
    states = one.method.state(), other.method.state()
    assert states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def test_race_scores_a_method_as_its_own_fit_is_checked(task: Task, backbone: Backbone, short: None) -> None:
    rows = {row["method"]: row for row in raced(task, backbone, shots=4).record["race"]}
    for name in ("tip_adapter", "linear_probe"):
        alone = raced(task, backbone, name, shots=4, views="center")
        assert rows[name]["accuracy"] == alone.record["checked"]["accuracy"]


def test_one_shot_is_not_raced(task: Task, backbone: Backbone) -> None:
    model = raced(task, backbone, shots=1)
    assert model.record["method"] == race.ALONE and model.record["race"] == []


class _Untouchable(tuple[Item, ...]):
    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("the test part was touched")

    def __iter__(self) -> Iterator[Item]:
        raise AssertionError("the test part was touched")

    def __len__(self) -> int:
        raise AssertionError("the test part was touched")


@pytest.mark.parametrize(("method", "needs"), [("auto", None), ("auto", "new-classes"), ("taskres", None)])
def test_test_part_stays_sealed(task: Task, backbone: Backbone, hasty: None, method: str, needs: Any) -> None:
    sealed, steps = replace(task, held_out=_Untouchable()), None if method == "auto" else 8
    model = fit(sealed, method, shots=3, backbone=backbone, store=MemoryStore(), needs=needs, steps=steps)
    assert model.record["race"] or model.record["choice"]["tried"]


def test_needs_new_classes_races_methods_that_have_them(task: Task, backbone: Backbone, hasty: None) -> None:
    model = raced(task, backbone, needs="new-classes", shots=3)
    assert [row["method"] for row in model.record["race"] if row["method"] != "ensemble"] == list(WITH_NEW_CLASSES)
    assert all(find(name).accepts_new_classes for name in WITH_NEW_CLASSES)
    assert len(model.for_classes(["wet", "dry"]).predict(task.test[0].picture.path, top=2)[0].labels) == 2


# The ensemble


@pytest.fixture
def ensemble(task: Task, backbone: Backbone, short: None, averaging: None) -> Model:
    return raced(task, backbone, shots=4)


def test_ensemble_that_is_saved_predicts_the_same_bits_in_a_fresh_process(
    ensemble: Model, task: Task, tmp_path: Path
) -> None:
    paths = [str(item.picture.path) for item in task.test]
    expected = torch.tensor([one.probabilities for one in ensemble.predict(paths, top=3)])
    saved = ensemble.save(tmp_path / "model")
    script = (
        "import json, sys; from shotfit.fitting.model import Model\n"
        "model = Model.open(sys.argv[1], trust_backbone=True)\n"
        "print(json.dumps([one.probabilities for one in model.predict(sys.argv[2:], top=3)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved), *paths], capture_output=True, text=True, check=True
    )
    assert torch.equal(expected, torch.tensor(json.loads(done.stdout)))
    card = (saved / "README.md").read_text()
    assert "# ensemble on " in card and "| ensemble | members=" in card and "| linear_probe |" in card


def test_image_tower_runs_once_for_all_members(ensemble: Model, task: Task, tmp_path: Path) -> None:
    opened = Model.open(ensemble.save(tmp_path / "model"), ensemble.frozen.backbone)
    for model in (ensemble, opened):
        model.frozen.plans = plans = list[Plan]()
        model.predict(task.test[0].picture.path)
        assert [plan.tower for plan in plans] == ["image"]
    assert isinstance(opened.method, Ensemble) and [part.name for part in opened.method.parts] == [
        "tip_adapter",
        "linear_probe",
    ]


def test_ensemble_is_the_average_of_its_members(ensemble: Model, task: Task) -> None:
    method, images = ensemble.method, ImagePool(task.test).all()
    assert isinstance(method, Ensemble)
    parts = [part.logits(images) for part in method.parts]
    torch.testing.assert_close(method.logits(images), averaged(parts, method.temperatures))


def test_ensemble_knows_other_classes_if_its_members_do(
    task: Task, backbone: Backbone, hasty: None, averaging: None
) -> None:
    able = raced(task, backbone, needs="new-classes", shots=3)
    assert able.record["method"] == "ensemble"
    prediction = able.for_classes([*reversed(able.class_names), "another"]).predict(task.test[0].picture.path, top=4)[0]
    ranks = [label for label in prediction.labels if label != "another"]
    assert ranks == list(able.predict(task.test[0].picture.path, top=3)[0].labels)


def test_ensemble_of_a_method_that_knows_no_other_classes_refuses_them(ensemble: Model) -> None:
    with pytest.raises(NewClassesError, match="tip_adapter learned one row for each of its classes"):
        ensemble.for_classes(["wet", "dry"])


def test_ensemble_is_fitted_again_member_by_member(ensemble: Model, task: Task) -> None:
    again, views = refit(ensemble, [task], shots=4), ensemble.record["views"]
    assert isinstance(again.method, Ensemble) and isinstance(ensemble.method, Ensemble)
    assert again.method.temperatures == ensemble.method.temperatures
    whole = everything(task, 4, 1)
    for part, before in zip(again.method.parts, ensemble.method.parts, strict=True):
        prototype = type(before)(**before.options() | before.chosen())
        expected = fit(
            whole, prototype, backbone=again.frozen.backbone, store=MemoryStore(), check=False, views=views
        ).method.state()
        found, chosen = part.state(), "buffer.beta_alpha"
        assert all(torch.equal(expected[key], value) for key, value in found.items() if key != chosen)
        if chosen in found:
            assert torch.equal(found[chosen], before.state()[chosen])  # nothing is chosen anew
    assert (again.record["refit"], again.record["support_images"]) == (True, len(whole.train))
    assert again.record["race"] == ensemble.record["race"] and again.trust is ensemble.trust
    assert len(again.learned) == len(whole.train) and again.predict(task.test[0].picture.path)[0].labels


def test_ensemble_that_names_a_file_of_code_is_not_run(task: Task, frozen: Frozen, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('run')\n")
    member = {"method": f"{tmp_path / 'own.py'}:Own", "options": {}, "temperature": 1.0}
    for members in (json.dumps([member]), "[", '["zero_shot"]', '[{"method": "zero_shot"}]'):
        with pytest.raises(ShotfitError, match="list of members cannot be read"):
            Ensemble(members).attach(frozen, (task.classes,))


# What is refused


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": 0.1}, "lr is given, but --method auto tries several methods"),
        ({"epochs": 2}, "epochs is given, but --method auto"),
        ({"steps": 2}, "steps is given, but --method auto"),
        ({"options": {"alpha": "1"}}, "an option is given, but --method auto"),
        ({"check": False}, "--method auto decides by the check on held-out images: leave that on"),
        ({"needs": "speed"}, "There is no need 'speed': use new-classes"),
        ({"method": "coop", "needs": "new-classes"}, "but a method is named: leave one of them out"),
        ({"method": "coop", "recipe": "papr"}, "There is no recipe 'papr': use auto, or paper"),
        ({"method": "coop", "budget": 0}, "The budget must be a number of seconds above 0, but is 0"),
        ({"method": "coop", "budget": float("nan")}, "The budget must be a number of seconds above 0"),
        ({"method": "coop", "budget": 3, "recipe": "paper"}, "A budget bounds what --recipe auto tries"),
        ({"method": "coop", "epochs": 2, "steps": 3}, "Both epochs (2) and steps (3) are given"),
        ({"method": "coop", "steps": 0}, "steps is 0; expected a whole number from 1"),
        ({"method": "linear_probe", "steps": 3}, "steps is given, but linear_probe takes no gradient steps"),
        ({"method": "ensemble"}, "ensemble is made by --method auto"),
    ],
)
def test_wrong_settings_are_one_sentence(
    task: Task, backbone: Backbone, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        raced(task, backbone, **settings)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--recipe", "papr"], "--recipe is 'papr'; expected auto, or paper"),
        (["--needs", "speed"], "--needs is 'speed'; expected new-classes"),
        (["--method", "coop", "--needs", "new-classes"], "but a method is named"),
        (["--method", "coop", "--budget", "0"], "The budget must be a number of seconds above 0"),
        (["--method", "coop", "--budget", "3", "--recipe", "paper"], "but the recipe is paper"),
        (["--method", "coop", "--epochs", "2", "--steps", "3"], "Both epochs (2) and steps (3) are given"),
        (["--lr", "0.1"], "lr is given, but --method auto"),
        (["--set", "alpha=1"], "an option is given, but --method auto"),
        (["--no-check"], "--method auto decides by the check"),
    ],
)
def test_wrong_flags_are_one_line_before_images_are_read(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    code = main(["fit", str(task.source), "--out", str(tmp_path / "m"), *words])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert sentence in captured.err and len(captured.err.splitlines()) == 1


def test_several_tasks_are_not_raced_together(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    other = tiny_task(tmp_path / "other", ("wet", "dry"))
    with pytest.raises(UsageError, match="but 2 were given: fit each on its own, or name a method of several"):
        fit([task.sealed(), other.sealed()], backbone=backbone, store=MemoryStore())


def test_list_of_one_task_is_raced(task: Task, backbone: Backbone, short: None) -> None:
    assert fit([task.sealed()], shots=2, backbone=backbone, store=MemoryStore(), keep=True).record["race"]


# What a fit says of itself


def test_fallback_is_a_warning_of_its_own_kind(task: Task, backbone: Backbone) -> None:
    with pytest.warns(FallbackWarning, match=r"hopeless is worse than zero-shot .*keep=True, keeps the fit") as caught:
        model = fit(task.sealed(), Hopeless(), shots=4, backbone=backbone, store=MemoryStore())
    assert (model.record["method"], model.record["fell_back"]) == ("zero_shot", True)
    assert len(caught) == 1


def test_fit_that_did_nothing_says_so(task: Task, backbone: Backbone) -> None:
    model = raced(task, backbone, "mma", recipe="paper", epochs=1)
    told, advice = training_lines(model.record)
    assert "steps, loss " in told and "support images right" in told
    assert advice.startswith("mma is no better than zero-shot on the images that it has learned from: give it more")


def test_fit_that_learned_says_what_it_did() -> None:
    training = {
        "steps": 1200,
        "first_loss": 2.5,
        "last_loss": 0.1,
        "right_before": 0.1,
        "right_after": 0.9,
        "right_zero_shot": 0.1,
    }
    record = {"training": training | {"looked_at": 64}, "fitted_method": "coop"}
    assert training_lines(record) == ["training: 1,200 steps, loss 2.5 to 0.1, support images right 10.0 to 90.0 %"]


def test_fit_without_steps_says_nothing_of_a_training(task: Task, backbone: Backbone) -> None:
    assert training_lines(raced(task, backbone, "linear_probe", shots=4).record) == []


@pytest.mark.parametrize(
    ("half", "verdict"),
    [
        (0.6, "more labels would help: with half of them, 20.0 points fewer are right of 50 held-out images"),
        (0.79, "more labels would change little: with half of them, 1.0 points fewer are right of 50 held-out images"),
        (0.80, "more labels would change little: with half of them, as many are right of 50 held-out images"),
        (0.81, "more labels would change little: with half of them, 1.0 points more are right of 50 held-out images"),
    ],
)
def test_fit_ends_with_whether_more_labels_would_help(
    task: Task, backbone: Backbone, half: float, verdict: str
) -> None:
    model, lines = raced(task, backbone, "tip_adapter", shots=4), list[str]()
    model.record["half_of_the_labels"] = {"accuracy": 0.8, "half": half, "images": 50, "error": 0.05}
    say_checked(model, lines.append)
    assert lines[-1] == verdict


def test_race_is_told_with_the_members_of_an_ensemble(ensemble: Model) -> None:
    lines = list[str]()
    say_checked(ensemble, lines.append)
    assert any(line.endswith(" %  linear_probe") for line in lines)
    assert any("ensemble of " in line and "+" in line for line in lines)


# Recipes in a comparison


def test_row_names_its_recipe_in_front_of_its_options() -> None:
    variant = read_variant("mma@paper+lr=0.006")
    assert (variant.name, variant.recipe, variant.lr) == ("mma@paper+lr=0.006", "paper", 0.006)
    assert read_variant("mma@auto", recipe="paper").recipe == "auto"
    assert read_variant("mma", recipe="paper").recipe == "paper"
    assert read_variant("mma+steps=7").steps == 7


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mma@papr", "asks for the recipe 'papr': use @auto or @paper"),
        ("mma@", "asks for the recipe '': use @auto or @paper"),
        ("mma@papr+lr=0.1", "use @auto or @paper"),
        ("mma+epochs=1+steps=2", "gives both epochs and steps"),
        ("zero_shot+steps=2", "takes no gradient steps"),
        ("coop+length=4+lr=0.1@paper", "put it behind the method, as in coop@paper+lr="),
    ],
)
def test_unknown_recipe_of_a_row_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read_variant(name)
    assert sentence in str(refusal.value)


def test_recipes_of_a_comparison_are_runs_of_their_own(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    resumed: list[bool] = []

    def rows(*names: str, **settings: Any) -> list[str]:
        found = compare(task, names, [2], [1], backbone=backbone, store=MemoryStore(), out=tmp_path / "runs",
                        report=lambda run: resumed.append(run["resumed"]), **settings)  # fmt: skip
        return [row.method for row in found]

    names = ["taskres@paper+epochs=2", "taskres@auto+epochs=2", "taskres@auto+epochs=2+alpha=0.5"]
    assert rows(*names) == names and resumed == [False, False, False]
    resumed.clear()
    rows("taskres+epochs=2", recipe="paper")
    rows("taskres+epochs=2", "taskres+epochs=2+alpha=0.5")
    assert resumed == [True, True, True]


def test_command_compares_by_the_papers_recipe(
    task: Task, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(task.source), "--backbone", str(folder / "backbone"), "--shots", "2", "--seeds", "1"]
    words += ["--methods", "taskres,taskres@auto", "--recipe", "paper", "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "runs.jsonl"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in printed["rows"]] == ["taskres", "taskres@auto"]
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [run["settings"]["recipe"] for run in runs] == ["paper", "auto"]
    assert runs[0]["selection"].startswith("nothing was chosen") and "lr=" in runs[1]["selection"]
