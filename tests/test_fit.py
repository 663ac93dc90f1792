"""A fit as its user sees it: what is computed twice, what is compared, what is refused."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.cli import main
from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList, Task
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.program import program_of
from shotfit.fitting.refit import refit
from shotfit.methods import METHODS, file_of, find
from shotfit.methods.linear_probe import LinearProbe
from shotfit.methods.recipe import VIEWS
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import Preprocessing

from .pictures import bomb

OPTIONS = {"coop": {"length": "4"}, "coop_mt": {"length": "4"}, "softcpt": {"length": "4"}}

WHOLE = {"fine_tune", "wise_ft"}  # they run the image tower from pixels on, which are decoded each time
INNER = {  # they read streams of inner blocks, which their own first fit stores
    "apex", "clip_lora", "clip_svd", "ivlp", "maple", "mma", "mma_plus_plus", "mmrl", "prolip", "promptsrc",
    "two_stage", "vpt",
}  # fmt: skip

METHOD_FILE = '''
"""A method of a third party."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shotfit.data.readers import read_task
from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen
from shotfit.methods import Method, Optimizer, Recipe, option


class Offset(Method):
    """One vector added to every class."""

    name: ClassVar[str] = "offset"
    title: ClassVar[str] = "Offset"
    paper: ClassVar[str] = "none"
    recipe: ClassVar[Recipe | None] = Recipe(Optimizer("sgd", 0.1), epochs={1: 3})

    start: float = option(0.5, "where it begins", above=0)

    def build(self, frozen: Frozen, classes: Sequence[ClassList]) -> None:
        texts, _ = frozen.class_texts(classes)
        self.register_buffer("base", frozen.text(texts))
        self.offset = nn.Parameter(torch.full((frozen.embed,), self.start))

    def text_features(self) -> Tensor:
        return self.get_buffer("base") + self.offset
