"""A Hugging Face folder of CLIP at any size, with random weights and tokenizer files of CLIP's vocabulary.

The files are made at run time from what the package of `shotfit[clip]` answers: it gives each id its text, and ids are
in the order of the merges. That settles all that ASCII texts need; other tokens only keep their places.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.sizes import Size

__all__ = ["byte_pairs", "write_clip"]

BYTES = 256  # ids of single bytes, and as many again that end a word
END = "</w>"


def write_clip(folder: Path, size: Size) -> None:
    """Weights, configuration, image processor and tokenizer."""
    import transformers

    both = {"num_hidden_layers": size.layers, "hidden_act": "quick_gelu"}
    vision, text = (
        both | {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64)}
        for width in (size.image_width, size.text_width)
    )
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text | {"eos_token_id": 49407, "bos_token_id": 49406},
        vision_config=vision | {"image_size": size.image_size, "patch_size": 16},
        projection_dim=size.embed,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    side = size.image_size
    transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side).save_pretrained(folder)
    vocabulary, merges = byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}), encoding="utf-8")


def byte_pairs() -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary by text, and the merges of ASCII tokens in their order ("th e</w>")."""
    from instant_clip_tokenizer import Tokenizer

    tokenizer = Tokenizer()
    symbols = _byte_symbols()
    texts = [*symbols, *(symbol + END for symbol in symbols)]
    known, merges = {text: index for index, text in enumerate(texts)}, dict[tuple[str, str], int]()
    for index in range(len(texts), tokenizer.start_of_text()):
        said = tokenizer.decode([index])
        word = said.removesuffix(" ")
        if not word.isascii() or not word.isprintable() or " " in word:
            known[f"<{index}>"] = index
            continue
        parts = _merged([*word[:-1], word[-1] + (END if said.endswith(" ") else "")], merges)
        if len(parts) == 2:
            merges[parts[0], parts[1]] = index
        known[word + (END if said.endswith(" ") else "")] = index
    start, end = tokenizer.start_of_text(), tokenizer.end_of_text()
    return known | {"<|startoftext|>": start, "<|endoftext|>": end}, [" ".join(pair) for pair in merges]


def _byte_symbols() -> list[str]:
    """The characters that stand for the bytes, in the order of CLIP's ids: printable ones first, then the rest."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in printable] + [chr(0x100 + number) for number in range(BYTES - len(printable))]


def _merged(parts: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """The parts after all merges so far, the earliest first."""
    while len(parts) > 1:
        pairs = [(merges[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in merges]
        if not pairs:
            break
        _, at = min(pairs)
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts
