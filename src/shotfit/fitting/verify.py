"""Look at a model's folder without running it: is it whole, and as its method declares? Does anything else lie in it?

for check in verify(Path("shotfit-model")):
    print(check.name, check.outcome, check.said)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from shotfit.checkpoints.weights import is_known
from shotfit.engine.frozen import Frozen
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import MODEL_BYTES, UnreadableError, open_regular, read_bytes, read_text, standing
from shotfit.fitting.addresses import called, local_folder
from shotfit.fitting.card import split_card
from shotfit.fitting.folder import CARD, RECORD, SYSTEM_FILES, WEIGHTS, backbone_of
from shotfit.fitting.opening import Saved, check_record, read_saved
from shotfit.fitting.record import here, read_record, read_tensors
from shotfit.fitting.task_parts import digests
from shotfit.methods import in_file
from shotfit.methods.base import Method

__all__ = ["Check", "Outcome", "verify"]

Outcome = Literal["ok", "wrong", "not checked"]
T = TypeVar("T")

LARGEST_CARD = 64 * 2**20
_PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. name: files, record, weights, method, backbone, tensors or card."""

    name: str
    outcome: Outcome
    said: str


def verify(
    folder: str | Path,
    backbone: str | None = None,
    method: str | type[Method] | None = None,
    trust_backbone: bool = False,
) -> list[Check]:
    """What a look at the folder finds, in order; nothing of the model runs, and no image is read.

    folder: also hf://owner/name[@revision].

    backbone, method, trust_backbone: as of `Model.open`. A backbone that is not on this machine, or that only the model
    names by a path, leaves its check and that of the tensors out; so does a method's file that nobody names.

    Raises ShotfitError where there is no folder, or the hub gives no model.
    """
    asked = local_folder(folder)
    folder = standing(asked)
    if not folder.is_dir():
        raise ShotfitError(f"{asked} is not a folder: name one that `shotfit fit` wrote.")
    found = [Check("files", *_files(folder)), Check("card", *_card(folder))]

    def tried(name: str, said: Callable[[T], str], look: Callable[[], T]) -> T | None:
        try:
            result = look()
        except ShotfitError as error:
            found.append(Check(name, "wrong", str(error)))
            return None
        found.append(Check(name, "ok", said(result)))
        return result

    def record_of() -> dict[str, Any]:
        record = here(read_record(folder), asked)
        check_record(folder, record)
        return record

    record = tried("record", lambda own: f"format {own['format']}, method {own['method']}", record_of)
    if record is None:
        return found + _left_out(("weights", "method", "backbone", "tensors"), f"{RECORD} cannot be used")
    weights = tried(
        "weights",
        lambda own: f"{len(own)} tensors, all finite, sha256 {str(record['weights'])[:12]} as recorded",
        lambda: _read(folder, record),
    )
    if weights is None:
        return found + _left_out(("method", "backbone", "tensors"), f"{WEIGHTS} cannot be used")
    if method is None and in_file(str(record["found_at"])):
        why = f"the method is a file of code, {record['found_at']}: --method names it, and runs it"
        return found + _left_out(("method", "backbone", "tensors"), why)
    saved = tried(
        "method",
        lambda own: (
            f"{own.method.name}, {len(own.record['options'])} options within their bounds, "
            f"{sum(len(task.names) for task in own.classes)} classes"
        ),
        lambda: read_saved(folder, method, asked),
    )
    if saved is None:
        return found + _left_out(("backbone", "tensors"), "the method cannot be used")
    return found + _with_backbone(saved, backbone, trust_backbone)


def _read(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, where the hashes by task, of a model that has them, are those of the file."""
    tensors = read_tensors(folder, record)
    sizes = [len(own["names"]) for own in record["classes"]]
    parts = digests(read_bytes(folder / WEIGHTS, MODEL_BYTES, "what a method learned"), sizes)
    if record.get("parts", parts) != parts:
        raise ShotfitError(f"{folder / RECORD} has other hashes of single tasks than {WEIGHTS}: fit the model again.")
    return tensors


def _with_backbone(saved: Saved, given: str | None, trusted: bool) -> list[Check]:
    name, fingerprint = saved.record["backbone"]["name"], saved.record["backbone"]["fingerprint"]
    if given is None and not trusted and not is_known(name):
        why = f"it is {name}: --backbone says where that is now"
        return _left_out(("backbone", "tensors"), why)
    try:
        loaded = backbone_of(saved.folder, name, given, trusted, "float32", "cpu")
    except (ShotfitError, UsageError) as error:
        return _left_out(("backbone", "tensors"), str(error))
    if loaded.fingerprint != fingerprint:
        said = f"{loaded.name} has fingerprint {loaded.fingerprint[:12]}; the model was fitted on {fingerprint[:12]}"
        return [Check("backbone", "wrong", said), *_left_out(("tensors",), "it is another backbone")]
    backbone = Check("backbone", "ok", f"{name}, fingerprint {fingerprint[:12]} as recorded")
    try:
        saved.check(Frozen(loaded, MemoryStore()))
    except ShotfitError as error:
        return [backbone, Check("tensors", "wrong", str(error))]
    if saved.method.all_declared() is None:
        said = f"{saved.method.name} does not declare its tensors; their names can be its own"
        return [backbone, Check("tensors", "not checked", said)]
    return [backbone, Check("tensors", "ok", f"{len(saved.tensors)}, as {saved.method.name} declares them")]


def _left_out(names: tuple[str, ...], why: str) -> list[Check]:
    return [Check(name, "not checked", why) for name in names]


def _files(folder: Path) -> tuple[Outcome, str]:
    """Whether a model's files lie there, and nothing else."""
    expected = {WEIGHTS, RECORD, CARD}
    paths = sorted(folder.iterdir())
    links = [path.name for path in paths if path.is_symlink()]
    if called(folder) != str(folder):  # in the hub's cache, which has links to the contents of files
        held = (folder.parent.parent / "blobs").resolve()
        links = [name for name in links if (folder / name).resolve().parent != held]
    others = [path for path in paths if path.name not in expected | SYSTEM_FILES]
    pickles = [path.name for path in others if _is_pickle(path)]
    problems = []
    if pickles:
        problems.append(f"{first_few(pickles)} may be pickled, and run code where something loads it")
    if rest := [path.name for path in others if path.name not in pickles]:
        problems.append(f"{first_few(rest)} {'is' if len(rest) == 1 else 'are'} none of a model's files")
    if links:
        problems.append(f"{first_few(links)} is a link")
    if problems:
        return "wrong", "; ".join(problems)
    return "ok", f"{len(paths)}, and none that is not a model's"


def _is_pickle(path: Path) -> bool:
    """Whether a file has the name or the beginning of one that Python's pickle, or torch, writes."""
    if path.suffix.lower() in _PICKLES:
        return True
    try:
        with open_regular(path, 2**63 - 1, "a file") as file:
            begin = file.read(4)
    except (UnreadableError, OSError):
        return False
    return (begin[:1] == b"\x80" and begin[1:2] in (b"\2", b"\3", b"\4", b"\5")) or begin == b"PK\3\4"


def _card(folder: Path) -> tuple[Outcome, str]:
    try:
        text = read_text(folder / CARD, LARGEST_CARD, "a model card", errors="replace")
    except UnreadableError as error:
        return "wrong", str(error)
    if not split_card(text)[1].startswith("# "):
        return "wrong", f"{CARD} is not a card that shotfit wrote: its first line is no title"
    return "ok", CARD
