"""The light runtime says what the model says, of every kind of picture, and torch is not there."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shotfit import light
from shotfit.commands.cli import main
from shotfit.data.pictures import Picture
from shotfit.engine.decoding import center_view
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.export.write import export_model
from shotfit.fitting import unknown
from shotfit.fitting.asked import Asked
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .exports import by_hand
from .pictures import picture, save

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
HEAVY = ("torch", "safetensors", "sklearn", "scipy", "huggingface_hub", "tokenizers", "yaml", "pandas", "transformers")


@dataclass(frozen=True)
class Both:
    """A model, its export, and the folder of both."""

    model: Model
    export: light.ExportedModel
    folder: Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    place = tmp_path_factory.mktemp("light")
    tiny_backbone(place / "backbone")
    task = tiny_task(place / "photos", images=8)
    model = fit(task, "tip_adapter", shots=8, backbone=str(place / "backbone"), store=MemoryStore(), recipe="paper",
                precision="float32")  # fmt: skip
    export_model(model, "onnx", place / "export")
    return Both(model, light.load(place / "export"), place / "export")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A picture of every kind that docs/data.md has a rule for, and some that cannot be read."""
    place = tmp_path_factory.mktemp("album")
    plain, exif = picture(1, 90, 60), Image.Exif()
    exif[0x0112] = 6
    save(place / "turned.jpg", plain, exif=exif)
    save(place / "cmyk.jpg", plain.convert("CMYK"))
    save(place / "gray.png", plain.convert("L"))
    save(place / "bits.png", plain.convert("1"))
    save(place / "alpha.png", Image.merge("RGBA", (*plain.split(), plain.convert("L"))))
    save(place / "gray_alpha.png", Image.merge("LA", (plain.convert("L"), plain.split()[0])))
    save(place / "palette.png", plain.quantize(16))
    save(place / "clear.gif", plain.quantize(16), transparency=3)
    save(place / "deep.png", Image.fromarray(np.arange(5400, dtype=np.uint16).reshape(60, 90)))
    save(place / "float.tif", Image.fromarray(np.linspace(0, 1, 5400, dtype=np.float32).reshape(60, 90)))
    save(place / "large.jpg", picture(2, 512, 256))  # decoded at a share of its size
    save(place / "strip.png", picture(3, 900, 2))
    save(place / "moving.gif", plain, save_all=True, append_images=[picture(4, 90, 60)])
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        archive.write(place / "gray.png", "inside.png")
    (place / "text.jpg").write_text("no picture")
    (place / "cut.jpg").write_bytes((place / "large.jpg").read_bytes()[:9000])
    names = sorted(str(path) for path in place.iterdir() if path.suffix != ".zip")
    return [*names, f"{place}/a.zip::inside.png", f"{place}/large.jpg#xywh=10,20,100,90", str(place / "missing.jpg")]


@pytest.mark.parametrize("lenient", [False, True])
def test_predictions_are_those_of_the_model(both: Both, album: list[str], lenient: bool) -> None:
    asked = Asked(coverage=0.8, unknown=True, known_share=0.8)
    expected = both.model.predict(album, 3, keep_broken=True, asked=asked, lenient=lenient)
    found = both.export.predict(album, 3, keep_broken=True, asked=asked, lenient=lenient)
    assert sum(one.error is not None for one in found) == (2 if lenient else 3)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.source, ours.labels, ours.error) == (theirs.source, theirs.labels, theirs.error)
        assert (ours.set, ours.unknown, ours.picture) == (theirs.set, theirs.unknown, theirs.picture)
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
    assert {one.unknown for one in found} >= {True}


def test_pixels_are_those_of_the_towers(both: Both, album: list[str]) -> None:
    readable = [name for name in album if not name.endswith(("text.jpg", "cut.jpg", "missing.jpg"))]
    for name in readable:
        found = both.export._pixels(Picture.of(name), False)
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, center_view(Picture.of(name), both.export.rule).numpy())


def test_sets_per_class_and_probabilities_are_those_of_the_model(both: Both, album: list[str]) -> None:
    asked = Asked(coverage=0.7, per_class=True)
    for image in (album[0], np.full((50, 40, 3), 200, np.uint8)):
        ours, theirs = both.export.predict(image, asked=asked), both.model.predict(image, asked=asked)
        assert ours[0].set == theirs[0].set
        assert both.export.predict_proba(image) == pytest.approx(both.model.predict_proba(image), abs=1e-5)
    assert light.DISTANCE_SHARE == unknown.SHARE


def test_too_few_held_out_images_are_refused_in_the_words_of_the_model(both: Both, album: list[str]) -> None:
    said = []
    for one in (both.model, both.export):
        with pytest.raises(UsageError) as caught:
            one.predict(album[0], asked=Asked(coverage=0.99))
        said.append(str(caught.value))
    assert said[0] == said[1] and "needs 99 held-out images" in said[0]


def test_broken_picture_is_raised_where_it_is_not_kept(both: Both, album: list[str]) -> None:
    (text,) = (name for name in album if name.endswith("text.jpg"))
    with pytest.raises(ShotfitError, match="is no image but text"):
        both.export.predict(text)


