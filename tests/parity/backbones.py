"""A Backbone from the weights that a parity case names, read as a user's file would be."""

from __future__ import annotations

import functools
from pathlib import Path

from shotfit.checkpoints.openai import read_openai
from shotfit.checkpoints.tokenizers import load_tokenizer
from shotfit.towers.backbone import Backbone

from .cases import SELECTION, Case, backbone

__all__ = ["build", "stand_in"]


def build(case: Case) -> Backbone:
    """The backbone of a case, with CLIP's tokenizer. Shared between tests: not to be changed."""
    return _build(case.meta["backbone"], case.root)


def stand_in() -> Backbone:
    """Any backbone, for a case that has none because all its features are recorded."""
    return _build("vit", SELECTION)


@functools.lru_cache(maxsize=4)
def _build(name: str, root: Path) -> Backbone:
    config, weights = read_openai({key: value.contiguous() for key, value in backbone(name, root).items()}, name)
    return Backbone(config, weights, load_tokenizer(None, config.text, "clip"), name)
