"""Fetch fitted models from the Hugging Face hub.

    folder = fetch_model(Address("owner/name", "v1"))     # in the hub's cache

A model's own files alone are fetched, after their sizes were looked at, and are compared with what the hub and the
model's record say of them. What is there then is a folder like any stranger's: `opening.py` judges it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

from shotfit.checkpoints.hub import TIMEOUT, quiet_without_terminal, reason_of, refusal
from shotfit.errors import ShotfitError
from shotfit.files import MODEL_BYTES, SETTINGS_BYTES, read_bytes
from shotfit.fitting.addresses import Address, called
from shotfit.fitting.folder import CARD, RECORD, WEIGHTS
from shotfit.fitting.record import read_record
from shotfit.progress import say

__all__ = ["FILES", "fetch_model", "is_same"]

FILES = {RECORD: SETTINGS_BYTES, WEIGHTS: MODEL_BYTES, CARD: SETTINGS_BYTES}
"""The files of a model and the most bytes of each. No other file of a repository is looked at."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


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
