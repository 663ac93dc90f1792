"""Adapters and prompt tokens: every saving gives the numbers of a tower that runs everything, in plain words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.store import MemoryStore, Store
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.blocks import Block
from shotfit.towers.config import BlocksConfig, ImageConfig
from shotfit.towers.edits import NOTHING, Adapter, Edit, PromptTokens, frozen_until
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import TextTransformer, Transformer, VisionTransformer

WIDTH = 16
OF_TOWERS = ("frozen_beginning", "cut", "shared", "read_alone", "replaced", "silu")  # what a tower's call looks at
TEXTS = Texts.of([[256, 7, 8, 9, *name, 257] for name in ([1], [1, 2], [3, 4, 5], [1, 2, 6])])
Make = Callable[[Tensor], Sequence[Edit]]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone")).double()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ImagePool:
    return ImagePool(tiny_task(tmp_path_factory.mktemp("images"), images=4).train)


def beside(tower: str, *blocks: int, through_norm: bool = True) -> Make:
    return lambda p: [Adapter(tower, block, lambda x: torch.tanh(x @ p), through_norm) for block in blocks]  # type: ignore[arg-type]


def deep(*blocks: int, count: int = 2) -> Make:
    return lambda p: [PromptTokens("image", b, p[b : b + count], replace=i > 0) for i, b in enumerate(blocks)]


def placed(*blocks: int, position: int = 1) -> Make:
    return lambda p: [PromptTokens("text", b, p[b : b + 3], position=position) for b in blocks]


def inserted(*blocks: int, position: int = 1, share: float = 1.0) -> Make:
    return lambda p: [
        PromptTokens("text", b, p[b : b + 3], position=position, insert=i == 0, share=share)
        for i, b in enumerate(blocks)
    ]


def read(*blocks: int, share: float = 1.0) -> Make:
    return lambda p: [
        PromptTokens("image", b, p[b : b + 2], replace=i > 0, share=share, read=i == 0, input_norm=False)
        for i, b in enumerate(blocks)
    ]


EDITS: dict[str, tuple[str, Make, int]] = {
    "adapters beside the upper image blocks": ("image", beside("image", 2, 3, 4), 2),
    "an adapter beside the last image block": ("image", beside("image", 4, through_norm=False), 4),
    "an adapter on the patches": ("image", beside("image", 0, 1), NOTHING),
    "adapters beside the upper text blocks": ("text", beside("text", 2, 3), 2),
    "an adapter beside the last text block": ("text", beside("text", 3), 3),
    "an adapter on the words": ("text", beside("text", 0), NOTHING),
    "prompts in all image blocks": ("image", deep(1, 2, 3, 4), 0),
    "prompts in two upper image blocks": ("image", deep(2, 3, count=4), 1),
    "prompts in the last image block": ("image", deep(4), 3),
    "prompts in text blocks": ("text", placed(2, 3), 1),
    "prompts on names of unequal length": ("text", placed(3, position=5), 2),
    "tokens that lengthen texts": ("text", inserted(2, 3), 1),
    "tokens that lengthen texts behind what they share": ("text", inserted(1, 2, position=5), 0),
    "mixed tokens that lengthen texts": ("text", inserted(1, 2, 3, share=0.3), 0),
    "tokens in the last text block": ("text", inserted(3), 2),
    "prompts that are read": ("image", read(2, 3), 1),
    "mixed prompts that are read": ("image", read(1, 2, 4, share=0.6), 0),
    "prompts of the last block that are read": ("image", read(4), 3),
    "prompts that are read with adapters": ("image", lambda p: [*read(3)(p), *beside("image", 3, 4)(p)], 2),
    "prompts and adapters": ("image", lambda p: [*deep(2, 3)(p), *beside("image", 2, 3, 4)(p)], 1),
}


def outcome(frozen: Frozen, tower: str, make: Make, pool: ImagePool) -> list[Tensor]:
    """Features, and the gradient of the edits' parameter."""
    values = torch.randn(WIDTH, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    parameter = values.requires_grad_()
    edits = make(parameter)
    features = frozen.image(pool.all(), edits) if tower == "image" else frozen.text(TEXTS, edits)
    weights = torch.arange(features.numel(), dtype=torch.double).cos().view_as(features)
    return [features.detach(), *torch.autograd.grad((features * weights).sum(), parameter)]


def give_the_same(name: str, combinations: Iterable[Sequence[bool]], backbone: Backbone, pool: ImagePool) -> None:
    tower, make, until = EDITS[name]
    last = backbone.image.last if tower == "image" else backbone.text.last
    assert frozen_until(make(torch.zeros(WIDTH, WIDTH)), last) == until
    expected = outcome(Frozen(backbone, MemoryStore(), Savings.none()), tower, make, pool)
    for values in combinations:
        savings = replace(Savings(), **dict(zip(OF_TOWERS, values, strict=True)))
        frozen = Frozen(backbone, MemoryStore(), savings)
        for _ in range(2):  # computed, then from the store
            for one, other in zip(expected, outcome(frozen, tower, make, pool), strict=True):
                torch.testing.assert_close(other, one, rtol=0, atol=1e-12 * float(one.abs().max()))


@pytest.mark.parametrize("name", EDITS)
def test_all_savings_each_alone_and_all_but_one_give_the_same(name: str, backbone: Backbone, pool: ImagePool) -> None:
    alone = [[one == other for other in OF_TOWERS] for one in OF_TOWERS]
    all_but_one = [[one != other for other in OF_TOWERS] for one in OF_TOWERS]
    give_the_same(name, [[True] * len(OF_TOWERS), *alone, *all_but_one], backbone, pool)


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITS)
def test_every_combination_of_savings_gives_the_same(name: str, backbone: Backbone, pool: ImagePool) -> None:
    give_the_same(name, itertools.product((True, False), repeat=len(OF_TOWERS)), backbone, pool)


