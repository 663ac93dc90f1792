"""The folder of a fitted model: what may be replaced by one, where it may stand, and whose word names its backbone."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Iterable
from pathlib import Path

from shotfit.checkpoints.closed import OBJECT, is_closed, joined_parts, named_by_library, with_places
from shotfit.checkpoints.code import is_code
from shotfit.checkpoints.names import retired
from shotfit.checkpoints.weights import is_known, load_in, load_known
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import SETTINGS_BYTES, TEMPORARY, UnreadableError, can_hold, read_bytes, read_text
from shotfit.towers.backbone import Backbone
from shotfit.towers.precision import Precision

__all__ = [
    "CARD",
    "RECORD",
    "SYSTEM_FILES",
    "WEIGHTS",
    "backbone_of",
    "card_to_keep",
    "check_outside",
    "check_replaceable",
    "check_target",
    "how_to_open",
    "in_record",
    "out_of_record",
]

WEIGHTS, RECORD, CARD = "adapter.safetensors", "adapter.json", "README.md"
EXPORTED = "export.json"
"""The record of an export, which is no model."""

SYSTEM_FILES = frozenset(["desktop.ini", "Thumbs.db", ".DS_Store", ".directory"])
"""What systems put into every folder that one looks at."""
_REPLACED = {RECORD, WEIGHTS, CARD, *SYSTEM_FILES}


def check_target(folder: Path) -> None:
    """Refuse, in a sentence, a folder that no model can be saved as: what saving would say after a long fit."""
    if folder.parts and folder.parts[0] == "hf:":  # a path makes one / of the two of an address
        raise UsageError(f"{folder} is on the hub: choose a folder as --out, and put it there with `shotfit push`.")
    if folder.exists() and not (folder / RECORD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not a shotfit model: choose another --out.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    others = {name for name in names - _REPLACED if not name.startswith(TEMPORARY)}
    check_replaceable(folder, others, "a model")
    if names and not _is_own(folder / RECORD):
        raise UsageError(f"{folder} holds an {RECORD} that is not shotfit's: choose another --out.")


def check_replaceable(folder: Path, others: Collection[str], what: str) -> None:
    """Refuse, in a sentence, a folder that cannot be written as a whole: a file, one that holds `others`, which are no
    part of `what`, one that the process is in, one that cannot be made. Raises UsageError.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: choose another --out.")
    if others:
        raise UsageError(
            f"{folder} holds {first_few(sorted(others))}, which is no part of {what}, and would be replaced as a "
            "whole: move that elsewhere, or choose another --out."
        )
    if folder.is_dir() and folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(f"{folder} is where you are, and would be replaced as a whole: choose another --out.")
    above = next(parent for parent in folder.resolve().parents if parent.exists())
    if not can_hold(folder.resolve()):
        reason = "is not a folder" if not above.is_dir() else "cannot be written to"
        raise UsageError(f"{folder} cannot be made, because {above} {reason}: choose another --out.")


def card_to_keep(folder: Path) -> bytes | None:
    """The model card of a folder, where somebody has changed what shotfit wrote: a save leaves it as it is.

    Known by the digest in the record beside it; models of older versions have none there.
    """
    try:
        record = json.loads(read_text(folder / RECORD, SETTINGS_BYTES, "the record of a model"))
        content = read_bytes(folder / CARD, SETTINGS_BYTES, "the card of a model")
    except (UnreadableError, ValueError, RecursionError):
        return None
    written = record.get("card") if isinstance(record, dict) else None
    return content if isinstance(written, str) and hashlib.sha256(content).hexdigest() != written else None


def _is_own(path: Path) -> bool:
    """Whether an `adapter.json` is shotfit's, of any version: whole or not, nobody else's has these names."""
    try:
        record = json.loads(read_text(path, SETTINGS_BYTES, "the record of a model"))
    except (UnreadableError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"format", "method", "found_at", "classes", "backbone"} <= record.keys()


