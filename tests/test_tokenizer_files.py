"""tokenizer.json from a stranger: known components within bounds, or one line; no text takes for ever."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shotfit.checkpoints import tokenizer_file
from shotfit.checkpoints.expressions import problem_of
from shotfit.checkpoints.tokenizer_file import guarded
from shotfit.checkpoints.tokenizers import HuggingFaceTokenizer, load_tokenizer
from shotfit.errors import ShotfitError

from .test_tokenizers import PLAIN, SIGLIP, clip_pair, save_pair_as_json, write_siglip

PUBLISHED = [
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # CLIP
    r"\s+",
    r" {2,}",
    r"[!\"\#\$%\&'\(\)\*\+,\-\.\/:;<=>\?@\[\\\]\^_`\{\|\}\~]",  # SigLIP
    r"[!-/:-@\[-`{-~]",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)",
]
EXPLODING = [
    "(a+)+b",
    "(a|a)*b",
    "(a?){30}b",
    "a*a*a*b",
    ".*.*.*x",
    "a?" * 30 + "a" * 30,
    "a{1,30}" * 4 + "b",
    "(a|b|ab)" * 12 + "c",
    r"(a)\1",
    r"(?<n>a)\g<n>*",
    "a++b",
    "a+?b",
    "((a{1,99}){1,99}){1,99}",
    "(?:a*)?b",
    "(?=a*b)a",
    "|".join(["a*b"] * 50),
    "a" * 2_000,
    "(a",
    "a)",
    "[a",
    "*",
    "a{3}{3}",
]


@pytest.mark.parametrize("expression", PUBLISHED)
def test_expression_of_a_published_tokenizer_is_run(expression: str) -> None:
    assert problem_of(expression) is None
    tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), behavior="removed")


@pytest.mark.parametrize("expression", EXPLODING)
def test_expression_that_may_take_for_ever_is_not_run(expression: str) -> None:
    assert problem_of(expression)


@given(st.lists(st.sampled_from(["a", "b", "(", ")", "*", "+", "?", "|", "{1,3}", "[ab]", "."]), max_size=14))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_run_takes_little_time(parts: list[str]) -> None:
    expression = "".join(parts)
    if problem_of(expression) is None:
        with contextlib.suppress(Exception):  # the engine's own refusal
            split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), behavior="removed")
            start = time.process_time()
            split.pre_tokenize_str("a" * 400 + "c")
            assert time.process_time() - start < 1


def changed(path: str, value: Any) -> dict[str, Any]:
    """CLIP's file with one entry changed."""
    content = json.loads(clip_pair()._backend.to_str())  # type: ignore[attr-defined]
    *sections, name = path.split(".")
    section = content
    for key in sections:
        section = section[key]
    section[name] = value
    return copy.deepcopy(content)


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
MAP = base64.b64encode((4).to_bytes(4, "little") + bytes(4) + b"x" * 5_000 + b"\0").decode()


def precompiled(offset: int, begin: int, texts: bytes = b"b\0") -> dict[str, str]:
    """A map of one character: "a", at unit 97, ends at unit 97 ^ offset, which says where its text begins."""
    units = [0] * 256
    units[97] = 97 | 2**8 | offset << 10
    units[(97 ^ offset) % 256] = 2**31 | begin
    tree = b"".join(unit.to_bytes(4, "little") for unit in units)
    content = base64.b64encode(len(tree).to_bytes(4, "little") + tree + texts).decode()
    return {"type": "Precompiled", "precompiled_charsmap": content}


