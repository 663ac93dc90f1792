"""The door to checkpoints: from a name, a hub id, a folder or a file to a backbone.

    load_backbone("mini")                             ships with shotfit
    load_backbone("ViT-B/32")                         a short name (names.py), at its pinned commit
    load_backbone("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", revision="main")
    load_backbone("checkpoints/RN50.pt")              one of OpenAI's files
    load_backbone("checkpoints/siglip")               a folder: Hugging Face, open_clip, or shotfit's own
    load_backbone("my.py:make")                       encoders of your own, or of a library (closed.py)

A folder may hold several formats (LAION's repositories do). The weights file decides, in this order: open_clip
safetensors, Hugging Face safetensors, open_clip pickled, Hugging Face pickled. So safetensors win, and of two equals
the form in which open_clip published its weights.

A file of any other name (`epoch_3.pt`) is read by the configuration that lies beside it, and by OpenAI's rules only
where there is none and no architecture is asked for (`RemoteCLIP-ViT-B-32.pt#architecture=ViT-B-32`).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import get_args

import torch

from shotfit.calls import checked
from shotfit.checkpoints import huggingface, names, open_clip, saved
from shotfit.checkpoints.asked import Asked, asked_of, with_asked
from shotfit.checkpoints.asked import architecture as architecture_of
from shotfit.checkpoints.closed import close, is_closed, joined_parts, load_closed
from shotfit.checkpoints.joined import is_joined, load_joined
from shotfit.checkpoints.openai import read_openai
from shotfit.checkpoints.recorded import check_recorded, recorded_commit
from shotfit.checkpoints.settings import read_json
from shotfit.checkpoints.state_dict import read_index, read_tensors
from shotfit.checkpoints.tokenizers import TextAs, TokenizerKind, as_text, load_tokenizer
from shotfit.checkpoints.unread import Tensors
from shotfit.errors import ActivationWarning, ShotfitError, UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import ClosedBackbone, Encoder
from shotfit.towers.config import BoundsError
from shotfit.towers.precision import Precision, in_precision

__all__ = ["device_of", "is_known", "load_backbone", "load_in", "load_known", "save_backbone"]

save_backbone = saved.save_backbone

_FORMATS = {"open_clip": open_clip.CONFIG, "huggingface": huggingface.CONFIG}
_ORDER: list[tuple[str, str]] = [
    *[("open_clip", file) for file in open_clip.WEIGHTS if "safetensors" in file],
    *[("huggingface", file) for file in huggingface.WEIGHTS if "safetensors" in file],
    *[("open_clip", file) for file in open_clip.WEIGHTS if "safetensors" not in file],
    *[("huggingface", file) for file in huggingface.WEIGHTS if "safetensors" not in file],
    ("open_clip", "model.safetensors"),  # only where there is no config.json to claim it
]
# of the form of a hub id, but of no owner's name: a short name that is not in the table
_MISSPELLED = re.compile(r"(vit|laion|siglip)-[a-z]+/\d", re.IGNORECASE)
_FILES = (".pt", ".pth", ".bin", ".safetensors")


@checked
def load_backbone(
    source: str | Path | Encoder,
    revision: str | None = None,
    *,
    text: TextAs | None = None,
    architecture: str | None = None,
) -> Backbone:
    """Load a backbone, in float32 on the CPU.

    source: a short name, a hub id (`owner/name`, or `owner/name@revision`), a folder or a file; encoders that are
    closed, by a name of `closed.py` or as an object (`shotfit.towers.closed.Encoder`). A short name wins over a file of
    the same name (write `./mini` for that), an existing folder over a hub id. revision: branch, tag or commit of a hub
    id; without one the table of names decides, and for a repository that is not in it, `main`. The backbone is named by
    the commit that was loaded. text: how texts are read, "canonical" (lower case without punctuation) or "plain" (as
    they are), where the checkpoint's own rule is not wanted. architecture: of a file of weights alone, by open_clip's
    name. Both may stand behind the source (`asked.py`), and stand in the backbone's name.

    Raises UsageError for a name that is unknown, with close ones, and ShotfitError in one sentence for a checkpoint
    that cannot be fetched, is damaged, incomplete or of another architecture.
    """
    loaded = _loaded(source, revision, text, architecture)
    return loaded if loaded.closed else loaded.float()


def _loaded(
    source: str | Path | Encoder,
    revision: str | None = None,
    text: TextAs | None = None,
    architecture: str | None = None,
) -> Backbone:
    """As `load_backbone`, with weights in the precision that they have in the file: `in_precision` is to follow."""
    asked = Asked(text, architecture)
    if isinstance(source, str) and not os.path.lexists(source):  # else it is the name of a file
        source, asked = asked_of(with_asked(source, text, architecture))
    if not isinstance(source, (str, os.PathLike)):
        _refuse_asked("an object", asked)
        return close(source)
    if isinstance(source, str) and is_closed(source):
        _refuse_revision(source, revision)
        _refuse_asked(source, asked)
        return load_closed(source) if joined_parts(source) is None else load_joined(source)
    entry = names.find(source) if isinstance(source, str) else None
    if entry is not None and entry.repository is None:
        _refuse_revision(source, revision)
        return _recorded(entry, _load_folder(_asset(entry.name), entry.name, asked=asked), asked)
    path = Path(source)
    with suppress(RuntimeError):  # `~name` of a user who is not there stays a name
        path = path.expanduser()
    if path.exists() and (entry is None or source == entry.repository):
        _refuse_revision(source, revision)
        name = str(path.absolute())  # saved models look for it by this name, from any folder
        return _load_folder(path, name, asked=asked) if path.is_dir() else _load_file(path, name, asked)
    if entry is not None:
        assert entry.repository is not None
        if revision in (None, entry.revision):
            return _load_named(entry, asked)
        return _load_hub(entry.repository, revision or entry.revision, asked=asked)
    if not isinstance(source, str) or path.suffix in _FILES or source.startswith((".", "/", "~")):
        raise ShotfitError(f"{source} does not exist: name a folder or a file of a checkpoint.{_hint(path)}")
    from shotfit.checkpoints import hub  # its client takes as long to import as a small backbone to load

    repository, _, named = source.partition("@")
    if not hub.is_hub_id(repository) or _MISSPELLED.match(source):
        raise UsageError(names.retired(source) or _unknown(source))
    if named and revision and named != revision:
        raise UsageError(f"{source} names the revision {named}, and revision is {revision}: leave one out.")
    return _load_hub(repository, revision or named or "main", asked=asked)


def is_known(source: str) -> bool:
    """Whether a name is a short name or a hub id, which `load_known` may open; a path is neither."""
    from shotfit.checkpoints import hub

    with suppress(UsageError):
        source, _ = asked_of(source)
    repository, _, revision = source.partition("@")
    named = re.fullmatch(r"[\w./-]*", revision, re.ASCII) is not None and ".." not in revision
    return names.find(source) is not None or (hub.is_hub_id(repository) and named and not _MISSPELLED.match(source))


def load_known(source: str, precision: Precision = "float32", device: str = "cpu") -> Backbone:
    """As `load_in`, for a name that a stranger gave: no path is opened, and the network is not asked.

    Raises ShotfitError for a name that is neither a short name nor a hub id, and for one whose files are not here.
    """
    check_precision(precision)
    return _placed(_known(source), precision, device, device_of(device))


def _known(source: str) -> Backbone:
    if not is_known(source):
        raise ShotfitError(names.retired(source) or f"{source!r} is neither a short name nor a hub id.")
    source, asked = asked_of(source)
    entry = names.find(source)
    if entry is None:
        repository, _, revision = source.partition("@")
        return _load_hub(repository, revision or "main", cached=True, asked=asked)
    if entry.repository is None:
        return _recorded(entry, _load_folder(_asset(entry.name), entry.name, asked=asked), asked)
    return _load_named(entry, asked, cached=True)


def _load_named(entry: names.Name, asked: Asked, cached: bool = False) -> Backbone:
    """A backbone of the table, at its commit, or at the one that was recorded when it was first loaded.

    Raises UsageError, before anything is fetched, for one that no tower of shotfit reads, and for one of whose
    repository no file is known.
    """
    assert entry.repository is not None
    if entry.closed_name:
        raise UsageError(
            f"shotfit has no towers of its own for {entry.name} ({entry.tower}): open it as a closed encoder, "
            f"{entry.closed_name}, or take another."
        )
    if entry.architecture and not entry.file:
        raise UsageError(
            f"{entry.repository} has weights alone, in several files: fetch the one that you want, and name it with "
            f"--architecture (in Python architecture=...); {entry.name} is {entry.architecture}."
        )
    revision = entry.revision or recorded_commit(entry) or "main"
    folder, only = _fetched(entry.repository, revision, entry.file, cached, alone=bool(entry.architecture))
    if entry.architecture:
        whole = replace(asked, architecture=asked.architecture or entry.architecture)
        backbone = _backbone("open_clip", None, folder / entry.file, entry.name, asked=whole)
        backbone.name = entry.name + asked.written
    else:
        backbone = _load_folder(folder, entry.name, only, asked)
    return _recorded(entry, backbone, asked, folder.name)


def _recorded(entry: names.Name, backbone: Backbone, asked: Asked, commit: str = "") -> Backbone:
    if asked == Asked():
        check_recorded(entry, backbone.fingerprint, commit)
    return backbone


def _refuse_revision(source: str | Path, revision: str | None) -> None:
    if revision is not None:
        raise UsageError(f"A revision belongs to a hub id, and {source} is on this machine: leave the revision out.")


def _refuse_asked(source: str, asked: Asked) -> None:
    if asked != Asked():
        raise UsageError(f"{source} reads texts by its own code: leave --text and --architecture out.")


def _refuse_architecture(name: str, asked: Asked) -> None:
    if asked.architecture is not None:
        raise UsageError(f"architecture={asked.architecture} is for a file of weights alone, and {name} is none.")


def _hint(path: Path) -> str:
    if re.fullmatch(r"RN(50|101|50x4|50x16|50x64)\.pt", path.name):
        return f" OpenAI publishes {path.name} as a file of its own, not on the hub."
    return ""


def _unknown(source: str) -> str:
    if re.fullmatch(r"rn(50|101|50x4|50x16|50x64)", source.lower()):
        return f"{source} has no hub repository: name the file that OpenAI publishes, for example ./{source}.pt."
    close = names.suggestions(source)
    if source.startswith("hf-hub:"):
        close = [source.removeprefix("hf-hub:")]
    meant = f"Did you mean {' or '.join(close)}?" if close else "`shotfit backbones` lists the names."
    return f"Unknown backbone {source!r}: no name, no hub id (owner/name), no folder and no file. {meant}"


def _asset(name: str) -> Path:
    folder = Path(str(resources.files("shotfit"))) / "assets" / name
    if not (folder / saved.CONFIG).is_file():
        raise ShotfitError(f"{name} is missing from this installation ({folder}): install shotfit's wheel again.")
    return folder


def _choose(files: Collection[str], where: str, only: str | None = None) -> tuple[str, str]:
    """Format and weights file, by the names of the files of a folder. `only`: the weights file to take.

    Raises ShotfitError if there is nothing to load.
    """
    for kind, file in _ORDER:
        if file in files and _FORMATS[kind] in files and only in (None, file):
            return kind, file
    if only is not None:
        raise ShotfitError(f"{where} lacks {only}, or the configuration that belongs to it.")
    configs = [config for config in _FORMATS.values() if config in files]
    if configs:
        expected = ", ".join(sorted({file for kind, file in _ORDER if _FORMATS[kind] in configs}))
        others = sorted(file for file in files if Path(file).suffix in _FILES)[:3]
        hint = f" Or name the file itself: {', '.join(others)}." if others else ""
        raise ShotfitError(f"{where} has {' and '.join(configs)}, but no weights: expected one of {expected}.{hint}")
    raise ShotfitError(
        f"{where} holds no checkpoint: expected config.json (Hugging Face or shotfit) or open_clip_config.json."
    )


def _load_hub(repository: str, revision: str, cached: bool = False, asked: Asked = Asked()) -> Backbone:
    """A backbone of the hub, named by the commit that a revision stands for."""
    folder, _ = _fetched(repository, revision, "", cached)
    return _load_folder(folder, f"{repository}@{folder.name}", asked=asked)  # a snapshot's folder is its commit


def _fetched(repository: str, revision: str, file: str, cached: bool, alone: bool = False) -> tuple[Path, str | None]:
    """The folder of a repository at a revision, and which weights file is to be taken, where one is named.

    alone: that file has no configuration beside it.
    """
    from shotfit.checkpoints import hub

    only, where = file or None, f"{repository} ({revision})"

    def chosen(files: Collection[str], folder: Path) -> str:
        if alone and file not in files:
            raise ShotfitError(f"{where} lacks {file}.")
        if alone:
            return file
        kind, weights = _choose(_described_files(files, folder), where, only)
        if weights not in {path.name for path in folder.iterdir()}:
            _check_described(kind, folder)
        return weights

    folder = hub.fetch(
        repository,
        revision,
        weights_file=chosen,
        shards=lambda file: re.fullmatch(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)", file) is not None,
        cached=cached,
        known=[file] if alone else hub.CONFIGS,
    )
    return folder, only


class _DescribedError(Exception):
    """The weights were asked for, so that their configuration is one that is supported."""


def _check_described(kind: str, folder: Path) -> None:
    """Raises ShotfitError, before weights are fetched, for a configuration of towers that shotfit has not."""

    def stop() -> Tensors:
        raise _DescribedError

    settings = read_json(folder / _FORMATS[kind])
    with suppress(_DescribedError):
        if kind == "open_clip" or settings.has("model_cfg"):
            open_clip.read_open_clip(settings, stop, str(folder), folder)
        elif not saved.is_saved(settings):
            huggingface.read_huggingface(folder, stop, str(folder))


def _described_files(files: Collection[str], folder: Path) -> set[str]:
    """The files of a checkpoint without a `config.json` that describes something else beside open_clip's: the text
    model alone, a trunk of timm's, or where code is. The weights that belong to it are then not taken either."""
    kept = set(files)
    if open_clip.CONFIG in kept and (folder / huggingface.CONFIG).is_file() and not huggingface.describes(folder):
        kept.discard(huggingface.CONFIG)
    return kept


