"""shotfit's own folder of a backbone: `model.safetensors` under our names, `config.json`, and tokenizer files.

`mini` ships in this form.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from shotfit.checkpoints.settings import Settings
from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.tokenizers import TokenizerKind, load_tokenizer
from shotfit.checkpoints.unread import Tensors
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import write_atomically
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, config_from_dict, config_to_dict

__all__ = ["CONFIG", "WEIGHTS", "is_saved", "read_saved", "save_backbone"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
)


def is_saved(settings: Settings) -> bool:
    """Whether a `config.json` is shotfit's own."""
    return settings.raw("format", None) == "shotfit"


def read_saved(
    settings: Settings, tensors: Callable[[], Tensors], where: str
) -> tuple[BackboneConfig, dict[str, Tensor], TokenizerKind]:
    """Configuration, weights and kind of tokenizer of a folder that `save_backbone` wrote.

    tensors: reads those of the weights file `where`. Raises ShotfitError if a newer shotfit wrote it, or if it is
    incomplete or damaged. (`Backbone` checks the weights.)
    """
    if settings.integer("version") > FORMAT:
        raise ShotfitError(f"{settings.where} was written by a newer shotfit. Update shotfit to open it.")
    config = config_from_dict(settings.section("backbone").entries, settings.where)
    kind = cast(TokenizerKind, settings.choice("tokenizer", get_args(TokenizerKind)))
    weights = StateDict(tensors(), where)
    return config, {name: weights.take_any(name) for name in weights.names()}, kind


def save_backbone(
    backbone: Backbone, folder: Path, *, tokenizer: Path | None = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a backbone into a folder that `load_backbone` opens.

    The folder may exist; `tokenizer` is a folder whose tokenizer files are copied, and None leaves those that are in
    `folder` already. `config.json` is written last, so that an interrupted write leaves nothing that opens. dtype: the
    weights' precision on disk; in less than float32 the folder has another fingerprint than `backbone`, if any weight
    is rounded. Raises ShotfitError if the folder's tokenizer files would not give the backbone's tokenizer.
    """
    if backbone.closed:
        raise UsageError(f"{backbone.name} is closed: its weights are its own library's to save.")
    if backbone.precision == "int8":
        raise UsageError(f"{backbone.name} is in int8, its weights are rounded: name the backbone again in float32.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    if tokenizer is not None and tokenizer.resolve() != folder.resolve():
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, folder / name)
    kind = _tokenizer_kind(backbone, folder)
    weights = {name: value.detach().cpu().to(dtype).contiguous() for name, value in backbone.state_dict().items()}
    write_atomically(folder / WEIGHTS, save(weights, metadata={"format": "pt"}))
    record: dict[str, Any] = {
        "format": "shotfit",
        "version": FORMAT,
        "tokenizer": kind,
        "backbone": config_to_dict(backbone.config),
    }
    write_atomically(folder / CONFIG, (json.dumps(record, indent=2) + "\n").encode())


def _tokenizer_kind(backbone: Backbone, folder: Path) -> TokenizerKind:
    """By which rules the folder's tokenizer files give the backbone's tokenizer."""
    kinds: tuple[TokenizerKind, ...] = get_args(TokenizerKind)
    if backbone.tokenizer is None:
        return "siglip" if backbone.config.logit_bias else "clip"
    for kind in kinds:
        try:
            found = load_tokenizer(folder, backbone.config.text, kind)
        except ShotfitError:
            continue
        if found is not None and found.identity == backbone.tokenizer.identity:
            return kind
    raise ShotfitError(
        f"{folder} does not hold the tokenizer of {backbone.name or 'the backbone'}: copy its tokenizer.json there "
        "before the backbone is saved, or name its folder as tokenizer."
    )
