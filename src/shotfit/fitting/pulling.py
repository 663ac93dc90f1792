"""Fitted models from the Hugging Face hub: hf://owner/name[@revision] stands wherever a model's folder does.

    folder = local_folder("hf://owner/name@v1")     # in the hub's cache; any other name stays the folder that it is
    called(folder)                                  # "hf://owner/name@0123456789abcdef...": the commit that it is

A model's own files alone are fetched, after their sizes were looked at, and are compared with what the hub and the
model's record say of them. What is there then is a folder like any stranger's: `opening.py` judges it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

from shotfit.checkpoints.hub import TIMEOUT, is_hub_id, quiet_without_terminal, reason_of, refusal
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import MODEL_BYTES, SETTINGS_BYTES, read_bytes
from shotfit.fitting.folder import CARD, RECORD, WEIGHTS
from shotfit.fitting.record import read_record
from shotfit.progress import say

__all__ = ["FILES", "Address", "address_of", "called", "fetch_model", "is_same", "local_folder", "repository_of"]

FILES = {RECORD: SETTINGS_BYTES, WEIGHTS: MODEL_BYTES, CARD: SETTINGS_BYTES}
"""The files of a model and the most bytes of each. No other file of a repository is looked at."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+|$)(.*)", re.IGNORECASE | re.DOTALL)  # Path makes one / of two
_REVISION = re.compile(r"\w[\w./-]{0,199}", re.ASCII)
_LONGEST = 200  # characters of a name; the hub has 96 for its second part
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """A repository on the hub and the revision that is meant: a branch, a tag or a commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repository}{'' if self.revision == 'main' else f'@{self.revision}'}"


def address_of(model: str | Path) -> Address | None:
    """The address that a model's name is; None for a folder.

    Raises UsageError for an address of another kind, or one that names no repository.

    >>> str(address_of("hf://owner/name@v1")), address_of("my-model")
    ('hf://owner/name@v1', None)
    """
    text = model.as_posix() if isinstance(model, Path) else model
    found = _SCHEME.fullmatch(text)
    if found is None or Path(text).exists():
        return None
    if found[1].lower() != "hf":
        raise UsageError(f"{text} is of no kind that is known: name a folder, or a model on the hub, hf://owner/name.")
    name, at, revision = found[2].rstrip("/").partition("@")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"{revision!r} is no revision: name a branch, a tag or a commit, as in hf://owner/name@v1.")
    return Address(repository_of(name), revision or "main")


def repository_of(name: str) -> str:
    """The name of a repository on the hub. Raises UsageError for a text that cannot be one.

    >>> repository_of("owner/name")
    'owner/name'
    """
    if not is_hub_id(name) or "--" in name or ".." in name or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} is no repository on the hub: write owner/name, or hf://owner/name for a model there."
        )
    return name


def local_folder(model: str | Path) -> Path:
    """The folder of a model on this machine: itself, or where the cache has the one of an address.

    Raises as `address_of` and `fetch_model` do.
    """
    found = address_of(model)
    return Path(model) if found is None else fetch_model(found)


def called(folder: Path) -> str:
    """What a model's folder is called: one of the hub's cache by its address with the commit, any other by its path.

    >>> called(Path("my-model"))
    'my-model'
    """
    place, cache = folder.absolute(), Path(constants.HF_HUB_CACHE).absolute()
    if not place.is_relative_to(cache):
        place, cache = folder.resolve(), cache.resolve()
    if not place.is_relative_to(cache):
        return str(folder)
    match place.relative_to(cache).parts:
        case (repository, "snapshots", commit) if repository.startswith("models--"):
            return str(Address(repository.removeprefix("models--").replace("--", "/", 1), commit))
    return str(folder)


def fetch_model(address: Address) -> Path:
    """The folder of a model on the hub in its client's cache, downloaded where it is not yet; tells its commit.

    A commit that is in the cache is not asked for again. With HF_HUB_OFFLINE, or where the hub cannot be reached, the
    cache is read.

    Raises ShotfitError in one sentence where the repository or its revision is not there, asks for a login, holds no
    model, or one whose files are too large or not those that the hub and the model's record say.
    """
    pinned = _COMMIT.fullmatch(address.revision) is not None
    folder = _cached(address) if pinned or constants.HF_HUB_OFFLINE else None
    if folder is None and constants.HF_HUB_OFFLINE:
        raise ShotfitError(
            f"{address} is not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set: unset it once to "
            "download the model."
        )
    if folder is None:
        folder = _fetched(address)
    _check_record(folder, address)
    say(f"model: {called(folder)}")
    return folder


def is_same(content: bytes, listed: Any) -> bool:
    """Whether a file's bytes are those that the hub lists, by the digest it gives: sha256, or git's own."""
    large = getattr(listed, "lfs", None)
    if large is not None:
        return hashlib.sha256(content).hexdigest() == large.sha256
    git = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    git.update(content)
    return git.hexdigest() == listed.blob_id


def _fetched(address: Address) -> Path:
    try:
        return _download(address)
    except ShotfitError:
        raise
    except Exception as error:  # the client's transport differs between its versions, and so do its errors
        refused = refusal(error, address.repository, address.revision)
        if refused is not None:
            raise refused from None
        why = f"{address} could not be fetched from {constants.ENDPOINT} ({reason_of(error)})"
        folder = _cached(address)
        if folder is None:
            raise ShotfitError(f"{why}: try again, or name a folder that holds the model.") from None
        say(f"note: {why}; the cache has it as it was last seen.")
        return folder


def _download(address: Address) -> Path:
    info = HfApi().model_info(address.repository, revision=address.revision, files_metadata=True, timeout=TIMEOUT)
    listed = {one.rfilename: one for one in info.siblings or [] if one.rfilename in FILES}
    _check_listed(address, listed)
    with quiet_without_terminal():
        # the first call notes which commit the revision is, the others stay with that commit
        folder = Path(hf_hub_download(address.repository, RECORD, revision=address.revision)).parent
        if folder.name != info.sha:
            raise ShotfitError(f"{address} changed while it was fetched: try again, or name a commit.")
        for name in listed:
            hf_hub_download(address.repository, name, revision=info.sha)
    for name, one in listed.items():
        if not is_same(read_bytes(folder / name, FILES[name], "a file of a model"), one):
            _forget(folder / name)
            raise ShotfitError(
                f"{name} of {address} is not what the hub lists (another digest): something changed it on the way. It "
                "was not kept; try again."
            )
    return folder


def _check_listed(address: Address, listed: Mapping[str, Any]) -> None:
    missing = next((name for name in (RECORD, WEIGHTS) if name not in listed), None)
    if missing is not None:
        raise ShotfitError(f"{address} is not a shotfit model: it has no {missing}.")
    for name, one in listed.items():
        if one.size is None or one.size > FILES[name]:
            size = "no size" if one.size is None else f"{one.size:,} bytes"
            raise ShotfitError(f"{name} of {address} has {size}; at most {FILES[name]:,} are fetched.")


def _check_record(folder: Path, address: Address) -> None:
    """The digest that the model's own record has of its weights."""
    record = read_record(folder)
    content = read_bytes(folder / WEIGHTS, MODEL_BYTES, "what a method learned")
    if hashlib.sha256(content).hexdigest() != record["weights"]:
        _forget(folder / WEIGHTS)
        raise ShotfitError(
            f"{WEIGHTS} of {address} is not the file that its {RECORD} was written with (another sha256). It was not "
            "kept; try again, and tell whoever pushed the model if it stays so."
        )


def _cached(address: Address) -> Path | None:
    """The folder of the cache, if it holds a model."""
    found = [try_to_load_from_cache(address.repository, name, revision=address.revision) for name in (RECORD, WEIGHTS)]
    return Path(found[0]).parent if isinstance(found[0], str) and isinstance(found[1], str) else None


def _forget(file: Path) -> None:
    """Remove a file from the client's cache: its name, and the content that the name leads to."""
    content = file.resolve()
    file.unlink(missing_ok=True)
    content.unlink(missing_ok=True)
