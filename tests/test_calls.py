"""A call from Python with arguments of wrong types is one sentence, before any work starts."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import shotfit
from shotfit.calls import checked
from shotfit.errors import ShotfitError, UsageError

from .pictures import picture, tree


@pytest.fixture(scope="module")
def model() -> shotfit.Model:
    return shotfit.zero_shot(["cat", "dog"])


CALLS: list[tuple[Callable[[Any], object], str]] = [
    (lambda _: shotfit.fit(3), "data is a int without labels; expected a path, "),
    (lambda _: shotfit.fit("x", shots="16"), "fit: shots is '16'; expected a whole number or None."),  # type: ignore[arg-type]
    (lambda _: shotfit.fit("x", shots=True), "fit: shots is True; expected a whole number or None."),
    (lambda _: shotfit.fit("x", seed=None), "fit: seed is None; expected a whole number."),  # type: ignore[arg-type]
    (lambda _: shotfit.fit("x", method=3), "fit: method is 3; expected a text or a shotfit Method."),  # type: ignore[arg-type]
    (lambda _: shotfit.fit("x", lr="0.1"), "fit: lr is '0.1'; expected a number or None."),  # type: ignore[arg-type]
    (lambda _: shotfit.fit("x", shot=3), "fit: got an unexpected keyword argument 'shot'; see help"),  # type: ignore[call-arg]
    (lambda _: shotfit.load(5), "Model.open: folder is 5; expected a text or a path."),  # type: ignore[arg-type]
    (lambda m: m.predict(None), "images is a NoneType; expected a path, "),
    (lambda m: m.predict([5]), "image 0 is a int; expected a path, "),
    (lambda m: m.predict("a.png", top="3"), "Model.predict: top is '3'; expected a whole number or None."),
    (lambda m: m.for_classes("cat"), "Model.for_classes: classes is 'cat'; expected a list of texts"),
    (lambda m: m.save(None), "Model.save: folder is None; expected "),
    (lambda _: shotfit.read_task(None), "read_task: source is None; expected "),  # type: ignore[arg-type]
    (lambda _: shotfit.compare("x", "zero_shot"), "compare: methods is 'zero_shot'; expected a list of texts."),
    (lambda m: shotfit.evaluate(m, 3), "data is a int without labels; expected a path, "),
    (lambda _: shotfit.load_backbone(3), "load_backbone: source is 3; expected a text, a path or a shotfit Encoder."),  # type: ignore[arg-type]
    (lambda _: shotfit.zero_shot(3), "zero_shot: classes is 3; expected a list of texts."),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "sentence"), CALLS)
def test_wrong_types_are_one_sentence(
    model: shotfit.Model, call: Callable[[shotfit.Model], object], sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        call(model)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_values_of_right_types_pass() -> None:
    @checked
    def call(
        a: Sequence[str] = (),
        b: int = 0,
        c: Mapping[str, float] | None = None,
        d: Literal["x", "y"] = "x",
        e: str | Path = "",
    ) -> int:
        return b

    assert call(["a"], np.int64(3), {"a": 1}, "y", Path()) == 3  # type: ignore[arg-type]
    assert call(np.array(["a", "b"]), b=4) == 4  # type: ignore[arg-type]
    for wrong in ({"a": "text"}, {"b": 1.0}, {"c": {"a": "b"}}, {"d": 3}, {"e": b"bytes"}):
        with pytest.raises(UsageError, match="expected"):
            call(**wrong)


def test_validation_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="validation is 'all'; expected few or full"):
        shotfit.fit(tree(tmp_path, cat=2, dog=2), method="zero_shot", validation="all")  # type: ignore[arg-type]


def test_options_may_be_numbers(tmp_path: Path) -> None:
    folder = tree(tmp_path, cat=3, dog=3)
    fitted = shotfit.fit(folder, method="tip_adapter", options={"alpha": 2, "search": False}, check=False)
    assert (fitted.method.options()["alpha"], fitted.method.options()["search"]) == (2.0, False)
    with pytest.raises(UsageError, match="alpha_steps"):
        shotfit.fit(folder, method="tip_adapter", options={"alpha_steps": 4.7})


def test_broken_picture_in_memory_is_one_sentence(model: shotfit.Model) -> None:
    content = io.BytesIO()
    picture(width=200, height=200).save(content, "png")
    cut = Image.open(io.BytesIO(content.getvalue()[:-2000]))
    with pytest.raises(ShotfitError, match=r"^image is truncated \(.*\)\. Replace it, or pass --lenient"):
        model.predict(cut)


def test_device_is_an_argument_of_fit_compare_and_evaluate(tmp_path: Path, model: shotfit.Model) -> None:
    folder = tree(tmp_path / "photos", cat=3, dog=3)
    task = shotfit.read_task(folder)
    assert shotfit.fit(task, method="zero_shot", device="cpu").frozen.backbone.device.type == "cpu"
    assert shotfit.compare(task, ["zero_shot"], [1], device="cpu")[0].method == "zero_shot"
    assert shotfit.evaluate(model, task, device="cpu").images == 2
    saved = model.save(tmp_path / "model")
    assert shotfit.evaluate(saved, folder, device="cpu").images == 2
    with pytest.raises(UsageError, match=r"There is no device 'tpu': use auto, cpu, mps, cuda"):
        shotfit.evaluate(saved, folder, device="tpu")


@pytest.mark.parametrize("device", ["mps", "cuda:97"])
def test_device_that_is_absent_is_one_line(tmp_path: Path, device: str) -> None:
    if device == "mps":
        pytest.importorskip("torch").backends.mps.is_available() and pytest.skip("there is one here")
    with pytest.raises(UsageError, match=rf"There is no device {device}: torch finds .* Use cpu or auto\."):
        shotfit.fit(tree(tmp_path, cat=2, dog=2), device=device)