def _load_folder(folder: Path, name: str, only: str | None = None, asked: Asked = Asked()) -> Backbone:
    _refuse_architecture(name, asked)
    if is_joined(folder):
        _refuse_asked(name, asked)
        return load_joined(folder)
    if (folder / saved.CONFIG).is_file() and saved.is_saved(read_json(folder / saved.CONFIG)):
        return _backbone("shotfit", folder, folder / (only or saved.WEIGHTS), name, asked=asked)
    kind, file = _choose(_described_files({path.name for path in folder.iterdir()}, folder), str(folder), only)
    config = _FORMATS[kind]
    if kind == "huggingface" and read_json(folder / config).has("model_cfg"):  # open_clip's, under the other name
        kind = "open_clip"
    return _backbone(kind, folder, folder / file, name, config_file=config, asked=asked)


def _load_file(path: Path, name: str, asked: Asked = Asked()) -> Backbone:
    """One file, by the architecture that is asked for, by the configuration that lies beside it (beside what a link
    leads to, too), or as OpenAI's."""
    if asked.architecture is not None:
        return _backbone("open_clip", None, path, name, asked=asked)
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        beside = _described_files({other.name for other in folder.iterdir()}, folder)
        if any(file == path.name and _FORMATS[kind] in beside for kind, file in _ORDER):
            return _load_folder(folder, name, path.name, asked)
        if not beside.isdisjoint(_FORMATS.values()):
            tensors = read_tensors(path)
            kind, config = _described(path, folder, tensors)
            return _backbone(kind, folder, path, name, tensors, config, asked)
    if path.name in open_clip.WEIGHTS:  # the same tensors as OpenAI's, and perhaps another activation
        raise ShotfitError(
            f"{path} is open_clip's, and what its tensors do stands in {open_clip.CONFIG}: put that beside it, "
            "or say --architecture (in Python architecture=...)."
        )
    tensors = read_tensors(path)
    if "input_resolution" not in tensors:  # which OpenAI's own files have
        warnings.warn(
            f"{path} does not say its activation, so it is read with OpenAI's, QuickGELU. If open_clip trained it, "
            "name its architecture, for example --architecture ViT-B-32 (in Python architecture=...).",
            ActivationWarning,
            stacklevel=2,
        )
    return _backbone("openai", None, path, name, tensors, asked=asked)


