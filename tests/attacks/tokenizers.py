"""Hostile `tokenizer.json` files beside a checkpoint that is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.attacks.checkpoints import CHECKPOINTS, opened
from tests.attacks.runner import Case, Place
from tests.attacks.values import VALUES, changed_somewhere

__all__: list[str] = []

Content = dict[str, Any]


def tokenizer(times: int = 2) -> Callable[[Callable[[Content, Random], None]], Callable[[Content, Random], None]]:
    """Register a function that changes the content of a tokenizer's file."""

    def register(change: Callable[[Content, Random], None]) -> Callable[[Content, Random], None]:
        def make(place: Place, random: Random) -> Case:
            folder = place.copy(random.choice(["backbone", "hf"]))
            path = folder / "tokenizer.json"
            content = json.loads(path.read_text())
            change(content, random)
            path.write_text(json.dumps(content))
            return opened(place, random, folder)

        CHECKPOINTS.add(f"tokenizer_{change.__name__}", make, times)
        return change

    return register


EXPLODING = (r"(a+)+$", r"(.*)*b", r"(a|a)*c", r"(?=(a+))*z", r"((a{0,99}){0,99}){0,99}", r"(\p{L}+\s?)+$", "(" * 5000, "[", r"(?<=a+)b",
             "a{99999}", r"\p{Nothing}", "x" * 10**6)  # fmt: skip


@tokenizer(4)
def expressions(content: Content, random: Random) -> None:
    pattern = {"Regex": random.choice(EXPLODING)}
    split = {
        "type": "Split",
        "pattern": pattern,
        "behavior": random.choice(["Removed", "Isolated", "\x1b[2J"]),
        "invert": False,
    }
    replace = {"type": "Replace", "pattern": pattern, "content": "b"}
    where, value = random.choice([("pre_tokenizer", split), ("normalizer", replace)])
    content[where] = value


