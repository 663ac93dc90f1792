"""Names of backbones: the table, a user's spellings, and what is said of unknown ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shotfit.checkpoints.names import NAMES, find, markdown, suggestions
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError, UsageError


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