def _described(path: Path, folder: Path, tensors: Tensors) -> tuple[str, str | None]:
    """By which rules a file of any name is read, and which file says them, where a configuration lies beside it.

    Raises ShotfitError if the tensors are named as another library's than the configuration's.
    """
    theirs = any(name.startswith(("vision_model.", "text_model.")) for name in tensors)
    if (folder / open_clip.CONFIG).is_file() and not theirs:
        return "open_clip", open_clip.CONFIG
    if (folder / huggingface.CONFIG).is_file():
        settings = read_json(folder / huggingface.CONFIG)
        if saved.is_saved(settings):
            return "shotfit", None
        if settings.has("model_cfg") and not theirs:  # open_clip's, under the other name
            return "open_clip", huggingface.CONFIG
        if theirs:
            return "huggingface", None
        if not settings.has("model_type"):  # of a training program, say: it describes no checkpoint
            return "openai", None
        raise ShotfitError(
            f"{path} has tensors by OpenAI's or open_clip's names, but {huggingface.CONFIG} beside it describes a "
            f"checkpoint of Hugging Face: put {open_clip.CONFIG} there, or move OpenAI's file to a folder of its own."
        )
    raise ShotfitError(
        f"{path} has tensors by Hugging Face's names, but beside it is {open_clip.CONFIG} alone: put its "
        f"{huggingface.CONFIG} there."
    )


