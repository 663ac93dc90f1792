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
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError

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


def test_features_are_open_clips(outcomes: dict[str, Outcome]) -> None:
    wrong = {name: found for name, found in outcomes.items() if found.difference is not None}
    assert {name for name, found in wrong.items() if not (found.difference or 0) < FLOAT32} == set()


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


def test_the_page_has_these_rows(outcomes: dict[str, Outcome]) -> None:
    from .open_clip_table import PAGE, rows

    lines = PAGE.read_text().splitlines()
    assert set(rows(outcomes, "own tower")) <= set(lines), "docs/backbones.md is stale: python -m tests.open_clip_table"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_others_are_read_by_the_closed_way(outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    """Each is opened as `open_clip:NAME@FILE`, and gives open_clip's features; the page says so."""
    from .open_clip_table import PAGE, by_closed_way, table

    others = [name for name, found in outcomes.items() if found.difference is None]
    closed = {name: by_closed_way(name, tmp_path) for name in others}
    assert {
        name: found for name, found in closed.items() if found.difference is None or found.difference >= FLOAT32
    } == {}
    assert table(outcomes, closed) in PAGE.read_text(), "docs/backbones.md is stale: python -m tests.open_clip_table"


@pytest.mark.parametrize(
    ("trunk", "pool", "projection"),
    [
        ("vit_base_patch16_224", "", "linear"),  # BiomedCLIP's
        ("vit_base_patch16_224", "avg", "linear"),
        ("vit_base_patch16_224", "avg", None),
        ("vit_base_patch16_224", "token", "none"),
        ("vit_base_patch16_siglip_224", "map", "linear"),
        ("vit_medium_patch16_gap_256", "avg", None),
        ("eva_giant_patch14_224", "avg", None),
        ("eva02_base_patch16_clip_224", "avg", "linear"),
    ],
)
def test_trunks_are_pooled_and_projected_as_open_clip_does(
    trunk: str, pool: str, projection: str | None, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .open_clip_original import build, reduced_trunks
        from .open_clip_table import difference
    vision = {"timm_model_name": trunk, "timm_pool": pool, "timm_proj": projection, "timm_proj_bias": pool == "avg"}
    original = build({"embed_dim": 32, "vision_cfg": vision, "text_cfg": {}})
    with reduced_trunks():
        backbone = load_backbone(original.write(tmp_path))
    assert difference(original, backbone) < FLOAT32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timm_model_name": "resnet50"}, "the image tower 'resnet50' of timm is not among those"),
        ({"timm_model_name": 10**9}, "the image tower 1000000000 of timm is not among those"),
        ({"image_size": 10**9}, "image_size is 1000000000, expected that of vit_base_patch16_224"),
        ({"timm_pool": "map"}, "timm_pool is 'map', expected a way to pool that vit_base_patch16_224 has"),
        ({"timm_pool": "rot_attn"}, "timm_pool is 'rot_attn', expected one of"),
        ({"timm_proj": None, "timm_pool": ""}, "timm_pool is '', expected a way to pool"),
        ({"timm_proj": "mlp"}, "timm_proj is 'mlp', expected linear or none"),
        ({"timm_proj": "none"}, "the joint space is 7 wide, the features of vit_base_patch16_224 768"),
        ({"timm_model_name": "eva_giant_patch14_224", "timm_pool": "token"}, "timm_pool is 'token', expected avg"),
    ],
)
def test_what_a_trunk_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "token", "timm_proj": "linear"} | changes
    with pytest.raises(ShotfitError, match=message):
        trunk_config(Settings(vision, "vision_cfg"), 7)


def test_architectures_are_open_clips() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from .open_clip_table import ARCHITECTURES, architectures
    assert ARCHITECTURES.read_text() == architectures(), "stale: python -m tests.open_clip_table"


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
