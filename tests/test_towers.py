"""The savings of the towers change no number: cut rows, shared beginnings, the read token alone."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shotfit.errors import ShotfitError
from shotfit.towers.config import BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.edits import Context
from shotfit.towers.layout import Layout, Packing, Savings
from shotfit.towers.texts import Texts, read_position, share_beginnings
from shotfit.towers.transformer import TextTransformer, VisionTransformer

VOCABULARY = 1000
BLOCKS = BlocksConfig(64, 3, 4, 128, "quick_gelu", 1e-5)
TEXT = TextConfig(VOCABULARY, 40, BLOCKS, 48, True, "largest", None, 0, False)


def text_tower(config: TextConfig = TEXT) -> TextTransformer:
    torch.manual_seed(0)
    tower = TextTransformer(config).double()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return tower.requires_grad_(False)


def prompts(contexts: str) -> Texts:
    """Twelve prompts with names of one to four tokens; one context for all, for each, or for every third."""
    draw, rows = random.Random(0), []
    for index in range(12):
        owner = {"one": 0, "each": index, "three": index % 3}[contexts]
        context = [VOCABULARY + 4 * owner + i for i in range(4)]
        rows.append([998, *context, *[draw.randrange(1, 900) for _ in range(draw.randrange(1, 5))], 999])
    return Texts.of(rows)


def outcome(tower: TextTransformer, texts: Texts, savings: Savings) -> tuple[Tensor, Tensor]:
    vectors = torch.randn(48, 64, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    features = tower.finish(tower.start(texts, [Context(vectors)], savings), [Context(vectors)])
    weights = torch.arange(features.numel(), dtype=torch.double).cos().view_as(features)
    (gradient,) = torch.autograd.grad((features * weights).sum(), vectors)
    return features.detach(), gradient


@pytest.mark.parametrize("contexts", ["one", "each", "three"])
@pytest.mark.parametrize(("cut", "shared", "alone"), list(itertools.product([True, False], repeat=3)))
def test_savings_change_neither_features_nor_gradients(contexts: str, cut: bool, shared: bool, alone: bool) -> None:
    tower, texts = text_tower(), prompts(contexts)
    expected = outcome(tower, texts, Savings.none())
    actual = outcome(tower, texts, Savings(cut=cut, shared=shared, read_alone=alone))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12 * float(one.abs().max()))


def test_prompts_with_one_context_run_it_once() -> None:
    texts = prompts("one")
    own = sum(len(row) for row in texts.rows) - 12 * 5
    assert text_tower().pack(texts).layout.tokens == 5 + own


def test_contexts_of_three_tasks_make_three_groups() -> None:
    assert sorted((len(group.rows), group.shared) for group in share_beginnings(prompts("three").rows)) == [(4, 5)] * 3


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=8))
@settings(deadline=None, max_examples=200)
def test_groups_cover_all_rows_and_share_what_is_equal(rows: list[list[int]]) -> None:
    groups = share_beginnings(rows)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(rows)))
    for group in groups:
        beginnings = {tuple(rows[row][: group.shared]) for row in group.rows}
        assert len(beginnings) == 1 and all(len(rows[row]) > group.shared for row in group.rows)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=2, max_size=5))
@settings(deadline=None, max_examples=100)
def test_no_single_beginning_for_all_is_cheaper(rows: list[list[int]]) -> None:
    def cost(groups: list[tuple[int, int]]) -> int:
        return sum(map(len, rows)) - sum(shared * (members - 1) for members, shared in groups)

    chosen = cost([(len(group.rows), group.shared) for group in share_beginnings(rows)])
    for depth in range(min(len(row) for row in rows)):
        beginnings = [tuple(row[:depth]) for row in rows]
        assert chosen <= cost([(beginnings.count(beginning), depth) for beginning in set(beginnings)])


def test_a_long_list_beside_short_ones_leaves_few_places_empty() -> None:
    rows = [[1, 2, 3, 4, 100 + row] for row in range(200)]
    rows += [[10 + pair, 5, 6, end] for pair in range(40) for end in (7, 8)]
    layout = Layout([len(row) for row in rows], [len(row) - 1 for row in rows], share_beginnings(rows), True)
    assert len(layout.own.lengths) < 1.5 * len(rows)
    assert layout.tokens < 0.6 * sum(map(len, rows))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any))
def test_packing_brings_every_token_back(lengths: list[int]) -> None:
    packing, flat = Packing(lengths), torch.arange(sum(lengths))
    assert torch.equal(packing.flatten(packing.pad(flat)), flat)


@pytest.mark.parametrize(
    ("pooling", "end", "row", "position"),
    [
        ("largest", None, [5, 9, 2, 9], 1),
        ("largest", None, [5, VOCABULARY + 3, 9, 2], 2),
        ("end", 2, [5, 2, 9, 2], 1),
        ("end", 3, [5, 2, 9], 0),
        ("first", None, [5, 2], 0),
        ("last", None, [5, 2, 9], 2),
    ],
)
def test_rows_are_read_where_the_checkpoint_says(pooling: str, end: int | None, row: list[int], position: int) -> None:
    config = TextConfig(VOCABULARY, 40, BLOCKS, 48, True, pooling, end, 0, False)  # type: ignore[arg-type]
    assert read_position(row, config) == position


def test_text_without_a_causal_mask_keeps_its_padding() -> None:
    tower = text_tower(TextConfig(VOCABULARY, 40, BLOCKS, 48, False, "last", None, 1, True))
    packed = tower.pack(Texts.of([[3, 4], [3, 4, 5]]))
    assert packed.layout.tokens == 80 and packed.layout.shared is None


def test_stored_image_stream_resumes_anywhere() -> None:
    tower = VisionTransformer(ImageConfig(32, 8, BLOCKS, 48, True, False, True, "token", True)).double()
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    expected = tower.finish(tower.start(pixels))
    for step in range(4):
        hidden = tower.run(tower.start(pixels), until=step).hidden
        if step < 3:  # the last block runs for the read token alone and is not a stream to store
            resumed = tower.finish(tower.resume(hidden.unflatten(0, (2, -1)), step))
            torch.testing.assert_close(resumed, expected, rtol=0, atol=1e-12)


def test_too_long_text_is_refused() -> None:
    with pytest.raises(ShotfitError, match="reads 1 to 40 tokens a text, but a text has 41 tokens"):
        text_tower().pack(Texts.of([range(1, 42)]))


def test_pixels_of_another_size_are_refused() -> None:
    tower = VisionTransformer(ImageConfig(32, 8, BLOCKS, 48, True, False, True, "token", True))
    with pytest.raises(ShotfitError, match=r"takes \[n, 3, 32, 32\] pixels"):
        tower.start(torch.zeros(1, 3, 33, 33))
