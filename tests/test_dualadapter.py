"""DualAdapter beyond its official program: descriptions, searches, unequal shots, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.commands.arguments import as_validation
from shotfit.data.tasks import Task
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.fitter import Fitter
from shotfit.fitting.model import Model
from shotfit.methods.base import Method
from shotfit.methods.coefficients import ENTRIES, best_first, parse_grid, right_along
from shotfit.methods.descriptions import read_descriptions
from shotfit.methods.dualadapter import DualAdapter
from shotfit.methods.dualadapter.negative_cache import Cache, negative_keys, trust
from shotfit.methods.dualadapter.paired_templates import PAIRED_TEMPLATES, negated
from shotfit.methods.recipe import Optimizer, Recipe
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

SENTENCES = {"red thing": ["It is red.", "Red all over."], "green thing": ["It is green."], "blue": ["It is blue."]}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return tiny_task(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def fitted(task: Task, backbone: Backbone) -> Callable[..., Model]:
    def fit_with(**options: str) -> Model:
        epochs = 1 if DualAdapter.with_options(options).training_recipe() else None
        return fit(task, "dualadapter", shots=3, epochs=epochs, backbone=backbone, options=options, check=False,
                   recipe="paper", store=MemoryStore())  # fmt: skip

    return fit_with


def _write(folder: Path, content: object) -> Path:
    path = folder / "descriptions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _cache(counts: list[int], shots: int, seed: int = 0) -> Cache:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    drawn = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed)) + 2 * torch.eye(8)[labels]
    keys = torch.nn.functional.normalize(drawn, dim=1)
    return Cache(keys, labels, labels, shots)


# Descriptions


def test_model_with_descriptions_opens_without_their_file(
    fitted: Callable[..., Model], task: Task, tmp_path: Path
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    model = fitted(descriptions=str(_write(folder, SENTENCES)))
    method = model.method
    assert not torch.equal(method.get_buffer("description"), method.get_buffer("template"))
    saved = model.save(tmp_path / "model")
    shutil.rmtree(folder)
    paths = [item.picture.path for item in task.train[:4]]
    opened = Model.open(saved, backbone=model.frozen.backbone)
    assert opened.predict(paths) == model.predict(paths)


def test_templates_stand_for_descriptions_that_are_not_given(fitted: Callable[..., Model]) -> None:
    method = fitted(training_free="true").method
    assert torch.equal(method.get_buffer("description"), method.get_buffer("template"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"blue": ["It is blue."]}, "lack 2 of 3 classes: green thing, red thing; add"),
        ("{", "are no JSON; expected"),
        (["It is blue."], "hold a list; expected a JSON object"),
        (SENTENCES | {"blue": "It is blue."}, "give 'blue' no list of sentences"),
        (SENTENCES | {"blue": []}, "give 'blue' no list of sentences"),
        (SENTENCES | {"blue": [" "]}, "give 'blue' no list of sentences"),
        (SENTENCES | {"blue": [3]}, "give 'blue' no list of sentences"),
    ],
)
def test_malformed_descriptions_are_refused(
    fitted: Callable[..., Model], tmp_path: Path, content: object, words: str
) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(ShotfitError) as refusal:
        fitted(descriptions=str(path))
    assert words in str(refusal.value) and "descriptions.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_missing_and_spoiled_descriptions_are_refused(fitted: Callable[..., Model], tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"nowhere\.json cannot be read \(No such file"):
        fitted(descriptions=str(tmp_path / "nowhere.json"))
    with pytest.raises(ShotfitError, match="special token <end>"):
        fitted(descriptions=str(_write(tmp_path, SENTENCES | {"blue": ["It is <end> blue."]})))


def test_long_descriptions_lose_their_end(fitted: Callable[..., Model], task: Task, tmp_path: Path) -> None:
    file = tmp_path / "long.json"
    file.write_text(json.dumps({name: [f"{name} " + "and so on " * 40] for name in task.classes.names}))
    assert fitted(descriptions=str(file)).method.get_buffer("description").isfinite().all()


def test_many_missing_classes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"lack 30 of 30 classes: class 0, .*, class 19 and 10 more; add"):
        read_descriptions(_write(tmp_path, {}), [f"class_{index}" for index in range(30)])


def test_underscores_are_spaces_in_descriptions(tmp_path: Path) -> None:
    path = _write(tmp_path, {"sea_horse": ["a"], "grand piano": ["b"], "other": 3})
    assert read_descriptions(path, ["sea horse", "grand_piano"]) == [["a"], ["b"]]


# Templates


def test_pairs_of_templates_hold_the_name_once() -> None:
    for positive, negative in PAIRED_TEMPLATES.values():
        assert all(template.count("{}") == 1 for template in (*positive, *negative))
        assert not set(positive) & set(negative)


def test_negatives_made_of_the_official_templates_are_the_official_ones() -> None:
    for name in ("caltech101", "dtd", "eurosat", "fgvc", "food101", "oxford_flowers", "oxford_pets", "sun397"):
        positive, negative = PAIRED_TEMPLATES[name]
        assert negated(positive) == negative


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta_grid": "0,7"}, "beta_grid is '0,7'; expected low,high,steps"),
        ({"alpha_grid": "7,0,3"}, "alpha_grid is '7,0,3'"),
        ({"lambda_grid": "0,2,3"}, "both from 0 to 1"),
        ({"lambda_grid": "0,1,0"}, "at least one step"),
        ({"beta_grid": "0,inf,3"}, "beta_grid is '0,inf,3'"),
        ({"residuals": "template,image"}, "residuals names 'image'"),
        ({"negative_templates": "a photo without {}.|no name"}, "negative_templates holds 'no name'"),
        ({"revision": "simnl2"}, "revision must be one of dualadapter, simnl"),
        ({"template_set": "mnist"}, "template_set must be one of task, caltech101"),
        ({"positive_weight": "1.5"}, "positive_weight must be a number at least 0 and at most 1"),
        ({"alpha": "nan"}, "alpha must be a number at least 0"),
        ({"alpha": "inf"}, "alpha must be a number at least 0"),
        ({"rerank_scale": "0"}, "rerank_scale must be a number above 0"),
        ({"left_out": "0"}, "left_out must be a whole number at least 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        DualAdapter.with_options(options)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_leaving_out_all_classes_is_refused(fitted: Callable[..., Model]) -> None:
    with pytest.raises(UsageError, match=r"left_out is 3, but of 3 classes with images none.*expected at most 2"):
        fitted(left_out="3")


# The cache


def test_classes_of_unequal_counts_have_equal_say() -> None:
    cache = _cache([3, 1, 5], shots=5)
    sums = torch.zeros(3).index_add(0, cache.labels, trust(cache, 0.1))
    torch.testing.assert_close(sums, torch.full((3,), 5.0))


def test_short_classes_give_their_images_again_for_negatives() -> None:
    short = _cache([4, 2, 4], shots=4)
    rows = torch.tensor([0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9])
    filled = short.take(rows)
    expected = negative_keys(filled)[[0, 1, 2, 3, 4, 5, 8, 9, 10, 11]]
    torch.testing.assert_close(negative_keys(short), expected)


def test_rows_are_found_by_label_in_any_order() -> None:
    cache = _cache([3, 1, 5], shots=5)
    order = torch.tensor([8, 0, 3, 4, 1, 5, 6, 2, 7])  # the rows of a class stay in order, but for class 2's last
    within = torch.tensor([0, 1, 2, 3, 8, 4, 5, 6, 7])
    mixed, sorted_ = replace(cache.take(order), shots=5), replace(cache.take(within), shots=5)
    places = torch.tensor([int((within == row).nonzero()) for row in order])
    torch.testing.assert_close(negative_keys(mixed), negative_keys(sorted_)[places])
    torch.testing.assert_close(trust(mixed, 0.1), trust(sorted_, 0.1)[places])


def test_more_classes_can_be_left_out_of_negatives() -> None:
    cache = _cache([1, 1, 1, 1], shots=1)
    similar = (cache.keys @ cache.keys.T).fill_diagonal_(2)
    for row, key in enumerate(negative_keys(cache, left_out=3)):
        torch.testing.assert_close(key, cache.keys[similar[row].argmin()])


def test_class_alone_has_no_opposite_and_one_shot_is_trusted_fully() -> None:
    assert not negative_keys(_cache([3], shots=3)).any()
    assert torch.equal(trust(_cache([1, 1], shots=1), 1.0), torch.ones(2))


# The search


@pytest.mark.parametrize("seed", range(20))
def test_whole_axis_counts_what_each_point_counts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fixed, sloped = (torch.randint(-3, 4, (40, 5), generator=generator).double() for _ in range(2))  # many ties
    labels, values = torch.randint(5, (40,), generator=generator), parse_grid("x", "0,4,16")
    expected = [int(((fixed + value * sloped).argmax(dim=1) == labels).sum()) for value in values]
    assert right_along(fixed, sloped, labels, values).tolist() == expected


def test_several_matrices_are_counted_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    fixed, sloped = (torch.randint(-3, 4, (6, 40, 5), generator=generator).double() for _ in range(2))
    labels, values = torch.randint(5, (40,), generator=generator), parse_grid("x", "0,4,16")
    expected = [right_along(at, slope, labels, values).tolist() for at, slope in zip(fixed, sloped, strict=True)]
    monkeypatch.setitem(ENTRIES, "cpu", 5 * 6 * 7)  # seven images at a time
    assert right_along(fixed, sloped, labels, values).tolist() == expected
    assert right_along(fixed[2], sloped, labels, values)[2].tolist() == expected[2]
    assert right_along(fixed[2, :0], sloped[2, :0], labels[:0], values).tolist() == [0] * len(values)


def test_first_of_equal_points_is_kept_and_nothing_right_keeps_none() -> None:
    assert best_first(torch.tensor([[0, 2], [2, 1]])) == (0, 1)
    assert best_first(torch.zeros(2, 2, dtype=torch.long)) is None


def test_fold_is_judged_by_a_cache_without_its_images(task: Task, backbone: Backbone) -> None:
    grids = {"beta_grid": "0.5,8,3", "alpha_grid": "0.5,40,3", "lambda_grid": "0.3,0.9,2"}
    model = fit(task, "dualadapter", recipe="paper", shots=None, backbone=backbone, store=MemoryStore(), check=False,
                options=grids | {"training_free": "true"})  # fmt: skip
    method = model.method
    assert isinstance(method, DualAdapter)
    assert model.record["selection"] == "cross-validation of the support images (4 folds)"
    assert len(method.get_buffer("keys")) == len(task.train)

    fitter = Fitter(model.frozen, (task.classes,), 1, None)
    validation = fitter.folds(task.train)
    right = torch.zeros_like(method.right)
    for fold in validation.folds:
        part = [task.train[index] for index in fold.train.tolist()]
        alone = fitter.fit(DualAdapter(training_free=True, search=False), part, replace(validation, folds=()), "part")
        right += _counted(alone, method, fold.held, fold.labels)
    assert torch.equal(right, method.right)


def _counted(alone: Method, method: DualAdapter, held: object, labels: Tensor) -> Tensor:
    counts = torch.zeros_like(method.right)
    for point in torch.cartesian_prod(*[torch.arange(size) for size in counts.shape]).tolist():
        chosen = [axis[index] for axis, index in zip(method.grids(), point, strict=True)]
        alone.get_buffer("coefficients").copy_(torch.tensor(chosen))
        predicted = alone.logits(held).argmax(dim=1)  # type: ignore[arg-type]
        counts[tuple(point)] = (predicted == labels).sum()
    return counts


def test_trained_residuals_are_not_searched_by_cross_validation(fitted: Callable[..., Model]) -> None:
    model = fitted(alpha="2.5")
    assert model.record["selection"] == "fixed defaults (trained residuals know all support images)"
    assert model.method.get_buffer("coefficients").tolist() == [1.0, 2.5, 0.75]


def test_one_shot_keeps_the_defaults(task: Task, backbone: Backbone) -> None:
    model = fit(task, "dualadapter", recipe="paper", shots=1, epochs=1, backbone=backbone, store=MemoryStore())
    assert model.record["selection"].startswith("fixed defaults (no validation part")
    assert model.method.get_buffer("coefficients").tolist() == [1.0, 3.0, 0.75]


def test_full_validation_part_is_used_if_asked_and_named(task: Task, backbone: Backbone) -> None:
    val = tuple(item for item in task.train for _ in range(2))  # more than four a class
    split = replace(task, val=val)
    few, full = (
        fit(
            split,
            "dualadapter",
            recipe="paper",
            shots=1,
            epochs=1,
            backbone=backbone,
            store=MemoryStore(),
            validation=choice,
        )
        for choice in ("few", "full")
    )
    assert few.record["selection"] == "validation part (3 images)"
    assert full.record["selection"] == f"full validation part ({len(val)} images)"
    assert full.record["checked"]["images"] == len(val)


def test_full_validation_without_a_part_is_refused(task: Task, backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="no validation part that could be used in full"):
        fit(task, "dualadapter", recipe="paper", shots=1, backbone=backbone, store=MemoryStore(), validation="full")
    with pytest.raises(UsageError, match="--validation is 'all'; expected few"):
        as_validation("all")


# The parts


def test_positive_path_alone_is_lambda_one(fitted: Callable[..., Model], task: Task) -> None:
    alone, weighted = fitted(paths="positive"), fitted(positive_weight="1")
    paths = [item.picture.path for item in task.train[:3]]
    for one, other in zip(alone.predict(paths, top=3), weighted.predict(paths, top=3), strict=True):
        assert one.labels == other.labels
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)


def test_text_classifier_starts_consistent_with_itself(fitted: Callable[..., Model]) -> None:
    method = fitted(training_free="true").method
    assert isinstance(method, DualAdapter)
    assert float(method.consistency()) == pytest.approx(0, abs=1e-6)
    method.consistency_axis = "dimension"
    assert float(method.consistency()) == pytest.approx(0, abs=1e-6)  # descriptions are the templates here


def test_rates_and_groups_follow_the_residuals() -> None:
    assert DualAdapter(residuals="negative", paths="positive").training_recipe() is None
    assert DualAdapter(cache=False).trained() == ["template", "description", "negative"]


def test_last_batch_of_an_epoch_is_kept_only_if_the_recipe_says_so(task: Task, backbone: Backbone) -> None:
    for keep, expected in ((False, 2), (True, 3)):
        steps: list[int] = []

        class Counting(DualAdapter):
            recipe = Recipe(Optimizer("adamw", 1e-4), epochs={1: 1}, batch=4, keep_last=keep)

            def adjust_gradients(self, steps: list[int] = steps) -> None:
                steps.append(1)

        fit(task, Counting(), recipe="paper", shots=3, backbone=backbone, store=MemoryStore(), check=False)
        assert len(steps) == expected