def block(self: Block, x: Tensor) -> Tensor:
    """A block on [n, tokens, width], in plain words."""
    n, tokens, width = x.shape
    heads = self.attention.heads
    qkv = self.attention.qkv(self.norm1(x)).view(n, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    weights = (qkv[0] @ qkv[1].transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)
    x = x + self.attention.out((weights @ qkv[2]).transpose(1, 2).reshape(n, tokens, width))
    return x + self.mlp(self.norm2(x))


@torch.no_grad()
def test_image_edits_do_what_they_say(backbone: Backbone) -> None:
    tower = backbone.image
    assert isinstance(tower, VisionTransformer)
    pixels, p = torch.randn(2, 3, 32, 32, dtype=torch.double), torch.randn(WIDTH, WIDTH, dtype=torch.double)
    x = tower.embedding(pixels)
    x = x + torch.tanh(x @ p)
    x = torch.cat([x, tower.input_norm(p[1:3]).expand(2, -1, -1)], dim=1)
    for number, each in enumerate(tower.blocks, start=1):
        assert isinstance(each, Block)
        if number == 3:
            x = torch.cat([x[:, :-2], p[3:5].expand(2, -1, -1)], dim=1)
        beside_it = torch.tanh(each.norm1(x) @ p) if number in (2, 4) else 0
        x = block(each, x) + beside_it
    assert tower.projection is not None
    expected = tower.projection(tower.post_norm(x[:, 0]))
    edits = [*deep(1, 3)(p), *beside("image", 0, 2, 4)(p)]
    torch.testing.assert_close(Frozen(backbone).image(Images.of(pixels), edits), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_inserted_and_read_tokens_do_what_they_say(backbone: Backbone) -> None:
    tower, p = backbone.image, torch.randn(WIDTH, WIDTH, dtype=torch.double)
    assert isinstance(tower, VisionTransformer) and tower.projection is not None
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.double)
    x = torch.cat([tower.embedding(pixels), p[1:3].expand(2, -1, -1)], dim=1)
    for number, each in enumerate(tower.blocks, start=1):
        assert isinstance(each, Block)
        if number == 3:
            x = torch.cat([x[:, :-2], 0.7 * p[3:5] + 0.3 * x[:, -2:]], dim=1)
        x = block(each, x)
    x = tower.post_norm(x)
    expected = torch.cat([tower.projection(x[:, 0]), x[:, -2:].mean(dim=1)], dim=1)
    found = Frozen(backbone).image(Images.of(pixels), read(1, 3, share=0.7)(p))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    text = backbone.text
    assert isinstance(text, TextTransformer)
    for row in TEXTS.rows:
        words = text.token_embedding(torch.tensor(row)) + text.positions[: len(row)]
        stream = block_causal(text, 1, words[None])
        stream = torch.cat([stream[:, :1], p[None, 2:5], stream[:, 1:]], dim=1)
        stream = block_causal(text, 2, stream)
        stream[:, 1:4] = 0.4 * p[3:6] + 0.6 * stream[:, 1:4]
        expected = text.projection(text.final_norm(block_causal(text, 3, stream)[:, -1]))
        found = Frozen(backbone).text(Texts((row,)), inserted(2, 3, share=0.4)(p))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def block_causal(tower: Transformer, number: int, x: Tensor) -> Tensor:
    """A text tower's block on [n, tokens, width], token by token: each sees those up to itself."""
    each = tower.blocks[number - 1]
    assert isinstance(each, Block)
    return torch.cat([block(each, x[:, : end + 1])[:, -1:] for end in range(x.shape[1])], dim=1)


@torch.no_grad()
def test_prompt_tokens_are_not_pooled() -> None:
    blocks = BlocksConfig(WIDTH, 2, 2, 32, "gelu", 1e-5)
    tower = VisionTransformer(ImageConfig(32, 16, blocks, WIDTH, False, True, False, "mean", False)).double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.double)
    edits = deep(1)(torch.randn(WIDTH, WIDTH, dtype=torch.double))
    stream = tower.run(tower.start(pixels, edits), edits)
    expected = tower.post_norm(stream.hidden.unflatten(0, (2, -1)))[:, :4].mean(dim=1)
    torch.testing.assert_close(tower.finish(tower.start(pixels, edits), edits), expected)