FAULTS: dict[str, tuple[str, Any, str]] = {
    "doubling": ("normalizer", {"type": "Sequence", "normalizers": [REPLACE] * 30}, "times as long"),
    "a long replacement": ("normalizer", {**REPLACE, "content": "a" * 900}, "times as long"),
    "many parts": ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 33}, "at most 32"),
    "sequences in sequences": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "NFC"}] * 20}] * 20},
        "more than 32 parts",
    ),
    "an empty pattern": ("normalizer", {**REPLACE, "pattern": {"String": ""}}, "a pattern is empty"),
    "an exploding expression": ("normalizer", {**REPLACE, "pattern": {"Regex": "(a+)+b"}}, "without bound"),
    "a slow normalizer": ("normalizer", {**REPLACE, "pattern": {"Regex": "a*b"}}, "could take too long"),
    "an exploding split": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Removed", "invert": False},
        "repeats a group",
    ),
    "a map that explodes": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": MAP}, "of one character"),
    "a map that is cut": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, "is cut off"),
    "a map without a tree": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "A" * 10**4}, "has no tree"),
    "a map that leads out": ("normalizer", precompiled(4097, 0), "leads out of itself"),
    "a map to a text beyond": ("normalizer", precompiled(1, 9), "leads out of itself"),
    "a map into a character": ("normalizer", precompiled(1, 1, "é".encode() + b"\0"), "within a character"),
    "an unknown normalizer": ("normalizer", {"type": "Script"}, "normalizer is 'Script', expected one of"),
    "an unknown split": ("pre_tokenizer", {"type": 3}, "pre_tokenizer is 3, expected one of"),
    "an unknown model": ("model", {"type": "Neural"}, "model is 'Neural', expected one of"),
    "a frame of thousands": (
        "post_processor",
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 99, "pair": []},
        "single is 99 entries",
    ),
    "a frame of no token": (
        "post_processor",
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "special_tokens": {}},
        "which special_tokens lacks",
    ),
    "a token of many ids": (
        "post_processor",
        {"type": "TemplateProcessing", "special_tokens": {"x": {"id": "x", "ids": [1] * 99, "tokens": ["x"]}}},
        "ids is 99 entries",
    ),
    "dropout": ("model.dropout", 0.5, "dropout is set"),
    "no vocabulary": ("model.vocab", None, "vocab is None"),
    "numbers that are none": ("model.vocab", {"a": -1}, "expected a piece and its number"),
    "numbers that are huge": ("model.vocab", {"a": 2**40}, "expected a piece and its number"),
    "truth for a number": ("model.vocab", {"a": True}, "expected a piece and its number"),
    "long pieces": ("model.vocab", {"a" * 5_000: 1}, "expected a piece and its number"),
    "scores that are none": ("model", {"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 0}, "finite score"),
    "an unknown piece beyond": ("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}, "number of a piece"),
    "no pieces": ("model", {"type": "Unigram", "vocab": [], "unk_id": None}, "vocab is empty"),
    "long words": ("model", {"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": 10**9}, "at most 1,000"),
    "added tokens that are none": ("added_tokens", [{"content": "", "id": 3}], "expected a text and its number"),
    "many added tokens": ("added_tokens", [{"content": "x", "id": 3}] * 20_001, "at most 20,000"),
    "merges of what is no piece": ("model.merges", [["zzz", "yyy"]], "merges makes 'zzz', which vocab lacks"),
    "merges into what is no piece": (
        "model",
        {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]},  # longer than any piece, which the library panics at
        "merges makes 'aa', which vocab lacks",
    ),
    "merges of pieces without the prefix": (
        "model",
        {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "continuing_subword_prefix": "##"},
        "merges has 'b', expected a piece that begins with '##'",
    ),
    "merges of three": ("model.merges", ["a b c"], "merges has ['a', 'b', 'c'], expected two pieces"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faulty_tokenizer_file_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    path, value, message = FAULTS[kind]
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed(path, value)))
    with pytest.raises(ShotfitError) as caught:
        HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_map_of_characters_and_any_bounds_are_run(tmp_path: Path) -> None:
    content = changed("normalizer", precompiled(1, 0))
    content["truncation"] = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 5}
    content["padding"] = {"strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 3,
                          "pad_type_id": 0, "pad_token": "x"}  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip")
    assert tokenizer.tokens("a a") == tokenizer.tokens("b b") != tokenizer.tokens("c c")


def test_merges_longer_than_any_piece_are_refused_in_both_forms_of_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 1, "b": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na a\n")
    with pytest.raises(ShotfitError, match=r"no byte-pair vocabulary \(merges makes 'aa', which vocab lacks\)"):
        load_tokenizer(tmp_path, PLAIN, "clip")
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'"text"', b"null"])
def test_what_is_no_file_of_a_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ShotfitError, match=r"is no tokenizer file"):
        load_tokenizer(tmp_path, PLAIN, "clip")


def test_tokenizer_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ShotfitError, match=r"tokenizer\.json cannot be read \(it is not UTF-8 text\)"):
        load_tokenizer(tmp_path, PLAIN, "clip")


def test_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(tokenizer_file.LARGEST_FILE + 1)
    with pytest.raises(ShotfitError, match=r"has 134,217,729 bytes, more than the 134,217,728 that are read of a"):
        load_tokenizer(tmp_path, PLAIN, "clip")


def test_endless_text_is_refused(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path)
    tokenizer = HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip")
    with pytest.raises(ShotfitError, match=r"has more than 10,000 characters"):
        tokenizer.count("a " * 100_000)


def test_panic_of_the_library_is_a_line() -> None:
    class PanicException(BaseException):
        pass

    def panics() -> None:
        raise PanicException("called `Option::unwrap()`\non a None value")

    with pytest.raises(ShotfitError, match=r"^cannot: called `Option::unwrap\(\)`$"):
        guarded(panics, lambda reason: ShotfitError(f"cannot: {reason}"))

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(interrupted, lambda reason: ShotfitError(reason))


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_any_change_of_a_file_gives_ids_or_one_line(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        _change_and_read(Path(name), data)


ODD: list[Any] = [None, True, -1, 0, 2**70, 1e400, "", "\ud800", "a" * 2_000, [], {}, [[]], {"type": "NFC"}]


def _change_and_read(folder: Path, data: st.DataObject) -> None:
    write_siglip(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    section: Any = content
    while True:  # down a random path
        keys = sorted(section) if isinstance(section, dict) else list(range(len(section)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(section[key], (dict, list)) and section[key] and data.draw(st.booleans())):
            break
        section = section[key]
    section[key] = data.draw(st.sampled_from(ODD))
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with contextlib.suppress(ShotfitError):
        tokenizer = HuggingFaceTokenizer.read(folder, SIGLIP, "siglip")
        tokenizer.encode(["a red dog \N{SNOWMAN}", ""], truncate=True)
