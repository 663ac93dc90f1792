"""Names of backbones: the table, a user's spellings, and what is said of unknown ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shotfit.checkpoints.names import NAMES, Name, domains, find, markdown, suggestions
from shotfit.checkpoints.weights import load_backbone, load_known
from shotfit.commands.cli import COMMANDS, app_of
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
    spellings = [name for entry in NAMES for name in (entry.name, *entry.also, entry.repository) if name]
    assert {find(spelling) for spelling in spellings} == set(NAMES)
    for entry in NAMES:
        assert all(find(name) is entry for name in (entry.name, *entry.also))


def test_the_table_is_large_and_of_every_domain() -> None:
    assert len(NAMES) >= 40
    assert domains() == ["small", "general", "medical", "remote sensing", "nature", "fashion", "multilingual"]


@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: entry.name)
def test_nothing_that_must_be_verified_stands_without_its_source(entry: Name) -> None:
    for fact in ("revision", "file", "sha256", "architecture", "license"):
        own = entry.repository is None and fact == "file"  # of the package itself
        assert not getattr(entry, fact) or own or entry.sources[fact], fact
    assert not entry.size or entry.sources["file"]
    assert re.fullmatch("([0-9a-f]{40})?", entry.revision)
    assert entry.sources.keys() <= {"repository", "revision", "file", "sha256", "architecture", "license"}
    assert all(source.startswith(("https://", "open_clip/", "src/")) for source in entry.sources.values())
    assert 32 <= entry.pixels <= 2048 and entry.tower and entry.about


@pytest.mark.parametrize("entry", [entry for entry in NAMES if entry.revision], ids=lambda entry: entry.name)
def test_a_commit_s_source_of_the_hub_is_that_commit(entry: Name) -> None:
    source = entry.sources["revision"]
    assert "huggingface.co" not in source or (entry.revision in source and str(entry.repository) in source)


def test_every_name_goes_to_its_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path))
    asked = []

    def fetch(repository: str, revision: str, **_: object) -> Path:
        asked.append((repository, revision))
        raise ShotfitError("not today")

    monkeypatch.setattr("shotfit.checkpoints.hub.fetch", fetch)
    # the others say what opens them (tests/test_published_checkpoints.py)
    fetched = [entry for entry in NAMES[1:] if not entry.closed_name and entry.name != "GeoRSCLIP"]
    for entry in fetched:
        for load in (load_backbone, load_known):
            with pytest.raises(ShotfitError, match="not today"):
                load(entry.name)
    assert asked == [(entry.repository, entry.revision or "main") for entry in fetched for _ in range(2)]


def test_a_name_without_a_commit_keeps_the_one_of_its_first_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    commit = "5" * 40
    folder, asked = write_open_clip(tmp_path / commit), []

    def fetch(repository: str, revision: str, **_: object) -> Path:
        asked.append(revision)
        return folder

    monkeypatch.setattr("shotfit.checkpoints.hub.fetch", fetch)
    entry = next(entry for entry in NAMES if not entry.revision and entry.repository)
    assert not entry.closed_name
    assert load_backbone(entry.name).name == load_backbone(entry.name).name == entry.name
    assert asked == ["main", commit]


def test_the_documentation_s_table_lists_every_name() -> None:
    page = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text(encoding="utf-8")
    assert markdown() in page, "run python docs/names.py"


# `shotfit backbones`


def listed(*words: str) -> str:
    done = CliRunner().invoke(app_of(COMMANDS), ["backbones", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_command_lists_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert len(listed().splitlines()) == len(NAMES) + 2
    assert "BiomedCLIP" in listed("--domain", "medical") and "BioCLIP" not in listed("--domain", "medical")
    assert "Marqo-FashionSigLIP" in listed("--search", "siglip fashion")
    assert listed("--here").splitlines()[-1].startswith("1 backbone;")
    kept = tmp_path / "models--openai--clip-vit-base-patch32" / "snapshots" / ("1" * 40)
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_bytes(b"")
    assert "in the hub's cache, another commit" in listed("--here")
    rows = json.loads(listed("--here", "--json"))["backbones"]
    assert [row["name"] for row in rows] == ["mini-6", "ViT-B/32"]
    assert rows[1]["sources"]["revision"].startswith("https://github.com/")


def test_command_shows_one_with_its_sources() -> None:
    shown = listed("biomedclip")
    assert re.search(r"revision +f658b0b9\w+  \(from https://huggingface\.co/microsoft/", shown)
    assert re.search(r"sha256 +not verified\n", shown)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonesuch",), "No backbone has the name 'nonesuch'"),
        (("--domain", "cooking"), "There is no domain 'cooking': use"),
    ],
)
def test_command_refuses_what_there_is_not(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(app_of(COMMANDS), ["backbones", *words], catch_exceptions=False, standalone_mode=False)


def test_close_names_are_suggested() -> None:
    assert suggestions("ViT-B/33")[0] in ("ViT-B/32", "ViT-B/16")
    assert suggestions("nothing like it") == []


@pytest.mark.parametrize("source", ["ViT-B/33", "vit-b-33", "mimi"])
def test_unknown_name_is_a_wrong_call_with_close_names(source: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown backbone '{source}'.* Did you mean (ViT-B|mini)"):
        load_backbone(source)


def test_unknown_name_like_no_other_lists_all() -> None:
    with pytest.raises(UsageError, match=r"no file\. `shotfit backbones` lists the names\."):
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
    assert CliRunner().invoke(app_of(COMMANDS), ["cache", "--clear"]).exit_code == 0
    assert record.is_file()


def test_name_loads_where_nothing_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "file"))
    assert load_backbone("mini").name == "mini-6"


def test_a_file_or_folder_of_ones_own_is_not_recorded(record: Path, tmp_path: Path) -> None:
    load_backbone(write_open_clip(tmp_path / "own"))
    assert not record.parent.exists()