def test_edits_of_one_tower_may_be_given_to_both(backbone: Backbone, pool: ImagePool) -> None:
    frozen = Frozen(backbone)
    edits = beside("image", 2)(torch.zeros(WIDTH, WIDTH, dtype=torch.double))
    assert torch.equal(frozen.text(TEXTS, edits), frozen.text(TEXTS))


def test_input_and_output_of_a_block_are_stored_apart_from_its_output(
    backbone: Backbone, pool: ImagePool, tmp_path: Path
) -> None:
    p = torch.zeros(WIDTH, WIDTH, dtype=torch.double)
    for _ in range(2):  # written, then read
        frozen = Frozen(backbone, Store(tmp_path))
        for make in (beside("image", 2), deep(3), beside("image", 4)):
            assert len(frozen.image(pool.all(), make(p))) == len(pool.pictures)
        torch.testing.assert_close(frozen.image(pool.all(), beside("image", 2)(p)), frozen.image(pool.all()))


def test_text_stream_is_computed_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, started = Frozen(backbone), 0
    start = backbone.text.start

    def count(*given: object) -> object:
        nonlocal started
        started += 1
        return start(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone.text, "start", count)
    for _ in range(3):
        frozen.text(TEXTS, beside("text", 2)(torch.zeros(WIDTH, WIDTH, dtype=torch.double)))
    assert started == 1


def test_edit_beyond_the_last_block_is_an_error(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="Adapter acts after step 4, but the blocks end at 3"):
        Frozen(backbone).text(TEXTS, beside("text", 4)(torch.zeros(WIDTH, WIDTH)))


def test_prompt_tokens_of_a_text_need_a_place() -> None:
    with pytest.raises(ValueError, match="need a position"):
        PromptTokens("text", 1, torch.zeros(1, WIDTH))
