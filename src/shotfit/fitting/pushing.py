"""Put a fitted model on the Hugging Face hub, by its own client: its three files, in one commit, and nothing else.

    pushed = push("my-model", "owner/name")         # private unless you say otherwise
    load(pushed.address)                            # hf://owner/name@COMMIT

The card gets the metadata that the hub reads in front. The record that is pushed has the digest of that card, so that
the model on the hub is whole in itself. The login is the client's: `hf auth login`, or HF_TOKEN.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from shotfit.calls import checked
from shotfit.checkpoints.hub import TIMEOUT, is_hub_id, quiet_without_terminal, reason_of, refusal
from shotfit.checkpoints.names import find
from shotfit.errors import ShotfitError, UsageError, first_few
from shotfit.files import read_bytes, standing
from shotfit.fitting.addresses import Address, address_of, local_folder, repository_of
from shotfit.fitting.aside import saved_aside
from shotfit.fitting.card import PLACE, split_card
from shotfit.fitting.folder import CARD, RECORD, card_to_keep
from shotfit.fitting.model import Model
from shotfit.fitting.opening import check_record
from shotfit.fitting.pulling import FILES, is_same
from shotfit.fitting.record import read_record, read_tensors

__all__ = ["Pushed", "push"]

_BESIDE = re.compile(r"\.gitattributes|LICEN[CS]E(\.\w+)?", re.IGNORECASE)
"""What a repository may hold beside a model; a push leaves it alone."""


@dataclass(frozen=True)
class Pushed:
    """A model on the hub. address: with its commit. changed: False where the hub had the same files already."""

    address: str
    url: str
    private: bool
    changed: bool
    files: tuple[str, ...]


@checked
def push(
    model: str | Path | Model,
    repository: str,
    *,
    private: bool = True,
    license: str | None = None,
    datasets: Sequence[str] = (),
    message: str = "Push a model of shotfit",
) -> Pushed:
    """Put a model on the hub as `owner/name`, which is made where it is not there yet.

    model: a folder, or a model; one that was never saved goes there all the same. private: a repository that exists as
    the other is refused, so that nothing is published by mistake. license: what the hub calls it, such as apache-2.0.
    datasets: those on the hub that it was fitted to. Its own three files are uploaded and nothing beside them.

    Raises UsageError for a name that is none, a repository of the other kind or of something else; ShotfitError for a
    folder that is no whole model, and where the hub refuses or cannot be reached.

    Example (needs a hub):
        push("my-model", "owner/name", license="mit").address
    """
    named = address_of(repository)
    if named is not None and named.revision != "main":
        raise UsageError(f"A model is pushed to the main branch: leave out @{named.revision}.")
    name = repository_of(repository) if named is None else named.repository
    for dataset in datasets:
        if not is_hub_id(dataset) and not re.fullmatch(r"\w[\w.-]*", dataset, re.ASCII):
            raise UsageError(f"{dataset!r} is no data set on the hub: write owner/name.")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UsageError(f"{license!r} is no licence as the hub writes them: apache-2.0, mit, cc-by-4.0, other, ...")
    if constants.HF_HUB_OFFLINE:
        raise UsageError(f"{name} cannot be pushed to, because HF_HUB_OFFLINE is set: unset it.")
    with saved_aside(model) if isinstance(model, Model) else nullcontext(local_folder(model)) as folder:
        contents = _contents(folder, name, license, datasets)
    return _pushed(contents, name, private, message)


def _contents(folder: Path, name: str, license: str | None, datasets: Sequence[str]) -> dict[str, bytes]:
    """The bytes of each file as it is pushed, once the model is known to be whole."""
    folder = standing(folder)
    record = read_record(folder)
    check_record(folder, record)
    read_tensors(folder, record)
    found = {file: read_bytes(folder / file, limit, "a file of a model") for file, limit in FILES.items()}
    text = found[CARD].decode("utf-8", "replace")
    metadata, body = split_card(text)
    edited = card_to_keep(folder) is not None
    if not edited:
        text = f"---\n{_metadata(record, license, datasets)}\n---\n\n{body.replace(PLACE, f'hf://{name}')}"
    elif not metadata:
        text = f"---\n{_metadata(record, license, datasets)}\n---\n\n{body}"
    elif license is not None or datasets:
        raise UsageError(
            f"{folder / CARD} was changed by hand and has metadata of its own: write licence and data sets there."
        )
    card = text.encode("utf-8")
    record = _without_paths(record) | ({} if edited else {"card": hashlib.sha256(card).hexdigest()})
    written = json.dumps(record, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return found | {RECORD: written, CARD: card}


def _without_paths(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the names alone of files that it names by where they lie from its folder."""

    def named(value: Any) -> Any:
        return f"./{value.rpartition('/')[2]}" if isinstance(value, str) and value.startswith("../") else value

    backbone = record["backbone"] | {"name": named(record["backbone"]["name"])}
    options = {name: named(value) for name, value in record["options"].items()}
    return dict(record) | {"found_at": named(record["found_at"]), "options": options, "backbone": backbone}


