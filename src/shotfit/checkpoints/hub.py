"""Checkpoints from the Hugging Face hub, by its own client and cache.

Only the files that are needed are fetched: configurations and tokenizer first, then one set of weights, so that a
folder whose weights are there is complete. With HF_HUB_OFFLINE, or where the hub cannot be reached, the cache is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from shotfit.errors import ShotfitError

__all__ = ["TIMEOUT", "fetch", "is_hub_id", "on_disk", "quiet_without_terminal", "reason_of", "refusal"]

CONFIGS = ("open_clip_config.json", "config.json")
SMALL_FILES = (
    *CONFIGS,
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
)
WEIGHTS = (".safetensors", ".bin", ".pt")
TIMEOUT = 20.0  # seconds for the hub's first answer

Choose = Callable[[Collection[str], Path], str]  # a weights file of some names, by the configurations in a folder


def is_hub_id(source: str) -> bool:
    """Whether a text has the form of a repository on the hub, `owner/name`."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source, re.ASCII) is not None


def fetch(
    repository: str,
    revision: str,
    weights_file: Choose,
    shards: Callable[[str], bool],
    cached: bool = False,
    known: Sequence[str] = CONFIGS,
) -> Path:
    """The local folder of a repository at a revision (branch, tag or commit), downloaded where it is not yet.

    weights_file: which of the names of a repository's files is loaded, by the configurations in a folder (raises
    ShotfitError if none can be). shards: whether a name is a part of weights that come in several files. cached: read
    the cache alone, as with HF_HUB_OFFLINE. known: files by the first of which the cache is searched.

    Raises ShotfitError in one sentence if the repository or its revision does not exist or asks for a login, or if the
    hub is out of reach and the cache is empty.
    """
    if cached or constants.HF_HUB_OFFLINE:
        folder = _cached(repository, revision, weights_file, known)
        if folder is None:
            missing = f"{repository} at revision {revision} is not in the cache ({constants.HF_HUB_CACHE})"
            if cached:
                raise ShotfitError(f"{missing}.")
            raise ShotfitError(
                f"{missing}, and HF_HUB_OFFLINE is set: unset it once to download, or name a folder that holds the "
                "checkpoint."
            )
        return folder
    try:
        return _download(repository, revision, weights_file, shards)
    except ShotfitError:
        raise
    except Exception as error:  # the client's transport differs between its versions, and so do its errors
        refused = refusal(error, repository, revision)
        if refused is not None:
            raise refused from None
        folder = _cached(repository, revision, weights_file, known)
        if folder is not None:
            return folder
        raise ShotfitError(
            f"{repository} could not be fetched from {constants.ENDPOINT} ({reason_of(error)}). Name a folder that "
            "holds the checkpoint, or set HF_HUB_OFFLINE=1 where it is in the cache."
        ) from None


def on_disk(repository: str) -> list[str]:
    """The commits of a repository of which the cache holds weights."""
    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    try:
        folders = sorted(home.iterdir())
        return [one.name for one in folders if any(path.suffix in WEIGHTS for path in one.iterdir())]
    except OSError:
        return []


def refusal(error: Exception, repository: str, revision: str) -> ShotfitError | None:
    """What the hub refused, in a sentence; None where it was not reached, or said nothing that shotfit knows."""
    if isinstance(error, GatedRepoError):
        return ShotfitError(
            f"{repository} asks for a login: accept its terms on the hub and run `hf auth login`, or name a folder."
        )
    if isinstance(error, RevisionNotFoundError):
        return ShotfitError(f"{repository} has no revision {revision!r}: leave it out, or name a commit.")
    if isinstance(error, RepositoryNotFoundError):
        return ShotfitError(
            f"The hub has no repository {repository}, or it is private. Check its name, or name a local folder."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return ShotfitError(f"The hub asks who you are before it shows {repository}: run `hf auth login`.")
    if status == 403:
        return ShotfitError(f"Your login does not allow this with {repository}: log in with a token that does.")
    return None


def reason_of(error: Exception) -> str:
    """The first line of an error of the client. Its token is not in it: a client may quote a header it cannot send."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    token = get_token()
    return (line.replace(token, "(your token)") if token else line)[:200].strip().rstrip(".")


def _download(repository: str, revision: str, weights_file: Choose, shards: Callable[[str], bool]) -> Path:
    info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT)
    names = [sibling.rfilename for sibling in info.siblings or []]
    small = [name for name in names if name in SMALL_FILES]
    with quiet_without_terminal():
        # the first call notes which commit the revision is, the second stays with that commit
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=small))
        weights = weights_file(names, folder)
        needed = [weights, *(filter(shards, names) if weights.endswith(".index.json") else [])]
        snapshot_download(repository, revision=folder.name, allow_patterns=needed)
    return folder


def _cached(repository: str, revision: str, weights_file: Choose, known: Sequence[str]) -> Path | None:
    """The folder of the cache, if it holds a checkpoint."""
    for name in known:
        found = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            folder = Path(found).parents[name.count("/")]
            try:
                weights_file([path.relative_to(folder).as_posix() for path in folder.rglob("*")], folder)
            except ShotfitError:
                return None
            return folder
    return None


@contextmanager
def quiet_without_terminal() -> Iterator[None]:
    """The hub's progress bars on a terminal only."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
