"""Models on the hub: pushed, loaded, checked and refused, through the hub's own client and a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image

import shotfit
from shotfit.commands.cli import main
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.addresses import called, local_folder
from shotfit.fitting.card import split_card
from shotfit.fitting.pushing import push

from .hub_server import TOKEN, Hub, running_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")  # the client's own, as it uploads

FILES = {"adapter.json", "adapter.safetensors", "README.md"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with things beside it that are nobody's business."""
    folder = shotfit.zero_shot(["red kite", "buzzard"]).save(tmp_path_factory.mktemp("saved") / "model")
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "notes.txt").write_text("private")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    return folder


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned, whose weights are more than nothing."""
    generator = np.random.default_rng(1)
    images = [generator.integers(low, low + 90, (32, 32, 3), dtype=np.uint8) for low in (0, 160) for _ in range(4)]
    found = shotfit.fit(images, ["night"] * 4 + ["day"] * 4, method="linear_probe", check=False)
    return found.save(tmp_path_factory.mktemp("fitted") / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client in this process asks, with a cache of its own and a login."""
    with running_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(tmp_path / "new.png")
    return str(tmp_path / "new.png")


def line(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line of an error, and its exit code."""
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and TOKEN not in said
    assert code in (2, 3)
    return said


def test_pushed_model_holds_its_own_files_and_nothing_beside_them(hub: Hub, model: Path) -> None:
    pushed = push(model, "owner/birds")
    repository = hub.repositories["owner/birds"]
    assert set(repository.files()) == FILES | {".gitattributes"}
    assert repository.private and pushed.private
    assert pushed.address == f"hf://owner/birds@{repository.head}"
    assert repository.files()["adapter.safetensors"] == (model / "adapter.safetensors").read_bytes()
    assert len(repository.commits) == 2  # the hub's first, and one with all files


def test_card_has_the_metadata_that_the_hub_reads(hub: Hub, fitted: Path) -> None:
    push(fitted, "owner/days", license="mit", datasets=["owner/skies"])
    files = hub.repositories["owner/days"].files()
    metadata, text = split_card(files["README.md"].decode())
    found = yaml.safe_load(metadata)
    assert found["library_name"] == "shotfit" and found["pipeline_tag"] == "image-classification"
    assert found["license"] == "mit" and found["datasets"] == ["owner/skies"]
    assert {"shotfit", "linear_probe"} <= set(found["tags"])
    assert "base_model" not in found  # mini is on no hub
    assert text.startswith("# ") and "shotfit predict hf://owner/days image.jpg" in text
    record = json.loads(files["adapter.json"])
    assert record["card"] == hashlib.sha256(files["README.md"]).hexdigest()


def test_base_model_and_accuracy_are_named_where_they_are_known() -> None:
    from shotfit.fitting.pushing import _metadata

    record: dict[str, Any] = {"method": "coop", "backbone": {"name": "ViT-B/32"}, "scores": {"accuracy": 0.91234}}
    found = yaml.safe_load(_metadata(record, None, ["owner/skies"]))
    assert found["base_model"] == "openai/clip-vit-base-patch32" and found["metrics"] == ["accuracy"]
    assert found["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.9123}
    record["backbone"]["name"] = "owner/clip@0123"
    assert yaml.safe_load(_metadata(record, None, []))["base_model"] == "owner/clip"


def test_card_changed_by_hand_is_pushed_as_it_is_with_metadata_in_front(hub: Hub, model: Path, tmp_path: Path) -> None:
    changed = shotfit.load(model).save(tmp_path / "changed")
    (changed / "README.md").write_text("# Birds of prey\n\nMine.\n")
    push(changed, "owner/birds")
    assert split_card(hub.repositories["owner/birds"].files()["README.md"].decode())[1] == "# Birds of prey\n\nMine.\n"
    (changed / "README.md").write_text("---\nlicense: mit\n---\n\n# Birds of prey\n")
    push(changed, "owner/birds")
    assert hub.repositories["owner/birds"].files()["README.md"] == (changed / "README.md").read_bytes()
    with pytest.raises(UsageError, match="metadata of its own"):
        push(changed, "owner/birds", license="mit")


def test_paths_of_the_machine_stay_here(hub: Hub, model: Path, tmp_path: Path) -> None:
    copied = shotfit.load(model).save(tmp_path / "copied")
    record = json.loads((copied / "adapter.json").read_text())
    record["backbone"]["name"] = "../secret-project/RN50.pt"
    (copied / "adapter.json").write_text(json.dumps(record))
    push(copied, "owner/birds")
    assert "secret-project" not in hub.repositories["owner/birds"].files()["adapter.json"].decode()


def test_model_in_memory_is_pushed_and_stays_unsaved(hub: Hub) -> None:
    found = shotfit.zero_shot(["kite", "buzzard"])
    pushed = shotfit.push(found, "hf://owner/birds")
    assert found.source is None
    assert shotfit.load(pushed.address).class_names == ("kite", "buzzard")


def test_loaded_model_predicts_as_the_one_that_was_pushed_and_tells_its_commit(
    hub: Hub, fitted: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed = push(fitted, "owner/days")
    loaded = shotfit.load("hf://owner/days")
    assert capsys.readouterr().err == f"model: {pushed.address}\n"
    assert loaded.source == pushed.address
    assert np.array_equal(loaded.predict_proba(picture), shotfit.load(fitted).predict_proba(picture))


def test_every_command_takes_an_address(
    hub: Hub, fitted: Path, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(fitted), "owner/days", "--json"]) == 0
    address = json.loads(capsys.readouterr().out)["address"]
    for name in ("night", "day"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.open(picture).save(tmp_path / "photos" / name / f"{name}.png")
    photos = str(tmp_path / "photos")
    assert main(["predict", "hf://owner/days", picture, "--format", "csv"]) == 0
    assert ",day," in capsys.readouterr().out
    assert main(["show", "hf://owner/days", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == address
    assert main(["verify", "hf://owner/days", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["evaluate", "hf://owner/days@main", photos, "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == address
    assert main(["evaluate", "hf://owner/days", str(fitted), photos, "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == [address, str(fitted)]
    page = tmp_path / "record.html"
    assert main(["report", "hf://owner/days", "--out", str(page)]) == 0
    assert "hf://owner/days" in page.read_text(encoding="utf-8")


def test_same_files_are_not_pushed_again(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = push(model, "owner/birds")
    assert push(model, "owner/birds").address == first.address
    assert main(["push", str(model), "owner/birds"]) == 0
    assert "the hub has the same files" in capsys.readouterr().out
    assert len(hub.repositories["owner/birds"].commits) == 2


def test_pinned_revision_stays_and_a_branch_moves(hub: Hub, model: Path, fitted: Path) -> None:
    first = push(model, "owner/birds").address
    second = push(fitted, "owner/birds").address
    assert shotfit.load("hf://owner/birds").source == second
    assert shotfit.load(first).class_names == ("red kite", "buzzard")
    asked = len(hub.requests)
    assert shotfit.load(first).source == first
    assert len(hub.requests) == asked  # a commit that is in the cache is not asked for again


def test_offline_and_out_of_reach_the_cache_is_read(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = push(model, "owner/birds").address
    shotfit.load("hf://owner/birds")
    hub.faults["status"] = 500
    capsys.readouterr()
    assert shotfit.load("hf://owner/birds").source == address
    note, _ = capsys.readouterr().err.splitlines()
    assert note.startswith("note: hf://owner/birds could not be fetched") and note.endswith("as it was last seen.")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert shotfit.load("hf://owner/birds").source == address
    with pytest.raises(ShotfitError, match=r"hf://owner/other is not in the cache .* HF_HUB_OFFLINE is set"):
        shotfit.load("hf://owner/other")
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        push(model, "owner/birds")
    assert len(hub.requests) == asked


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.json", "README.md"])
def test_wrong_bytes_are_refused_and_not_kept(hub: Hub, fitted: Path, name: str) -> None:
    push(fitted, "owner/days")
    hub.faults["wrong"] = name
    with pytest.raises(ShotfitError, match=rf"{name} of hf://owner/days is not what the hub lists"):
        local_folder("hf://owner/days")
    del hub.faults["wrong"]
    assert (local_folder("hf://owner/days") / name).read_bytes() == hub.repositories["owner/days"].files()[name]


def test_weights_of_another_model_are_refused_by_the_record(hub: Hub, model: Path, fitted: Path) -> None:
    files = {name: (fitted / name).read_bytes() for name in FILES}
    hub.add("owner/mixed", files | {"adapter.safetensors": (model / "adapter.safetensors").read_bytes()})
    with pytest.raises(ShotfitError, match=r"is not the file that its adapter.json was written with"):
        shotfit.load("hf://owner/mixed")


def test_damage_in_the_cache_is_found_and_mended(hub: Hub, fitted: Path) -> None:
    address = push(fitted, "owner/days").address
    weights = local_folder(address) / "adapter.safetensors"
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ShotfitError, match="another sha256"):
        shotfit.load(address)
    assert shotfit.load(address).source == address


@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.json"])
def test_file_that_is_cut_off_leaves_nothing_that_opens(
    hub: Hub, fitted: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    push(fitted, "owner/days")
    hub.faults["cut"] = name
    with pytest.raises(ShotfitError, match="hf://owner/days could not be fetched"):
        shotfit.load("hf://owner/days")
    hub.faults.clear()
    assert shotfit.load("hf://owner/days").class_names == ("day", "night")


def test_only_the_files_of_a_model_are_fetched_and_no_large_one(hub: Hub, model: Path) -> None:
    files = {name: (model / name).read_bytes() for name in FILES}
    hub.add("owner/more", files | {"run.py": b"print()", "sub/adapter.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    folder = local_folder("hf://owner/more")
    assert {path.name for path in folder.iterdir()} == FILES
    hub.add("owner/huge", files)
    for name, size in (("adapter.json", 2**30), ("adapter.safetensors", 2**40), ("README.md", 2**30)):
        hub.faults["listed_size"] = {name: size}
        hub.requests.clear()
        with pytest.raises(ShotfitError, match=rf"{name} of hf://owner/huge has {size:,} bytes; at most"):
            shotfit.load("hf://owner/huge")
        assert not any("resolve" in request for request in hub.requests)


def test_stranger_on_the_hub_is_checked_as_any_other(hub: Hub, model: Path) -> None:
    record = json.loads((model / "adapter.json").read_text())
    files = {name: (model / name).read_bytes() for name in FILES}
    for change, said in (
        ({"found_at": "/tmp/evil.py:Method"}, "of a file, which is run only if you name it"),
        ({"backbone": record["backbone"] | {"name": "/etc/passwd"}}, "names its backbone by a path"),
        ({"backbone": record["backbone"] | {"name": "owner/backbone"}}, "needs its backbone owner/backbone"),
        ({"precision": "float8"}, "its precision is float8"),
    ):
        hub.add("owner/stranger", files | {"adapter.json": json.dumps(record | change).encode()})
        hub.requests.clear()
        with pytest.raises(ShotfitError, match=said):
            shotfit.load("hf://owner/stranger")
        assert not any("owner/backbone" in request for request in hub.requests)  # nothing is fetched for it


def test_repository_of_something_else_is_no_model(hub: Hub, model: Path) -> None:
    hub.add("owner/bert", {"config.json": b"{}", "README.md": b"# BERT"}, private=True)
    with pytest.raises(ShotfitError, match=r"hf://owner/bert is not a shotfit model: it has no adapter.json"):
        shotfit.load("hf://owner/bert")
    with pytest.raises(UsageError, match=r"owner/bert holds something else \(config.json\)"):
        push(model, "owner/bert")


def test_nothing_is_published_by_mistake(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("owner/open", {"README.md": b"# to come"})
    assert main(["push", str(model), "owner/open"]) == 2
    assert "owner/open is public on the hub: add --public" in line(capsys, 2)
    assert main(["push", str(model), "owner/open", "--public"]) == 0
    assert "public: " in capsys.readouterr().out
    assert push(model, "owner/new", private=False).private is False
    hub.add("owner/closed", {}, private=True)
    with pytest.raises(UsageError, match="owner/closed is private on the hub"):
        push(model, "owner/closed", private=False)


def test_somebody_elses_commit_is_not_overwritten(hub: Hub, model: Path, fitted: Path) -> None:
    push(model, "owner/birds")
    hub.faults["moves"] = {"README.md": b"# theirs"}
    with pytest.raises(ShotfitError, match="owner/birds changed on the hub while the model was pushed"):
        push(fitted, "owner/birds")
    assert hub.repositories["owner/birds"].files()["README.md"] == b"# theirs"


def test_login_is_asked_for_in_a_line(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(model, "owner/birds")
    capsys.readouterr()
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(model), "owner/other"]) == 3
    assert "hf auth login" in line(capsys, 3)
    assert main(["show", "hf://owner/birds"]) == 3
    assert "The hub has no repository owner/birds, or it is private" in line(capsys, 3)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "0" * 30)
    assert main(["show", "hf://owner/birds"]) == 3
    assert "hf_000" not in line(capsys, 3)
    assert main(["push", str(model), "owner/birds"]) == 3
    assert "hf_000" not in line(capsys, 3)


@pytest.mark.parametrize("status", [403, 404, 429, 500, 503])
def test_refusals_of_the_hub_are_a_line_without_the_token(
    hub: Hub, model: Path, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.faults["status"] = status
    assert main(["show", "hf://owner/birds"]) == 3
    assert "owner/birds" in line(capsys, 3)
    assert main(["push", str(model), "owner/birds"]) == 3
    assert "owner/birds" in line(capsys, 3)


def test_token_that_cannot_be_sent_is_not_shown(
    hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\x01token")
    assert main(["push", str(model), "owner/birds"]) == 3
    assert "secret" not in line(capsys, 3)


def test_unknown_revision_is_a_line(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(model, "owner/birds")
    capsys.readouterr()
    assert main(["verify", "hf://owner/birds@v9"]) == 3
    assert "owner/birds has no revision 'v9'" in line(capsys, 3)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("s3://bucket/model", "is of no kind that is known"),
        ("https://host/owner/name", "is of no kind that is known"),
        ("hf://name", "'name' is no repository on the hub"),
        ("hf://", "'' is no repository on the hub"),
        ("hf://a/b/c", "'a/b/c' is no repository on the hub"),
        ("hf://a/..", "'a/..' is no repository on the hub"),
        ("hf://../../etc/passwd", "is no repository on the hub"),
        ("hf://owner/na me", "is no repository on the hub"),
        ("hf://owner/name@", "'' is no revision"),
        ("hf://owner/name@../../x", "is no revision"),
        ("hf://owner/name@a b", "is no revision"),
        ("hf://owner/\x1b[31m", "is no repository on the hub"),
    ],
)
def test_bad_addresses_are_a_line_of_wrong_usage(
    hub: Hub, model: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", model]) == 2
    shown = line(capsys, 2)
    assert said in shown and "\x1b" not in shown
    assert main(["verify", model]) == 2
    assert said in line(capsys, 2)
    assert hub.requests == []


@pytest.mark.parametrize("repository", ["name", "owner/", "https://host/owner/name", "hf://owner/name@v1", "a/b/c"])
def test_bad_names_to_push_to_are_a_line_of_wrong_usage(
    hub: Hub, model: Path, repository: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(model), repository]) == 2
    line(capsys, 2)
    assert hub.requests == []


def test_what_is_no_model_is_not_pushed(
    hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(tmp_path), "owner/birds"]) == 3
    assert "is not a shotfit model" in line(capsys, 3)
    damaged = shotfit.load(model).save(tmp_path / "damaged")
    (damaged / "adapter.safetensors").write_bytes(b"x")
    assert main(["push", str(damaged), "owner/birds"]) == 3
    assert "damaged or cut off" in line(capsys, 3)
    for flag in (["--license", "My own"], ["--dataset", "a b"]):
        assert main(["push", str(model), "owner/birds", *flag]) == 2
        line(capsys, 2)
    assert hub.repositories == {}


def test_fit_writes_to_a_folder_and_not_to_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--classes", "red kite,buzzard", "--out", "hf://owner/birds"]) == 2
    assert "put it there with `shotfit push`" in line(capsys, 2)
    assert not Path("hf:").exists()


def test_folder_is_called_by_its_address_in_the_cache_alone(hub: Hub, tmp_path: Path) -> None:
    commit = "0" * 40
    assert called(Path(constants.HF_HUB_CACHE) / "models--owner--na-me" / "snapshots" / commit) == (
        f"hf://owner/na-me@{commit}"
    )
    elsewhere = tmp_path / "models--owner--name" / "snapshots" / commit
    assert called(elsewhere) == str(elsewhere)


def test_push_and_predict_by_another_process_with_the_clients_own_settings(
    model: Path, picture: str, tmp_path: Path
) -> None:
    """Endpoint, cache and login come from the environment and the client's files, as a user has them."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    with running_hub() as hub:
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}

        def run(*words: str) -> str:
            command = [sys.executable, "-m", "shotfit", *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
            assert TOKEN not in done.stdout + done.stderr
            return done.stdout

        run("push", str(model), "owner/birds")
        said = run("predict", "hf://owner/birds", picture)
    assert "red kite" in said or "buzzard" in said
