"""The kinds of image towers: savings change no number, stored prefixes go on alike, patches alone are turned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.checkpoints.timm_trunks import Rotary, rotation
from shotfit.errors import ShotfitError
from shotfit.testing.tiny import tiny_backbone
from shotfit.towers.blocks import rotated
from shotfit.towers.config import BlocksConfig, ImageConfig, config_from_dict, config_to_dict
from shotfit.towers.edits import Adapter, Edit, PromptTokens
from shotfit.towers.layout import Savings
from shotfit.towers.transformer import VisionTransformer

KINDS = ("eva", "perception", "post_norm")
PIXELS = torch.randn(3, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=KINDS)
def tower(request: pytest.FixtureRequest, tmp_path: Path) -> VisionTransformer:
    image = tiny_backbone(tmp_path, request.param).double().image
    assert isinstance(image, VisionTransformer)
    return image


def edits(matrix: Tensor, tokens: Tensor) -> list[Edit]:
    """Adapters on the embedding and beside two blocks, prompts that are replaced and others that stay."""
    return [
        Adapter("image", 0, lambda x: x @ matrix),
        Adapter("image", 2, lambda x: (x @ matrix).tanh()),
        Adapter("image", 4, lambda x: x @ matrix, through_norm=False),
        PromptTokens("image", 1, tokens),
        PromptTokens("image", 2, 2 * tokens, replace=True),
        PromptTokens("image", 3, 3 * tokens, replace=True),
    ]


def learned() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return (
        torch.randn(16, 16, dtype=torch.double, generator=draw).requires_grad_(),
        torch.randn(2, 16, dtype=torch.double, generator=draw).requires_grad_(),
    )


def test_savings_change_neither_features_nor_gradients(tower: VisionTransformer) -> None:
    outcomes = []
    for savings in (Savings.none(), Savings()):
        parameters = learned()
        inside = edits(*parameters)
        features = tower.finish(tower.start(PIXELS, inside, savings), inside)
        weights = torch.arange(features.numel(), dtype=torch.double).cos().view_as(features)
        outcomes.append((features.detach(), *torch.autograd.grad((features * weights).sum(), parameters)))
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * float(one.abs().max()))


@pytest.mark.parametrize("step", range(5))
def test_a_stream_goes_on_from_any_step(tower: VisionTransformer, step: int) -> None:
    matrix, tokens = learned()
    inside = [edit for edit in edits(matrix, tokens) if edit.frozen_until >= step]
    stream = tower.run(tower.start(PIXELS, inside), inside, until=step)
    before = None if stream.before is None else stream.before.unflatten(0, (3, -1))
    kept = tower.resume(stream.hidden.unflatten(0, (3, -1)), step, before=before)
    expected = tower.finish(tower.start(PIXELS, inside), inside).detach()
    torch.testing.assert_close(tower.finish(kept, inside), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_a_class_token_and_prompts_are_not_turned() -> None:
    table = rotation(Rotary(reference=3, first=1), 2, 8, class_token=True).double()
    x = torch.randn(2, 1, 7, 8, dtype=torch.double)
    turned = rotated(x, table)
    assert torch.equal(turned[:, :, 0], x[:, :, 0]) and torch.equal(turned[:, :, 5:], x[:, :, 5:])
    assert not torch.allclose(turned[:, :, 1:5], x[:, :, 1:5])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_products_of_turned_vectors_depend_on_how_far_apart_they_are() -> None:
    table, one, other = (
        rotation(Rotary(reference=4), 4, 8, class_token=False).double(),
        *torch.randn(2, 1, 1, 1, 8).double(),
    )
    queries, keys = (rotated(x.expand(1, 1, 16, 8), table)[0, 0] for x in (one, other))
    products = queries @ keys.T  # [places, places]
    torch.testing.assert_close(products[0, 5], products[5, 10], rtol=0, atol=1e-6)


def test_fields_that_came_later_are_written_only_where_they_say_something(tmp_path: Path) -> None:
    for kind in ("vit", *KINDS):
        config = tiny_backbone(tmp_path / kind, kind).config
        plain = config_to_dict(config)
        assert config_from_dict(plain) == config
        assert ("rotary" in plain["image"]) == (kind in ("eva", "perception"))
        assert ("norm" in plain["image"]["blocks"]) == (kind == "post_norm")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool_heads": 5}, "a width of 16 does not divide into 5 heads"),
        ({"pool_heads": 10**9}, "pooling head's attention heads is 1000000000"),
        ({"pool_mlp_width": 10**9}, "pooling head's MLP is 1000000000"),
        ({"stem": "convolutions", "patch": 10}, "patches and a width of four times a number"),
    ],
)
def test_sizes_that_no_tower_can_have_are_refused(changes: dict[str, object], message: str) -> None:
    sizes: dict[str, object] = {"image_size": 32, "patch": 16, "blocks": BlocksConfig(16, 2, 2, 32, "gelu", 1e-6)}
    rest: dict[str, object] = {"embed": 16, "class_token": True, "patch_bias": True, "pre_norm": False}
    with pytest.raises(ShotfitError, match=message):
        ImageConfig(**{**sizes, **rest, "pooling": "attention", "projection": False, **changes})  # type: ignore[arg-type]