'''


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("fit") / "backbone")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return tiny_task(tmp_path / "images", images=8)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How many images were decoded, and how many went through the image tower."""
    counted: Counter[str] = Counter()
    pixels, run = ImagePool.pixels, Frozen._run_until

    def count_pixels(pool: ImagePool, rows: tuple[int, ...], rule: Preprocessing, reduced: bool) -> list[torch.Tensor]:
        counted["decoded"] += len(rows)
        return pixels(pool, rows, rule, reduced)

    def count_run(frozen: Frozen, batch: torch.Tensor, step: int, paired: bool) -> torch.Tensor:
        counted["encoded"] += len(batch)
        return run(frozen, batch, step, paired)

    monkeypatch.setattr(ImagePool, "pixels", count_pixels)
    monkeypatch.setattr(Frozen, "_run_until", count_run)
    yield counted


def test_second_fit_of_any_method_decodes_and_encodes_no_image(
    task: Task, backbone: Backbone, tmp_path: Path, counts: Counter[str]
) -> None:
    fit(task, "tip_adapter_f", shots=2, epochs=1, backbone=backbone, store=Store(tmp_path / "store"))
    assert counts["decoded"] == counts["encoded"] > 0
    counts.clear()
    for method in METHODS.keys() - INNER - WHOLE:
        options, epochs = OPTIONS.get(method), 1 if find(method).recipe else None
        store = Store(tmp_path / "store")
        fit(task, method, shots=2, epochs=epochs, options=options, backbone=backbone, store=store)
    assert not counts, f"a second fit computed {dict(counts)}"


def test_fit_that_diverges_is_refused(task: Task, backbone: Backbone) -> None:
    with pytest.raises(ShotfitError, match=r"clip_adapter did not converge: .*choose a lower learning rate"):
        fit(task, "clip_adapter", shots=2, epochs=5, lr=1e30, backbone=backbone, store=MemoryStore(), check=False)


def test_class_name_that_is_too_long_is_refused_before_images_are_read(
    task: Task, backbone: Backbone, counts: Counter[str]
) -> None:
    long = replace(task, classes=replace(task.classes, names=("very " * 80 + "long", *task.classes.names[1:])))
    with pytest.raises(ShotfitError, match="but the text tower has room for"):
        fit(long, "linear_probe", shots=1, backbone=backbone, store=MemoryStore())
    assert not counts


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0; expected a whole number from 1"),
        ({"views": -3}, "views is -3; expected a whole number from 0 to 1,000, center or fresh"),
        ({"shots": 1.5}, "shots is 1.5; expected a whole number"),
        ({"seed": 2**32}, "seed is 4294967296; expected"),
        ({"method": "zero_shot", "lr": 0.1}, "lr is given, but zero_shot takes no gradient steps"),
        ({"templates": "a photo of {}"}, "templates is 'a photo of {}'; expected a list of texts"),
    ],
)
def test_numbers_out_of_range_are_refused(
    task: Task, backbone: Backbone, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        given: dict[str, Any] = {"method": "coop", "backbone": backbone, "store": MemoryStore()}
        fit(task, **given | settings)


@pytest.mark.parametrize("method", sorted(INNER))
def test_second_fit_inside_the_image_tower_decodes_no_image(
    method: str, task: Task, backbone: Backbone, tmp_path: Path, counts: Counter[str]
) -> None:
    for _ in range(2):
        counts.clear()
        fit(task, method, shots=2, epochs=1, options=OPTIONS.get(method), backbone=backbone, store=Store(tmp_path))
    assert not counts, f"a second fit computed {dict(counts)}"


def test_another_backbone_shares_no_features(
    task: Task, backbone: Backbone, tmp_path: Path, counts: Counter[str]
) -> None:
    fit(task, "zero_shot", shots=2, backbone=backbone, store=Store(tmp_path / "store"))
    linear = fit(task, "linear_probe", shots=2, backbone=backbone, store=Store(tmp_path / "store"), check=False)
    counts.clear()
    other = tiny_backbone(tmp_path / "other")
    weights = {
        name: -value if name == "image.projection.weight" else value for name, value in other.state_dict().items()
    }
    other = Backbone(other.config, weights, other.tokenizer, "other")
    moved = fit(task, "linear_probe", shots=2, backbone=other, store=Store(tmp_path / "store"), check=False)
    assert counts["encoded"] == 6
    assert linear.method.state().keys() == moved.method.state().keys()


def test_edited_image_is_encoded_anew(task: Task, backbone: Backbone, tmp_path: Path, counts: Counter[str]) -> None:
    everything = replace(task, train=(*task.train, *task.test), held_out=())
    store, probe = Store(tmp_path / "store"), "linear_probe"
    fit(everything, probe, shots=None, backbone=backbone, store=store, check=False)
    counts.clear()
    Image.new("RGB", (40, 36), "orange").save(task.train[0].picture.path)
    again = read_task(tmp_path / "images")
    everything = replace(again, train=(*again.train, *again.test), held_out=())
    fit(everything, probe, shots=None, backbone=backbone, store=store, check=False)
    assert counts == {"decoded": 1, "encoded": 2}  # one alone is encoded in a batch of two, as it would be among others


def _fit_in_process(folder: Path, name: str) -> None:
    store = Store(folder / "store")
    fit(folder / "images", "taskres", shots=3, epochs=2, backbone=str(folder / "backbone"), store=store).save(
        folder / name
    )


def test_two_fits_at_once_on_one_store_give_the_same_model(task: Task, tmp_path: Path) -> None:
    tiny_backbone(tmp_path / "backbone")
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_fit_in_process, args=(tmp_path, f"model{i}")) for i in (1, 2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    first, second = (Model.open(tmp_path / f"model{i}", trust_backbone=True).method.state() for i in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    _fit_in_process(tmp_path, "model3")
    third = Model.open(tmp_path / "model3", trust_backbone=True).method.state()
    assert all(torch.equal(first[name], third[name]) for name in first)


class Hopeless(LinearProbe):
    """A probe that has learned the opposite."""

    name = "hopeless"

    def logits(self, images):  # type: ignore[no-untyped-def]
        return -super().logits(images)


def test_fit_below_zero_shot_is_replaced_by_zero_shot(task: Task, backbone: Backbone) -> None:
    model = fit(task, Hopeless(), shots=4, backbone=backbone, store=MemoryStore())
    checked = model.record["checked"]
    assert checked["accuracy"] < checked["zero_shot_accuracy"]
    assert checked["on"].startswith("cross-validation of the support images")
    assert (model.record["fell_back"], model.method.name, model.record["fitted_method"]) == (
        True,
        "zero_shot",
        "hopeless",
    )


def test_check_takes_the_c_that_was_chosen(task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, solve = list[float](), LinearProbe._fit

    def noted(probe: LinearProbe, features: Any, labels: Any, c: float) -> Any:
        tried.append(c)
        return solve(probe, features, labels, c)

    monkeypatch.setattr(LinearProbe, "_fit", noted)
    model = fit(task, LinearProbe(), shots=4, backbone=backbone, store=MemoryStore(), keep=True)
    assert isinstance(model.method, LinearProbe) and model.method.course is not None
    searched = 4 * len(set(model.method.course.tried))
    assert tried[searched:] == [model.method.course.best] * (1 + 4 + 1)  # the fit, each fold, and half of one


def test_fit_below_zero_shot_is_kept_if_asked(task: Task, backbone: Backbone) -> None:
    model = fit(task, Hopeless(), shots=4, backbone=backbone, store=MemoryStore(), keep=True)
    assert (model.record["fell_back"], model.method.name) == (False, "hopeless")


def test_validation_part_judges_where_there_is_one(task: Task, backbone: Backbone) -> None:
    split = replace(task, train=task.train[1::2], val=task.train[::2])
    images = len(split.shots(3, 1).val)
    model = fit(split, "linear_probe", shots=3, backbone=backbone, store=MemoryStore())
    assert model.record["selection"] == f"validation part ({images} images)"
    assert model.record["checked"]["images"] == images


def test_one_shot_uses_fixed_defaults_and_says_so(task: Task, backbone: Backbone) -> None:
    model = fit(task, "tip_adapter", shots=1, backbone=backbone, store=MemoryStore())
    assert model.record["selection"].startswith("fixed defaults")
    assert not model.record["checked"]


def _spoil(photos: Path, problem: str) -> None:
    path = photos / "blue" / "spoiled.png"
    match problem:
        case "unreadable":
            path.write_bytes(b"no image")
        case "empty class":
            (photos / "nothing").mkdir()
        case "too large":
            bomb(path)
        case "loop":
            path.symlink_to(path.name)


@pytest.mark.parametrize("problem", ["unreadable", "empty class", "too large", "loop"])
def test_fit_of_a_path_stops_at_what_stops_the_command(
    problem: str, task: Task, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _spoil(task.source, problem)
    with pytest.raises(ShotfitError) as stopped:
        fit(task.source, "zero_shot", shots=2, backbone=backbone, store=MemoryStore())
    assert main(["fit", str(task.source), "--out", str(tmp_path / "model")]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {stopped.value}"


def test_fit_of_a_path_leaves_broken_files_out_if_asked(backbone: Backbone, tmp_path: Path) -> None:
    for part in ("train", "test"):
        tiny_task(tmp_path / "photos" / part, images=4)
    _spoil(tmp_path / "photos" / "train", "unreadable")
    photos = tmp_path / "photos"
    model = fit(photos, "zero_shot", shots=None, backbone=backbone, store=MemoryStore(), skip_broken=True)
    assert model.record["support_images"] == 12


def test_class_name_with_a_special_token_is_refused(task: Task, backbone: Backbone) -> None:
    spoiled = replace(task, classes=ClassList("images", ("red", "a <end> b", "blue")))
    with pytest.raises(ShotfitError, match="<end>"):
        fit(spoiled, "zero_shot", shots=1, backbone=backbone, store=MemoryStore())


def test_memory_of_the_random_generator_is_left_alone(task: Task, backbone: Backbone) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(task, "taskres", shots=1, epochs=1, backbone=backbone, store=MemoryStore())
    assert torch.equal(before, torch.get_rng_state())


def test_method_of_a_file_is_fitted_saved_and_opened(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    file = tmp_path / "my_method.py"
    file.write_text(METHOD_FILE)
    options = {"start": "0.25"}
    model = fit(task, f"{file}:Offset", shots=2, options=options, backbone=backbone, store=MemoryStore(), keep=True)
    saved = model.save(tmp_path / "model")
    opened = Model.open(saved, backbone, method=f"{file}:Offset")
    assert opened.method.options() == {"start": 0.25}
    path = task.test[0].picture.path
    assert opened.predict(path, top=3) == model.predict(path, top=3)


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("x = (", "Offset", "cannot be imported: SyntaxError"),
        ("import nothing_of_this_name", "Offset", "cannot be imported: ModuleNotFoundError"),
        ("Offset = 3", "Offset", "is not a subclass"),
        (METHOD_FILE, "Other", "has no such name"),
    ],
)
def test_file_without_a_method_is_refused(content: str, name: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UsageError, match=words):
        find(f"{file}:{name}")


def test_model_of_a_methods_file_goes_to_another_process_once_it_is_saved(
    task: Task, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(METHOD_FILE)
    model = fit(task, f"{tmp_path / 'mine.py'}:Offset", shots=2, recipe="paper", backbone=backbone, store=MemoryStore(),
                keep=True)  # fmt: skip
    model.save(tmp_path / "model")
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.probabilities(task.test), model.probabilities(task.test))
    again.save(tmp_path / "copy")
    assert pickle.loads(pickle.dumps(again)).method.options() == model.method.options()


def test_backbone_of_another_fingerprint_is_refused_by_name(task: Task, backbone: Backbone, tmp_path: Path) -> None:
    saved = fit(task, "zero_shot", shots=1, backbone=backbone, store=MemoryStore()).save(tmp_path / "model")
    tiny_backbone(tmp_path / "resnet", "resnet")
    with pytest.raises(ShotfitError, match=f"fitted on {backbone.name} .*, but .*resnet has fingerprint"):
        Model.open(saved, load_backbone(tmp_path / "resnet"))


def test_method_of_a_notebook_is_fitted_and_compared(
    task: Task, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {"__name__": "a_notebook"}
    lines = "from shotfit.methods.zero_shot import ZeroShot\nclass Own(ZeroShot):\n    def text_features(self):\n"
    programs = []
    for sign in ("", "-"):
        exec(lines + f"        return {sign}super().text_features()", names)
        own = names["Own"]()
        model = fit(task, own, backbone=backbone, store=MemoryStore(), keep=True)
        assert model.record["found_at"] == "a_notebook:Own" and file_of(type(own)) is None
        programs.append(program_of(own))
    assert programs[0] != programs[1] and programs[1] == program_of(own)


@pytest.mark.parametrize(
    ("method", "own"), [("gda", "views"), ("nearest_centroid", "views"), ("tip_adapter", "cache_views")]
)
def test_center_views_hold_for_the_views_that_a_method_takes_itself(
    task: Task, backbone: Backbone, method: str, own: str
) -> None:
    given: dict[str, Any] = {"shots": 2, "backbone": backbone, "store": MemoryStore(), "check": False}
    plain, asked, kept = (
        fit(task, method, options=options, views="center", **given) for options in ({}, {own: 0}, {own: 2})
    )
    assert plain.method.options() == asked.method.options() and plain.method.options()[own] == 0
    for name, tensor in asked.method.state().items():
        assert torch.equal(tensor, plain.method.state()[name])
    assert kept.method.options()[own] == refit(kept, [task], shots=2).method.options()[own] == 2
    assert fit(task, method, **given).method.options()[own] == VIEWS
