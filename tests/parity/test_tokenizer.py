"""Token ids equal the recorded ones: OpenAI's texts, the prompts of every method's cases, a checkpoint's own files."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest
import torch

from shotfit.checkpoints.cleaning import lowered
from shotfit.checkpoints.tokenizers import OpenAITokenizer, load_tokenizer
from shotfit.towers.config import BlocksConfig, TextConfig

from .cases import Case, cases, folders, roots

needs_clip = pytest.mark.skipif(
    importlib.util.find_spec("instant_clip_tokenizer") is None,
    reason="instant-clip-tokenizer has no wheel for this Python",
)


def texts_recorded(case: Case) -> bool:
    return case.method == "tokenizer"


def prompts_recorded(case: Case) -> bool:
    return isinstance(case.meta.get("prompts"), list) and "in/tokens" in case


def strings_recorded(case: Case) -> bool:
    return bool(case.meta.get("strings")) and "in/tokens" in case


def flat(prompts: list[Any]) -> list[str]:
    return [text for prompt in prompts for text in ([prompt] if isinstance(prompt, str) else prompt)]


def assert_rows_begin(rows: list[list[int]], recorded: torch.Tensor) -> None:
    """Every row equals the recorded one up to its end; what follows there is one padding id."""
    for row, expected in zip(rows, recorded.flatten(0, -2).tolist(), strict=True):
        assert expected[: len(row)] == row
        assert len(set(expected[len(row) :])) <= 1


@needs_clip
@pytest.mark.parametrize("case", cases("clip_towers", texts_recorded))
def test_openai_ids_are_the_recorded_ones(case: Case) -> None:
    settings, strings = case.settings, case.meta["strings"]
    tokenizer = OpenAITokenizer(settings["context_length"], padding=settings["pad"])
    assert (tokenizer.start, tokenizer.end) == ((settings["start"],), (settings["end"],))
    assert tokenizer.encode(strings, truncate=settings["truncate"]) == case["out/tokens"].tolist()
    if "out/lengths" in case:
        assert [tokenizer.count(text) + 2 for text in strings] == case["out/lengths"].tolist()
    if "cleaned" in case.meta:
        assert [lowered(text) for text in strings] == case.meta["cleaned"]


@needs_clip
@pytest.mark.parametrize(
    "case",
    [
        case
        for folder in sorted({folder for root in roots() for folder in folders(root)})
        for case in cases(folder, prompts_recorded, partly=True)
    ],
)
def test_prompts_of_every_case_give_its_tokens(case: Case) -> None:
    for words, tokens in (("prompts", "in/tokens"), ("new_prompts", "in/new_tokens")):
        if case.meta.get(words) and tokens in case:
            tokenizer = OpenAITokenizer(case[tokens].shape[-1])
            assert_rows_begin(tokenizer.encode(flat(case.meta[words]), truncate=True), case[tokens])


@needs_clip
@pytest.mark.parametrize("case", cases("checkpoints", strings_recorded, partly=True))
def test_checkpoint_reads_text_as_recorded(case: Case) -> None:
    folder = case.path.parent / case.meta["folder"]
    file = folder / "config.json"
    vocabulary = json.loads(file.read_text())["text_config"]["vocab_size"] if file.is_file() else 49_408
    blocks = BlocksConfig(width=8, layers=1, heads=1, mlp_width=8, activation="quick_gelu", epsilon=1e-5)
    config = TextConfig(
        vocabulary=vocabulary,
        context=case["in/tokens"].shape[-1],
        blocks=blocks,
        embed=8,
        causal=True,
        pooling="largest",
        end=None,
        padding=0,
        projection_bias=False,
    )
    tokenizer = load_tokenizer(folder, config, "clip")
    assert tokenizer is not None
    rows = tokenizer.encode(case.meta["strings"])
    assert_rows_begin(rows, case["in/tokens"])
    if "in/attention_mask" in case:
        assert [len(row) for row in rows] == case["in/attention_mask"].sum(1).tolist()