@tokenizer(3)
def replacements(content: Content, random: Random) -> None:
    """Each step makes a text many times longer."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * random.choice([10, 1000])}
    content["normalizer"] = random.choice(
        [{"type": "Sequence", "normalizers": [step] * random.choice([3, 9, 40])}, {"type": "Prepend", "prepend": "a" * 10**7},
         {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "ab" * 1000}] * 1000},
         {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}]
    )  # fmt: skip


@tokenizer(3)
def sequences(content: Content, random: Random) -> None:
    """Steps in steps in steps."""
    where, inner, name = random.choice(
        [
            ("normalizer", "normalizers", "NFC"),
            ("pre_tokenizer", "pretokenizers", "Whitespace"),
            ("decoder", "decoders", "ByteFallback"),
        ]
    )
    value: Content = {"type": name}
    for _ in range(random.choice([50, 300])):
        value = {"type": "Sequence", inner: [value] * random.choice([1, 1])}
    content[where] = value


@tokenizer(3)
def unknown_types(content: Content, random: Random) -> None:
    where = random.choice(["normalizer", "pre_tokenizer", "post_processor", "decoder", "model"])
    content[where] = random.choice(
        [{"type": "\x1b[2JExec"}, {"type": ""}, {}, [], "x", {"type": "Sequence"}, {"type": "Precompiled"}]
    )


@tokenizer(3)
def charsmap(content: Content, random: Random) -> None:
    maps = ["", "AAAA", "!!!!", "/////w==", "A" * 10**6, "AQAAAAAAAAA="]
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": random.choice(maps)}


@tokenizer(3)
def models(content: Content, random: Random) -> None:
    vocabulary = content["model"]["vocab"]
    scores = [random.choice([0.0, -1e308, 1e308]) for _ in vocabulary]
    pieces = [[name, score] for name, score in zip(vocabulary, scores, strict=True)]
    content["model"] = random.choice(
        [{"type": "Unigram", "unk_id": random.choice([0, 10**9, None, -1]), "vocab": random.choice([pieces, [], [["", 0.0]]]), "byte_fallback": True},
         {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "#" * 10**5, "max_input_chars_per_word": 0, "vocab": vocabulary},
         {"type": "WordLevel", "unk_token": "none", "vocab": vocabulary}, {"type": "WordLevel", "unk_token": "", "vocab": {}},
         content["model"] | {"dropout": random.choice([1.0, 2.0, -1.0, 0.5])},
         content["model"] | {"merges": random.choice([["a b"], [["a"]], [["a", "zz"]], ["a"] * 9, [["", ""]]])}]
    )  # fmt: skip


@tokenizer(3)
def ids(content: Content, random: Random) -> None:
    vocabulary, name = content["model"]["vocab"], random.choice([*content["model"]["vocab"]])
    vocabulary[name] = random.choice([2**32 - 1, 2**31, 10**9, 0, 2**64, -1, 1.5])
    if random.random() < 0.3:
        content["model"]["vocab"] = dict.fromkeys(vocabulary, 5)


@tokenizer(2)
def vocabulary(content: Content, random: Random) -> None:
    content["model"]["vocab"] |= {
        random.choice(["w", "\x1b"]) + str(i): i + 300 for i in range(random.choice([1000, 300_000]))
    }


@tokenizer(4)
def added_tokens(content: Content, random: Random) -> None:
    plain = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": True, "special": random.random() < 0.5}
    many = random.choice([1, 1, 20_000])
    texts = random.choice(
        [["a", "e", "red"], [""], [" "], ["\x1b[2J", "<end>"], ["a" * 10**6], [f"t{i}" for i in range(many)]]
    )
    content["added_tokens"] += [
        {"id": random.choice([0, 257, 10**6, 2**32 - 1]) + i, "content": text} | plain for i, text in enumerate(texts)
    ]


@tokenizer(4)
def post_processors(content: Content, random: Random) -> None:
    frame = content["post_processor"]
    name = next(iter(frame["special_tokens"]))
    change = random.randrange(6)
    if change == 0:
        frame["special_tokens"][name]["ids"] = random.choice([[], [2**32 - 1], [1] * 10**5, [-1], [10**6]])
    elif change == 1:
        frame["single"] = random.choice(
            [[], frame["single"] * 5000, frame["single"][:1], [{"Sequence": {"id": "B", "type_id": 0}}]]
        )
    elif change == 2:
        frame["special_tokens"] = {}
    elif change == 3:
        content["post_processor"] = {
            "type": "RobertaProcessing",
            "sep": ["\x1b", 10**6],
            "cls": ["b", 2**31],
            "trim_offsets": True,
            "add_prefix_space": True,
        }
    elif change == 4:
        content["post_processor"] = {"type": "BertProcessing", "sep": ["a", 1], "cls": ["a", 1]}
    else:
        content["post_processor"] = None


@tokenizer(3)
def bounds(content: Content, random: Random) -> None:
    content["truncation"] = {
        "direction": "Right",
        "max_length": random.choice([0, 1, 2**63]),
        "strategy": "LongestFirst",
        "stride": random.choice([0, 5, 10**9]),
    }
    content["padding"] = {
        "strategy": {"Fixed": random.choice([0, 10**4, 2**40])},
        "direction": "Left",
        "pad_to_multiple_of": 0,
        "pad_id": 2**31,
        "pad_type_id": 0,
        "pad_token": "\x1b",
    }


@tokenizer(8)
def anything(content: Content, random: Random) -> None:
    for _ in range(random.choice([1, 2, 5])):
        changed_somewhere(content, random.choice([*VALUES.values()]), random)


@CHECKPOINTS.kind(3)
def tokenizer_byte_pairs(place: Place, random: Random) -> Case:
    """`vocab.json` and `merges.txt` in place of the one file."""
    folder = place.copy("hf")
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    table: Any = random.choice(
        [words, {}, [], {"a": 2**40}, {"a": "b"}, {"\x1b": 1, "<|startoftext|>": 38, "<|endoftext|>": 39}]
    )
    (folder / "vocab.json").write_text(json.dumps(table))
    lines = random.choice(["", "#version\na b\n", "a\n" * 10**5, "\x1b[2J x y z\n", "a a\n" * 99])
    (folder / "merges.txt").write_text(lines)
    odd = random.choice(["\x1b", "a" * 10**5, {"content": {}}, 5, {"content": "<end>"}])
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": odd, "eos_token": odd}))
    return opened(place, random, folder)
