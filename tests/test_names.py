"""Names of backbones: the table, a user's spellings, and what is said of unknown ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shotfit.checkpoints.names import NAMES, find, markdown, suggestions
from shotfit.checkpoints.weights import load_backbone, load_known
from shotfit.commands.cli import app
from shotfit.errors import ShotfitError, UsageError

from .checkpoints import write_open_clip


@pytest.mark.parametrize("spelling", ["ViT-B/32", "vit-b-32", "VIT_B_32", "openai/clip-vit-base-patch32"])
def test_spellings_mean_the_same_backbone(spelling: str) -> None:
    entry = find(spelling)
    assert entry is not None
    assert entry.repository == "openai/clip-vit-base-patch32"


@pytest.mark.parametrize("spelling", ["ViT-L/14@336", "ViT-L/14@336px", "vit-l-14-336"])
def test_the_large_model_at_336_pixels_is_its_own(spelling: str) -> None:
    entry = find(spelling)
    assert entry is not None
    assert entry.name == "ViT-L/14@336"


def test_mini_is_an_alias_of_its_version() -> None:
    entry = find("mini")
    assert entry is not None
    assert entry.name == "mini-6"


def test_no_spelling_means_two_backbones() -> None:
    spellings = [name for entry in NAMES for name in (entry.name, *entry.aliases, entry.repository) if name]
    assert {find(spelling) for spelling in spellings} == set(NAMES)
    for entry in NAMES:
        assert all(find(name) is entry for name in (entry.name, *entry.aliases))


def test_every_repository_is_pinned_to_a_commit() -> None:
    assert all(re.fullmatch("[0-9a-f]{40}", entry.revision) for entry in NAMES if entry.repository)


def test_the_documentation_s_table_lists_every_name() -> None:
    assert markdown() in (Path(__file__).parent.parent / "docs" / "backbones.md").read_text(encoding="utf-8")


def test_close_names_are_suggested() -> None:
    assert suggestions("ViT-B/33")[0] in ("ViT-B/32", "ViT-B/16")
    assert suggestions("nothing like it") == []


@pytest.mark.parametrize("source", ["ViT-B/33", "vit-b-33", "mimi"])
def test_unknown_name_is_a_wrong_call_with_close_names(source: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown backbone '{source}'.* Did you mean (ViT-B|mini)"):
        load_backbone(source)


def test_unknown_name_like_no_other_lists_all() -> None:
    with pytest.raises(UsageError, match=r"Known names: mini-6, ViT-B/32, .*LAION-L/14"):
        load_backbone("resnet152")


def test_a_mini_that_no_longer_ships_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^mini-0 no longer ships with shotfit: fit the model again on mini-6"):
        load_backbone("mini-0")


def test_resnets_are_named_by_their_file() -> None:
    with pytest.raises(UsageError, match=r"RN50 has no hub repository: .* \./RN50\.pt"):
        load_backbone("RN50")


def test_file_that_does_not_exist_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    for source in (tmp_path / "clip", "checkpoints/RN50.pt", "./checkpoints/clip"):
        with pytest.raises(ShotfitError, match="does not exist: name a folder or a file"):
            load_backbone(source)


def test_mini_has_no_revision() -> None:
    with pytest.raises(UsageError, match="leave the revision out"):
        load_backbone("mini", revision="main")


def test_two_revisions_are_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="names the revision v1, and revision is v2"):
        load_backbone("owner/name@v1", revision="v2")


# What a name stood for


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path))
    return tmp_path / "backbones" / "mini-6.json"


def test_fingerprint_of_a_name_is_recorded_and_compared(record: Path) -> None:
    fingerprint = load_backbone("mini").fingerprint
    assert json.loads(record.read_text())["fingerprint"] == fingerprint
    assert load_backbone("mini-6").fingerprint == fingerprint
    record.write_text(record.read_text().replace(fingerprint, "0" * 64))
    for load in (load_backbone, load_known):
        with pytest.raises(ShotfitError) as caught:
            load("mini")
        assert str(caught.value) == (
            f"mini-6 is not what it was: its fingerprint is {fingerprint[:12]}, and 000000000000 at its first load. "
            f"Fetch it again; if you changed it on purpose, delete {record}."
        )
    record.unlink()
    assert load_backbone("mini").fingerprint == fingerprint


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": 3}', '{"fingerprint": "abc"}'])
def test_damaged_record_of_a_name_is_a_line(record: Path, content: str) -> None:
    record.parent.mkdir()
    record.write_text(content)
    with pytest.raises(ShotfitError, match=r"mini-6\.json (is|holds)"):
        load_backbone("mini")


def test_record_outlives_the_clearing_of_the_cache(record: Path) -> None:
    load_backbone("mini")
    assert CliRunner().invoke(app, ["cache", "--clear"]).exit_code == 0
    assert record.is_file()


def test_name_loads_where_nothing_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "file"))
    assert load_backbone("mini").name == "mini-6"


def test_a_file_or_folder_of_ones_own_is_not_recorded(record: Path, tmp_path: Path) -> None:
    load_backbone(write_open_clip(tmp_path / "own"))
    assert not record.parent.exists()
