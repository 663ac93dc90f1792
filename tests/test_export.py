"""Exports: every method's graph equals the model, README code runs as it stands, and what differs is not written."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import transformers
from numpy.typing import NDArray

from shotfit.checkpoints.weights import load_backbone
from shotfit.commands.cli import main
from shotfit.data.tasks import Task
from shotfit.engine.decoding import center_view
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.export import graph, write
from shotfit.export.pictures import given_pictures
from shotfit.export.write import export_model
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.methods import find
from shotfit.methods.ensemble import Ensemble
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone

from .test_tokenizers import PAIR
from .test_transformers_equality import configuration, randomized

NAMES = ("<img src=x>", "green thing", "blue")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def task(place: Path) -> Task:
    return tiny_task(place / "photos", NAMES)


@pytest.fixture(scope="module")
def backbones(place: Path) -> dict[str, Backbone]:
    return {kind: tiny_backbone(place / kind, kind) for kind in ("vit", "siglip", "resnet", "eva", "post_norm")}


def fitted(task: Task | list[Task], method: str, backbone: Backbone, **more: Any) -> Model:
    epochs = None if find(method)().training_recipe() is None else 2
    settings: dict[str, Any] = {"shots": 3, "precision": "float32", "check": False} | more
    return fit(task, method, epochs=epochs, recipe="paper", backbone=backbone, store=MemoryStore(), **settings)


@pytest.fixture(scope="module")
def saved(place: Path, task: Task, backbones: dict[str, Backbone]) -> Path:
    """A model with a head of its own, calibrated on images that were held out."""
    model = fitted(task, "taskres", backbones["vit"], check=True, keep=True, shots=4)
    assert model.trust is not None
    return model.save(place / "model")


@pytest.fixture(scope="module")
def exported(place: Path, saved: Path) -> Path:
    return export_model(Model.open(saved, trust_backbone=True), out=place / "exported").folder


@pytest.fixture
def traced_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of `saved` is there already; to trace it again takes seconds."""
    monkeypatch.setattr(write, "write_graph", lambda _, path: shutil.copy(exported / "model.onnx", path))


def answers(folder: Path, task: Task) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and features of the test images by the graph, one image and then the others together."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = pixels_of(folder, task)
    parts = [session.run(["logits", "features"], {"pixels": part}) for part in (pixels[:1], pixels[1:])]
    logits, features = (np.concatenate(found) for found in zip(*parts, strict=True))
    return logits, features


def pixels_of(folder: Path, task: Task) -> NDArray[np.float32]:
    """The test images as the README of an export prepares them, without torch."""
    (code,) = re.findall(r"^def pixels.*?^    return .*?\n", readme_code(folder), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"export": json.loads((folder / "export.json").read_text(encoding="utf-8"))}
    exec(f"import numpy as np\nfrom PIL import Image, ImageOps\n{code}", names)
    return np.stack([names["pixels"](item.picture.path) for item in task.test])


def readme_code(folder: Path) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


