"""`shotfit show MODEL`, the terms of the weights, a card that was changed by hand, and arguments in the wrong order."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import shotfit
from shotfit.commands.cli import main

from .pictures import tree


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tree(tmp_path / "photos", cat=6, dog=6)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_show_says_what_a_model_is(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    assert run(capsys, "fit", photos, "--method", "tip_adapter", "--shots", 3, "--out", model)[0] == 0
    code, out, _ = run(capsys, "show", model)
    assert code == 0
    rows = dict(line.split(None, 1) for line in out.splitlines())
    assert rows["method"].startswith(("tip_adapter, recipe auto", "zero_shot, recipe auto"))
    assert rows["backbone"].startswith("mini-6, fingerprint ")
    assert rows["terms"].startswith("the weights of mini-6 are for research use")
    assert rows["task"] == "photos: 2 classes (cat, dog)"
    assert rows["held"].startswith("out")
    found = json.loads(run(capsys, "show", model, "--json")[1])
    assert found["tasks"] == [{"name": "photos", "classes": ["cat", "dog"], "templates": ["a photo of a {}."],
                               "several_labels": False}]  # fmt: skip
    assert found["bytes"] == sum(path.stat().st_size for path in model.iterdir())
    assert {"method", "recipe", "options", "backbone", "learned_from", "scores", "trust"} <= found.keys()


def test_show_needs_no_backbone_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shotfit.zero_shot(["red kite", "buzzard"]).save(tmp_path / "model")
    record = json.loads((folder / "adapter.json").read_text())
    record["backbone"]["name"] = "gone/away"
    (folder / "adapter.json").write_text(json.dumps(record))
    code, out, _ = run(capsys, "show", folder)
    assert code == 0
    assert "gone/away" in out
    assert "no image (zero-shot" in out


def test_record_that_says_little_is_shown_as_far_as_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shotfit.zero_shot(["red kite", "buzzard"]).save(tmp_path / "model")
    record = json.loads((folder / "adapter.json").read_text())
    figures = ("steps", "first_loss", "last_loss", "right_before", "right_after", "right_zero_shot", "looked_at")
    record |= {"scores": {"accuracy": 0.5}, "training": dict.fromkeys(figures, 1)}
    record = {name: value for name, value in record.items() if name not in ("fitted_method", "recipe")}
    (folder / "adapter.json").write_text(json.dumps(record))
    code, out, err = run(capsys, "show", folder)
    assert code == 0 and "accuracy 50.0 %" in out, err
    code, _, err = run(capsys, "report", folder, "--out", tmp_path / "report.html")
    assert code == 0 and "zero_shot is no better than zero-shot" in (tmp_path / "report.html").read_text(), err


def test_show_of_models_below_and_of_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shotfit.zero_shot(["red kite", "buzzard"], name=name).save(tmp_path / "many" / name)
    found = json.loads(run(capsys, "show", tmp_path / "many", "--json")[1])
    assert [model["tasks"][0]["name"] for model in found["models"]] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    code, _, err = run(capsys, "show", tmp_path / "empty")
    assert (code, err.count("\n")) == (3, 1)
    assert "is not a shotfit model" in err
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text("{}")
    for command in (["show", tmp_path / "export"], ["evaluate", tmp_path / "export", tmp_path]):
        code, _, err = run(capsys, *command)
        assert (code, err.count("\n")) == (3, 1)
        assert "export is an export, which `shotfit predict` alone reads" in err
    code, _, err = run(capsys, "show", "nowhere")
    assert code == 2
    assert "There is no method 'nowhere', and no folder of a model of that name. Methods: zero_shot" in err


def test_show_method_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "show", "zero_shot", "--json")[1])
    assert (found["method"], found["new_classes"]) == ("zero_shot", True)


def test_terms_of_the_weights_are_said_by_fit_and_card(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "fit", photos, "--method", "zero_shot", "--out", tmp_path / "model")
    assert out.count("the weights of mini-6 are for research use") == 1
    assert "- Terms: the weights of mini-6 are for research use" in (tmp_path / "model" / "README.md").read_text()


def test_zero_shot_is_printed_once(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "fit", photos, "--method", "zero_shot", "--out", tmp_path / "model")
    assert [line.split()[0] for line in out.splitlines() if line.strip().startswith("zero")] == ["zero-shot"]


def test_card_that_was_changed_by_hand_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = shotfit.zero_shot(["red kite", "buzzard"])
    model.save(folder)
    model.save(folder)  # nobody has changed it: written again, without a word
    (folder / "README.md").write_text("# Ours\n")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"README\.md was changed by hand, and is kept as it is"):
            model.save(folder)
        assert (folder / "README.md").read_text() == "# Ours\n"
    (folder / "README.md").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(folder)
    assert "An image classifier for 2 classes" in (folder / "README.md").read_text()
    assert shotfit.load(folder).class_names == ("red kite", "buzzard")


def test_images_in_the_place_of_the_model_are_noticed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shotfit.zero_shot(["cat", "dog"]).save(tmp_path / "model")
    code, _, err = run(capsys, "predict", photos, model)
    assert (code, err) == (2, f"error: {model} is the model, and comes first: shotfit predict {model} {photos}\n")
    code, _, err = run(capsys, "evaluate", photos, model)
    assert (code, err) == (2, f"error: {model} is the model, and comes first: shotfit evaluate {model} {photos}\n")


def test_hint_of_the_parser_ends_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "fitt", "photos")
    assert err == "error: No such command 'fitt'. Did you mean 'fit'? See shotfit --help.\n"