def check_outside(folder: Path, data: Iterable[Path]) -> None:
    """Refuse, in a sentence, a model folder that lies in a folder of images: the next fit would find it among them."""
    for source in data:
        if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
            raise UsageError(
                f"{folder} would lie in {source}, among the images: choose an --out elsewhere, such as "
                f"--out {shlex.quote(os.path.relpath(source.resolve().parent / folder.name))}."
            )


def in_record(path: str, folder: Path) -> str:
    """A path as the record of a model in this folder has it: no path of this machine, no name of its user.

    It is relative to the model's folder (`../checkpoints/RN50.pt`), and the name alone (`./RN50.pt`) where the two
    share no folder below the root and the folder of all users. What is no absolute path stays as it is.
    """
    return with_places(path, lambda place: _in_record(place, folder))


def _in_record(path: str, folder: Path) -> str:
    if not Path(path).is_absolute():
        return path
    place, model = Path(path).parent.resolve() / Path(path).name, folder.resolve()
    try:
        shared = Path(os.path.commonpath([place, model]))
        above_home = {*Path.home().resolve().parents}
    except (ValueError, RuntimeError):  # on two drives; a user without a home
        return f"./{place.name}"
    if shared == Path(shared.anchor) or shared in above_home:
        return f"./{place.name}"
    return Path(os.path.relpath(place, model)).as_posix()


def out_of_record(path: str, folder: Path) -> str:
    """The inverse of `in_record`: where a path that begins with ../ leads from the model's folder."""

    def back(place: str) -> str:
        return os.path.normpath(folder.resolve() / place) if place.startswith("../") else place

    return with_places(path, back)


def how_to_open(name: str) -> str:
    """The flag, with a space before it, that opening a model on this backbone needs: none for a name that is known.

    An object of Python has no name that a flag could give.
    """
    return "" if is_known(name) or name.startswith(OBJECT) else f" --backbone {shlex.quote(name)}"


def check_closed(folder: Path, recorded: str, trusted: bool) -> None:
    """Refuse to open closed encoders that a model names: code of a file never runs by a model's word.

    trusted: what a library loads by its name is opened. Raises UsageError.
    """
    if recorded.startswith(OBJECT):
        raise UsageError(
            f"{folder} was fitted on an object of Python ({recorded.removeprefix(OBJECT)}): open it there with "
            "shotfit.load(..., backbone=that object), or name a function that makes it: --backbone FILE.py:FUNCTION."
        )
    pieces = joined_parts(recorded)
    if not named_by_library(recorded) and (pieces is None or any(map(is_code, pieces[1:]))):
        raise UsageError(
            f"{folder} was fitted on encoders that a file of code makes, which is run only if you name it: add "
            f"--backbone {shlex.quote(recorded)} (in Python backbone=...), or where that file is now."
        )
    if not trusted:
        raise UsageError(
            f"{folder} was fitted on {recorded}, which another library loads, and that only if you say so: add "
            f"--backbone {shlex.quote(recorded)}, or --trust-backbone (in Python backbone=..., trust_backbone=True)."
        )


def backbone_of(
    folder: Path, recorded: str, given: str | None, trusted: bool, precision: Precision, device: str
) -> Backbone:
    """A model's backbone in a precision on a device: one that is given, or the recorded one.

    trusted: whatever the record says is opened, but for code. Else it is a short name or a hub id whose files are on
    this machine.
    """
    if given is not None:
        return load_in(given, precision, device)
    if is_closed(recorded):
        check_closed(folder, recorded, trusted)
    elif not trusted and not is_known(recorded) and retired(recorded) is None:
        raise UsageError(
            f"{folder} names its backbone by a path, {recorded!r}, which is opened only if you say so: add "
            f"--backbone {shlex.quote(recorded)}, or where it is now, or --trust-backbone (in Python backbone=..., "
            "trust_backbone=True)."
        )
    try:
        return load_in(recorded, precision, device) if trusted else load_known(recorded, precision, device)
    except ShotfitError as error:
        missing = f"{folder} needs its backbone {recorded}, or --backbone that says where it is now"
        known = not trusted and is_known(recorded)
        fetched = f" To fetch it, add --backbone {shlex.quote(recorded)}, or --trust-backbone." if known else ""
        raise type(error)(f"{missing}. {error}{fetched}") from None
