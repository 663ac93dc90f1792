"""What is asked of a checkpoint beyond its place goes with it: into names, fits, saved models and flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shotfit.checkpoints.asked import asked_of, with_asked
from shotfit.checkpoints.weights import is_known, load_backbone
from shotfit.commands.cli import main
from shotfit.errors import UsageError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.fitting.record import read_record
from shotfit.methods import find
from shotfit.testing.tiny import tiny_backbone, tiny_task


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A folder whose texts are read by SigLIP's rules."""
    folder = tmp_path / "backbone"
    tiny_backbone(folder, "siglip")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"tokenizer": "siglip"}))
    return folder


def test_a_saved_model_opens_with_the_text_that_it_was_fitted_on(backbone: Path, tmp_path: Path) -> None:
    task, asked = tiny_task(tmp_path / "images"), f"{backbone}#text=plain"
    model = fit(task, find("zero_shot")(), backbone=asked, check=False)
    saved = model.save(tmp_path / "model")
    assert json.loads((saved / "adapter.json").read_text())["backbone"]["name"] == "../backbone#text=plain"
    again = Model.open(saved, trust_backbone=True)
    assert again.frozen.backbone.fingerprint == model.frozen.backbone.fingerprint
    assert again.frozen.backbone.fingerprint != load_backbone(backbone).fingerprint
    assert model.frozen.backbone.name == str(backbone) + "#text=plain"


def test_class_names_alone_are_read_as_a_flag_asks(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--classes", "red kite,buzzard", "--backbone", str(backbone), "--text", "plain"]
    assert main(["fit", *words, "--out", str(tmp_path / "model")]) == 0
    assert f"IMAGES --backbone '{backbone}#text=plain'" in capsys.readouterr().out
    assert read_record(tmp_path / "model")["backbone"]["name"] == "../backbone#text=plain"


def test_flags_and_names_ask_for_the_same(backbone: Path) -> None:
    assert with_asked(str(backbone), "canonical", None) == f"{backbone}#text=canonical"
    assert load_backbone(backbone, text="canonical").name == f"{backbone}#text=canonical"
    assert asked_of(with_asked("a/b.pt#text=plain", None, "ViT-B-32"))[1].written == "#text=plain&architecture=ViT-B-32"
    with pytest.raises(UsageError, match="asks for plain, and a flag for canonical"):
        with_asked("mini#text=plain", "canonical", None)


@pytest.mark.parametrize(
    ("source", "known"),
    [("SigLIP-B/16#text=plain", True), ("owner/name#text=plain", True), ("./a.pt#text=plain", False)],
)
def test_a_name_is_known_with_what_is_asked_of_it(source: str, known: bool) -> None:
    assert is_known(source) is known


def test_what_no_one_can_ask_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no text=loud: use canonical or plain"):
        load_backbone("mini#text=loud")
    with pytest.raises(UsageError, match="is for checkpoints with a tokenizer of SigLIP's kind"):
        load_backbone("mini", text="plain")
    assert asked_of("a#b") == ("a#b", asked_of("a")[1])  # a file's name
