"""Names of models: a folder, or an address on the Hugging Face hub, hf://owner/name[@revision].

    folder = local_folder("hf://owner/name@v1")     # in the hub's cache; any other name stays the folder that it is
    called(folder)                                  # "hf://owner/name@0123456789abcdef...": the commit that it is

The hub's client is imported where an address is really meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shotfit.errors import UsageError

__all__ = ["Address", "address_of", "called", "local_folder", "repository_of"]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+|$)(.*)", re.IGNORECASE | re.DOTALL)  # Path makes one / of two
_REVISION = re.compile(r"\w[\w./-]{0,199}", re.ASCII)
_LONGEST = 200  # characters of a name; the hub has 96 for its second part


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
    from shotfit.checkpoints.hub import is_hub_id

    if not is_hub_id(name) or "--" in name or ".." in name or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} is no repository on the hub: write owner/name, or hf://owner/name for a model there."
        )
    return name


def local_folder(model: str | Path) -> Path:
    """The folder of a model on this machine: itself, or where the cache has the one of an address.

    Raises as `address_of` and `pulling.fetch_model` do.
    """
    found = address_of(model)
    if found is None:
        return Path(model)
    from shotfit.fitting.pulling import fetch_model

    return fetch_model(found)


def called(folder: Path) -> str:
    """What a model's folder is called: one of the hub's cache by its address with the commit, any other by its path.

    >>> called(Path("my-model"))
    'my-model'
    """
    if not any("models--" in str(place) for place in (folder.absolute(), folder.resolve())):
        return str(folder)
    from huggingface_hub import constants

    place, cache = folder.absolute(), Path(constants.HF_HUB_CACHE).absolute()
    if not place.is_relative_to(cache):
        place, cache = folder.resolve(), cache.resolve()
    if not place.is_relative_to(cache):
        return str(folder)
    match place.relative_to(cache).parts:
        case (repository, "snapshots", commit) if repository.startswith("models--"):
            return str(Address(repository.removeprefix("models--").replace("--", "/", 1), commit))
    return str(folder)