# One of each kind of head and of change to the tower; all methods on all kinds: python -m benchmarks.exports
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("vit", "linear_probe"),
        pytest.param("vit", "tip_adapter_f", marks=pytest.mark.slow),
        pytest.param("vit", "knn", marks=pytest.mark.slow),
        pytest.param("vit", "mmrl", marks=pytest.mark.slow),
        pytest.param("siglip", "clip_svd", marks=pytest.mark.slow),
        ("vit", "dualadapter"),
        ("vit", "apex"),
        ("siglip", "mma"),
        ("resnet", "coop"),
        pytest.param("eva", "apex", marks=pytest.mark.slow),
        pytest.param("post_norm", "mma", marks=pytest.mark.slow),
    ],
)
def test_export_equals_model(
    kind: str, method: str, task: Task, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    model = fitted(task, method, backbones[kind])
    export_model(model, out=tmp_path / "export")
    logits, features = answers(tmp_path / "export", task)
    pictures = [item.picture.path for item in task.test]
    assert np.abs(softmax(logits) - model.predict_proba(pictures)).max() < 1e-4
    assert np.abs(features - model.embed(pictures)).max() < 1e-5


def test_method_that_asks_texts_for_each_image_is_refused(
    task: Task, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(ShotfitError, match="a text tower's is, which would run for each image"):
        export_model(fitted(task, "cocoop", backbones["vit"]), out=tmp_path / "export")


def test_ensemble_is_one_graph_and_its_tower_runs_once(
    task: Task, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    members = [fitted(task, method, backbones["vit"]) for method in ("zero_shot", "tip_adapter")]
    ensemble = Ensemble.of([member.method for member in members], [1.0, 0.5])
    record = members[0].record | {"method": "ensemble"}
    model = Model(ensemble, ensemble.frozen, record)
    export_model(model, out=tmp_path / "export")
    pictures = [item.picture.path for item in task.test]
    assert np.abs(softmax(answers(tmp_path / "export", task)[0]) - model.predict_proba(pictures)).max() < 1e-4
    assert (tmp_path / "export" / "model.onnx").read_bytes().count(b"_Conv") == 1  # of the patches


def test_task_of_several_is_exported_alone(backbones: dict[str, Backbone], tmp_path: Path) -> None:
    first, second = tiny_task(tmp_path / "first"), tiny_task(tmp_path / "second", ("wet", "dry"))
    model = fitted([first, second], "softcpt", backbones["vit"])
    with pytest.raises(UsageError, match="name one with --task"):
        export_model(model, out=tmp_path / "export")
    record = export_model(model, out=tmp_path / "export", task="second").record
    assert record["classes"] == ["dry", "wet"]
    pictures = [item.picture.path for item in second.test]
    expected = model.predict_proba(pictures, task="second")
    assert np.abs(softmax(answers(tmp_path / "export", second)[0]) - expected).max() < 1e-4


def test_large_weights_lie_beside_the_graph(
    saved: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGEST", 1000)
    record = export_model(Model.open(saved, trust_backbone=True), out=tmp_path / "export").record
    assert record["model"] == "model.onnx" and "model.onnx.data" in record["sha256"]
    assert len(answers(tmp_path / "export", task)[0]) == len(task.test)


# What stands in the folder


def test_record_says_what_a_runtime_needs(exported: Path, saved: Path, task: Task) -> None:
    record = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    model = Model.open(saved, trust_backbone=True)
    assert (record["format"], record["kind"], record["precision"]) == (1, "onnx", "float32")
    assert record["classes"] == sorted(NAMES)
    assert model.trust is not None and record["trust"]["scores"] == model.trust.scores.tolist()
    plain = record["trust"]["means"]
    means = np.frombuffer(base64.b64decode(plain["base64"]), np.float16).reshape(plain["shape"])
    assert np.array_equal(means, model.trust.means.numpy())
    assert str(saved.parent) not in (exported / "export.json").read_text() + (exported / "README.md").read_text()
    probabilities = softmax(answers(exported, task)[0])  # calibrated
    assert np.abs(probabilities - model.predict_proba([item.picture.path for item in task.test])).max() < 1e-4


def test_prepared_pixels_are_those_of_the_tower(exported: Path, saved: Path, task: Task) -> None:
    rule = Model.open(saved, trust_backbone=True).frozen.backbone.config.preprocessing
    expected = np.stack([center_view(item.picture, rule).numpy() for item in task.test])
    assert np.abs(pixels_of(exported, task) - expected).max() < 1e-6


def check_readme(folder: Path, photo: Path, model: Model) -> None:
    """Run the code of a README beside the photo that it names: its first line is what the model predicts."""
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    ran = subprocess.run([sys.executable, "-c", readme_code(folder)], cwd=folder, capture_output=True, text=True)
    (folder / "photo.jpg").unlink()
    assert ran.returncode == 0, ran.stderr
    label, _, probability = ran.stdout.splitlines()[0].rpartition(" ")
    (expected,) = model.predict(photo)
    assert label == expected.labels[0] and abs(float(probability) - expected.probabilities[0]) < 1e-3


def test_code_of_the_readme_runs(exported: Path, saved: Path, task: Task) -> None:
    check_readme(exported, task.test[0].picture.path, Model.open(saved, trust_backbone=True))
    assert "<img" not in (exported / "README.md").read_text().replace("\\<img", "")


@pytest.mark.usefixtures("traced_once")
def test_openvino_and_its_readme(saved: Path, task: Task, tmp_path: Path) -> None:
    model = Model.open(saved, trust_backbone=True)
    export = export_model(model, "openvino", tmp_path / "export")
    assert {path.name for path in export.folder.iterdir()} == {"model.xml", "model.bin", "export.json", "README.md"}
    check_readme(export.folder, task.test[1].picture.path, model)


@pytest.mark.parametrize("method", ["linear_probe", pytest.param("taskres", marks=pytest.mark.slow)])
def test_classifier_runs_on_the_tower_of_transformers(method: str, task: Task, tmp_path: Path) -> None:
    size = {"width": 48, "heads": 3, "layers": 1, "mlp": 80, "patch": 16, "embed": 24}
    config = configuration(transformers.CLIPConfig, size)
    config.text_config.vocab_size, config.text_config.max_position_embeddings = 594, 24
    config.text_config.bos_token_id, config.text_config.eos_token_id = 592, 593
    folder = tmp_path / "clip"
    randomized(transformers.CLIPModel(config)).save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    for file in PAIR.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = fitted(task, method, load_backbone(folder))
    export = export_model(model, "classifier", tmp_path / "export")
    (export.folder / "clip").symlink_to(folder)  # the README names the checkpoint by its name
    check_readme(export.folder, task.test[2].picture.path, model)


@pytest.mark.parametrize(
    ("method", "why"),
    [("tip_adapter", "not linear"), ("dualadapter", "not linear"), ("mma", "changes the image tower")],
)
def test_method_without_a_class_matrix_is_refused_by_name(
    method: str, why: str, task: Task, backbones: dict[str, Backbone], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=why) as refusal:
        export_model(fitted(task, method, backbones["vit"]), "classifier", tmp_path / "export")
    assert method in str(refusal.value) and "--to onnx" in str(refusal.value)
    assert not (tmp_path / "export").exists()


# Lower precisions


@pytest.mark.usefixtures("traced_once")
def test_lower_precisions_state_what_they_cost(saved: Path, task: Task, exported: Path, tmp_path: Path) -> None:
    photos = task.test[0].picture.path.parent.parent
    precisions: tuple[write.Precision, ...] = ("float16", "int8")
    for precision in precisions:
        out = tmp_path / precision
        model = Model.open(saved, trust_backbone=True)
        export = export_model(model, out=out, precision=precision, images=photos)
        found = export.record["compared"]
        assert found["labelled"] == found["images"] == len(task.test) and found["given"]
        assert found["accuracy"].keys() == {"model", "export"} and 0 <= found["same"] <= 1
    assert found["calibrated_on"] == len(task.train)
    assert b"QuantizeLinear" in (out / "model.onnx").read_bytes()
    sizes = [(folder / "model.onnx").stat().st_size for folder in (tmp_path / "float16", exported)]
    assert sizes[0] < sizes[1]


def test_int8_needs_pictures(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images FOLDER"):
        export_model(Model.open(saved, trust_backbone=True), out=tmp_path / "export", precision="int8")


def test_int8_is_not_calibrated_on_what_is_measured(saved: Path, task: Task, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(task.test[0].picture.path, tmp_path / "one")
    model = Model.open(saved, trust_backbone=True)
    assert len(given_pictures(tmp_path / "one", model).measured) == 1
    with pytest.raises(UsageError, match="holds no picture beside those that the export is measured on"):
        export_model(model, out=tmp_path / "export", precision="int8", images=tmp_path / "one")


@pytest.mark.usefixtures("traced_once")
def test_bfloat16_fit_is_compared_in_both(saved: Path, tmp_path: Path) -> None:
    model = Model.open(saved, trust_backbone=True, precision="bfloat16")
    model.record["precision"] = "bfloat16"
    found = export_model(model, out=tmp_path / "export").record["compared"]
    assert found["same"] == 1 and 0 < found["as_fitted"]["same"] <= 1


# What is not written


@pytest.mark.usefixtures("traced_once")
def test_export_that_differs_is_not_written(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = graph.run_graph

    def wrong(path: Path) -> Any:
        return lambda pixels: (whole(path)(pixels)[0] + np.float32(0.01), None)

    monkeypatch.setattr(write, "run_graph", wrong)
    with pytest.raises(ShotfitError, match=r"not written: on 24 images its logits differ .* by up to 0.01"):
        export_model(Model.open(saved, trust_backbone=True), out=tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_folder_of_something_else_is_not_replaced(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"diary.txt"):
        write.check_target(tmp_path / "notes")
    write.check_target(exported)  # an older export may be
    with pytest.raises(UsageError, match="is a file"):
        write.check_target(exported / "export.json")


def test_missing_library_is_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(saved), "--out", str(tmp_path / "export")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("onnxscript, which is not installed: pip install 'shotfit[onnx]'.")


@pytest.mark.usefixtures("traced_once")
def test_command_says_how_it_compared(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "export"
    assert main(["export", str(saved), "--out", str(out), "--trust-backbone", "--json"]) == 0
    printed = capsys.readouterr()
    assert "the same class on 100.0 %, logits within" in printed.err and f"written: {out}" in printed.err
    assert json.loads(printed.out)["sha256"].keys() == {"model.onnx", "README.md"}
    assert main(["export", str(saved), "--to", "tflite"]) == 2
    assert "expected onnx, openvino, web or classifier" in capsys.readouterr().err
