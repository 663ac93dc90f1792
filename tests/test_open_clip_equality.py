"""open_clip's configurations, each built by open_clip itself at reduced size: shotfit's features are the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import torch

from shotfit.checkpoints.settings import Settings
from shotfit.checkpoints.state_dict import StateDict
from shotfit.checkpoints.timm_trunks import TRUNKS, take_trunk, trunk_config

if TYPE_CHECKING:
    from .open_clip_table import Outcome

FLOAT32 = 1e-5  # of the largest feature
BIOMEDCLIP = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .open_clip_original import CONFIGURATIONS
        from .open_clip_table import outcome

        folder = tmp_path_factory.mktemp("open_clip")
        return {name: outcome(name, folder) for name in CONFIGURATIONS}


@pytest.mark.slow
def test_features_are_open_clips(outcomes: dict[str, Outcome]) -> None:
    wrong = {name: found for name, found in outcomes.items() if found.difference is not None}
    assert {name for name, found in wrong.items() if not (found.difference or 0) < FLOAT32} == set()


@pytest.mark.slow
def test_all_but_named_kinds_are_read(outcomes: dict[str, Outcome]) -> None:
    refused = {name: found.refusal for name, found in outcomes.items() if found.difference is None}
    assert all("docs/backbones.md" in line and "\n" not in line for line in refused.values())
    assert len(outcomes) - len(refused) >= 101


def test_biomedclip_is_read(tmp_path: Path) -> None:
    """The configuration of its repository, which open_clip does not list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .open_clip_original import CONFIGURATIONS
        from .open_clip_table import outcome

        with mock.patch.dict(CONFIGURATIONS, {"BiomedCLIP": BIOMEDCLIP}):
            found = outcome("BiomedCLIP", tmp_path)
    assert found.difference is not None, found.refusal
    assert found.difference < FLOAT32


@pytest.mark.slow
def test_the_page_has_this_table(outcomes: dict[str, Outcome]) -> None:
    from .open_clip_table import PAGE, table

    assert table(outcomes) in PAGE.read_text(), "docs/backbones.md is stale: python -m tests.open_clip_table"


@pytest.mark.slow
def test_architectures_are_open_clips() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .open_clip_table import ARCHITECTURES, architectures
    assert ARCHITECTURES.read_text() == architectures(), "stale: python -m tests.open_clip_table"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUNKS)
def test_trunks_have_timms_sizes(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .originals import timm
    row, pools = TRUNKS[name], {"token": "token", "mean": "avg", "attention": "map"}
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, global_pool=pools[row.pooling])
    vision = {"timm_model_name": name, "image_size": row.size, "timm_pool": pools[row.pooling], "timm_proj": None}
    image = trunk_config(Settings(vision, "vision_cfg"), 7)
    tensors = {f"visual.trunk.{key}": value for key, value in model.state_dict().items()}
    weights = StateDict(tensors, "timm")
    taken = take_trunk(weights, name, image, head=True)
    weights.close()
    assert taken["image.projection.weight"].shape == (7, row.width)
    assert model.blocks[0].attn.num_heads == row.heads
    assert model.default_cfg["input_size"][1] == row.size