def test_command_predicts_in_every_format_and_never_sees_torch(both: Both, album: list[str], tmp_path: Path) -> None:
    program = BLOCKED.format(blocked=HEAVY) + (
        "from shotfit.commands.cli import main\n"
        "code = max(main(words) for words in [\n"
        f"    ['predict', {str(both.folder)!r}, *sys.argv[1:], *form] for form in (\n"
        "        ['--top', '2'], ['--format', 'csv'], ['--format', 'jsonl', '--coverage', '0.8'],\n"
        "        ['--format', 'label-studio'], ['--out', 'fo', '--format', 'fiftyone'], ['--out', 'rows.csv'],\n"
        "        ['--copy-to', 'sorted', '--unknown', '--known-share', '0.8'],\n"
        "    )])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *album[:3]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = both.model.predict(album[:1], top=2)[0]
    assert done.stdout.splitlines()[0].split()[:2] == [album[0], first.labels[0]]
    assert {path.name for path in tmp_path.iterdir()} == {"fo", "rows.csv", "sorted"}
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "flags",
    [["--classes", "a,b"], ["--task", "x"], ["--precision", "float32"], ["--device", "cuda"]],
    ids=lambda x: x[0],
)
def test_flags_of_a_model_are_refused(
    both: Both, album: list[str], capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main(["predict", str(both.folder), album[0], *flags]) == 2
    assert f"{flags[0]} goes with a fitted model" in capsys.readouterr().err


def test_export_in_the_place_of_the_images_is_told(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(both.folder.parent / "photos"), str(both.folder)]) == 2
    assert f"{both.folder} is the model, and comes first" in capsys.readouterr().err


def _set(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one entry, "preprocess.size" or "classes"."""
    *where, last = name.split(".")

    def change(record: dict[str, Any]) -> None:
        for key in where:
            record = record[key]
        record[last] = value

    return change


ZERO = {"type": "float16", "shape": [3, 1], "base64": base64.b64encode(b"\0" * 4).decode()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("format", 2), "of another format than 1"),
        (_set("kind", "classifier"), "of the kind 'classifier'"),
        (_set("kind", "\x1b[31m" * 999), "of the kind"),
        (_set("classes", []), "is damaged"),
        (_set("classes", ["a", "a", "b"]), "is damaged"),
        (_set("classes", ["a", "b"]), "is damaged"),
        (_set("model", "../export/model.onnx"), "is damaged"),
        (_set("preprocess.size", [32, 16]), "is damaged"),
        (_set("preprocess.size", [10**9, 10**9]), "is damaged"),
        (_set("preprocess.resize", "other"), "is damaged"),
        (_set("preprocess.std", [0, 0, 0]), "is damaged"),
        (_set("trust.means", ZERO), "is damaged"),
        (_set("trust.width", [0, 1]), "is damaged"),
        (_set("trust", 7), "is damaged"),
        (_set("trust.scores", [float("nan")] * 24), "is damaged"),
        (_set("trust.labels", [10**30] * 24), "is damaged"),
        (lambda record: record.update(trust=None, classes=["a", "b"]), "has other classes or another size"),
    ],
)
def test_damaged_record_is_one_line(both: Both, tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    record = json.loads((both.folder / "export.json").read_text())
    change(record)
    (tmp_path / "export.json").write_text(json.dumps(record))
    (tmp_path / "model.onnx").write_bytes((both.folder / "model.onnx").read_bytes())
    with pytest.raises(ShotfitError, match=said) as caught:
        light.load(tmp_path)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 800


def test_damaged_graph_and_missing_files_are_told(both: Both, tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"is no export: it has no export\.json"):
        light.load(tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "export.json").write_text(text)
        with pytest.raises(ShotfitError, match="is no JSON"):
            light.load(tmp_path)
    (tmp_path / "export.json").write_bytes((both.folder / "export.json").read_bytes())
    with pytest.raises(ShotfitError, match=r"model\.onnx cannot be read"):
        light.load(tmp_path)
    graph = bytearray((both.folder / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(graph)
    with pytest.raises(ShotfitError, match="is not what was written"):
        light.load(tmp_path)


def test_numbers_that_are_not_finite_are_no_prediction(tmp_path: Path) -> None:
    model = light.load(by_hand(tmp_path / "export", float("inf")))
    (found,) = model.predict(picture(1), keep_broken=True)
    assert found.labels == () and "numbers that are not finite" in str(found.error)
    with pytest.raises(ShotfitError, match="not finite"):
        model.predict(picture(1))


def test_missing_runtime_is_one_line(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'shotfit\[onnx\]'"):
        light.load(both.folder)


def test_two_distributions_of_different_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shotfit-0.1.0.dist-info").mkdir()
    (tmp_path / "shotfit_light-0.1.0.dist-info").mkdir()
    light._check_one_distribution(tmp_path)
    (tmp_path / "shotfit_light-0.1.0.dist-info").rename(tmp_path / "shotfit_light-0.2.0.dist-info")
    with pytest.raises(ShotfitError, match=r"shotfit 0\.1\.0 and shotfit-light 0\.2\.0 are both installed"):
        light._check_one_distribution(tmp_path)