def _backbone(
    kind: str,
    folder: Path | None,
    file: Path,
    name: str,
    tensors: Tensors | None = None,
    config_file: str | None = None,
    asked: Asked = Asked(),
) -> Backbone:
    """The backbone of a weights file, by the rules of its kind. `folder`: where its configuration and tokenizer are;
    without one, a tokenizer may lie beside the file."""

    def read() -> Tensors:
        if tensors is not None:
            return tensors
        return read_index(file) if file.suffix == ".json" else read_tensors(file)

    tokenizer: TokenizerKind = "clip"
    try:
        if asked.architecture is not None:
            described = architecture_of(asked.architecture)
            tokenizer = open_clip.tokenizer_kind(described)
            config, weights = open_clip.read_open_clip(described, read, str(file))
        elif kind == "openai" or folder is None:
            config, weights = read_openai(read(), str(file))
        elif kind == "shotfit":
            config, weights, tokenizer = saved.read_saved(read_json(folder / saved.CONFIG), read, str(file))
        elif kind == "open_clip":
            described = read_json(folder / (config_file or open_clip.CONFIG))
            tokenizer = open_clip.tokenizer_kind(described)
            config, weights = open_clip.read_open_clip(described, read, str(file), folder)
        else:
            config, weights = huggingface.read_huggingface(folder, read, str(file))
            tokenizer = huggingface.tokenizer_kind(folder)
    except BoundsError as error:
        raise ShotfitError(f"{folder or file}: {error} The configuration is wrong, or not this checkpoint's.") from None
    tokenizer = tokenizer if asked.text is None else as_text(tokenizer, asked.text)
    words = load_tokenizer(folder or file.parent, config.text, tokenizer)
    return Backbone(config, weights, words, name + asked.written, None)