def _metadata(record: Mapping[str, Any], license: str | None, datasets: Sequence[str]) -> str:
    """What the hub reads of a card, as YAML."""
    accuracy = (record.get("scores") or {}).get("accuracy")
    base = _base_model(record["backbone"]["name"])
    results = None
    if accuracy is not None and len(datasets) == 1:  # of another it would not be known what it was measured on
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=datasets[0],
                dataset_name=datasets[0],
                dataset_split="test",
                metric_type="accuracy",
                metric_value=round(float(accuracy), 4),
            )
        ]
    return ModelCardData(
        library_name="shotfit",
        pipeline_tag="image-classification",
        tags=["shotfit", "few-shot", "image-classification", record["method"]],
        license=license,
        base_model=base,
        datasets=[*datasets] or None,
        metrics=None if accuracy is None else ["accuracy"],
        eval_results=results,
        model_name=None if results is None else f"{record['method']} on {record['backbone']['name']}",
    ).to_yaml(line_break="\n")


def _base_model(backbone: str) -> str | None:
    """The repository on the hub that a backbone comes from; None where that is not known."""
    known, repository = find(backbone), backbone.partition("@")[0]
    if known is not None:
        return known.repository
    return repository if is_hub_id(repository) else None


def _pushed(contents: Mapping[str, bytes], name: str, private: bool, message: str) -> Pushed:
    api = HfApi()
    with _told(name):
        there = _existing(api, name)
        if there is None:
            api.create_repo(name, private=private)
            there = api.model_info(name, files_metadata=True, timeout=TIMEOUT)
        _check_kind(name, there, private)
        listed = {one.rfilename: one for one in there.siblings or []}
        changed = {file: content for file, content in contents.items()
                   if file not in listed or not is_same(content, listed[file])}  # fmt: skip
        commit = there.sha
        if changed:
            files = [CommitOperationAdd(file, content) for file, content in changed.items()]
            with quiet_without_terminal():
                made = api.create_commit(name, files, commit_message=message, parent_commit=there.sha)
            commit = made.oid
    return Pushed(
        str(Address(name, str(commit))), f"{constants.ENDPOINT}/{name}", bool(there.private), bool(changed),
        tuple(sorted(changed)),
    )  # fmt: skip


def _existing(api: HfApi, name: str) -> Any:
    try:
        return api.model_info(name, files_metadata=True, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        return None


def _check_kind(name: str, there: Any, private: bool) -> None:
    """Refuse a repository that is not as private as was asked for, or that holds something else."""
    if private and not there.private:
        raise UsageError(f"{name} is public on the hub: add --public (private=False) to publish the model there.")
    if not private and there.private:
        raise UsageError(
            f"{name} is private on the hub: make it public in its settings there first, or leave out --public."
        )
    names = [one.rfilename for one in there.siblings or []]
    others = [one for one in names if one not in FILES and not _BESIDE.fullmatch(one)]
    if others and RECORD not in names:
        raise UsageError(
            f"{name} holds something else ({first_few(others)}): push the model to a repository of its own."
        )


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What the hub refuses, and that it is not reached, in a sentence."""
    try:
        yield
    except ShotfitError:
        raise
    except RepositoryNotFoundError:
        raise ShotfitError(
            f"The hub does not let you write to {name}: run `hf auth login` with a token that may."
        ) from None
    except Exception as error:  # the client's transport differs between its versions, and so do its errors
        if isinstance(error.__cause__, HfHubHTTPError):  # of a large file
            error = error.__cause__
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status == 401:
            raise ShotfitError(f"The hub asks who you are before it takes {name}: run `hf auth login`.") from None
        if status in (409, 412):
            raise ShotfitError(f"{name} changed on the hub while the model was pushed: push it again.") from None
        refused = refusal(error, name, "main")
        raise refused or ShotfitError(
            f"{name} could not be pushed to {constants.ENDPOINT} ({reason_of(error)}): nothing of the model is there; "
            "try again."
        ) from None