def load_in(backbone: str | Path | Backbone | Encoder, precision: Precision = "auto", device: str = "auto") -> Backbone:
    """A backbone that computes in a precision, on a device.

    precision: "auto" is the one that the device is fast at, or that of a backbone that is given, which is copied where
    its precision is another. device: cpu, mps, cuda or cuda:1; "auto" is a GPU where CUDA has one, else the CPU, or
    where a backbone is that is given. Encoders that are closed compute as their own code does, in what is taken for
    float32, and an object stays where it is unless a device is named.

    Raises UsageError for an unknown precision or device, and what `load_backbone` and `in_precision` raise.
    """
    check_precision(precision)
    place = device_of(device)
    if isinstance(backbone, (str, os.PathLike)):
        return _placed(_loaded(backbone), precision, device, place)
    given = backbone if isinstance(backbone, Backbone) else _loaded(backbone)
    if precision in ("auto", given.precision):
        return given if device == "auto" else given.to(place)
    return in_precision(deepcopy(given), precision, given.device if device == "auto" else place)


def _placed(loaded: Backbone, precision: Precision, device: str, place: torch.device) -> Backbone:
    """In a precision at a place; encoders that are closed and cannot move stay where they are for "auto"."""
    stays = isinstance(loaded, ClosedBackbone) and not loaded.moves and device == "auto"
    return in_precision(loaded, precision, loaded.device if stays else place)


def check_precision(precision: str) -> None:
    """Raises UsageError for one that there is not."""
    if precision not in get_args(Precision):
        raise UsageError(f"There is no precision {precision!r}: use {', '.join(get_args(Precision))}.")


def device_of(device: str) -> torch.device:
    """The device of a name, "auto" or one that torch finds here. Raises UsageError for any other."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", device):
        raise UsageError(f"There is no device {device!r}: use auto, cpu, mps, cuda or, of several GPUs, cuda:1.")
    place = torch.device(device)
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("There is no device mps: torch finds no GPU of Apple's here. Use cpu or auto.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"There is no device {device}: torch finds {found} CUDA GPUs here. Use cpu or auto.")
    return place
