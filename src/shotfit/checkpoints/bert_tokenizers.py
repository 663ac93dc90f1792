"""Tokenizers of BERT's kind: word pieces (BERT), byte pairs (RoBERTa), and what their classes do to a `tokenizer.json`.

The Hugging Face library builds such a tokenizer from the vocabulary and from what `tokenizer_config.json` says, or the
defaults of the class that it names. So lower case, accents and Chinese characters follow those, whatever the file's own
normalizer does, and so does the space in front of RoBERTa's texts. A file whose configuration names a general class
(`PreTrainedTokenizerFast`) is read as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import normalizers, pre_tokenizers, processors

from shotfit.checkpoints.tokenizer_file import LARGEST_FILE, LONGEST_TOKEN, MOST_TOKENS, guarded, read_byte_pairs
from shotfit.errors import ShotfitError
from shotfit.files import read_text

__all__ = ["FRAMES", "as_class", "bert_files", "read_bert_files"]

FRAMES = (("[CLS]", "[SEP]"), ("<s>", "</s>"))  # start and end, of BERT's vocabularies and of RoBERTa's
_BERT = ("BertTokenizer", "BertTokenizerFast")
_ROBERTA = ("RobertaTokenizer", "RobertaTokenizerFast")
# entry of tokenizer_config.json: the normalizer's own word for it, and the class's default
_RULES: dict[str, tuple[str, bool | None]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def bert_files(folder: Path) -> list[Path]:
    """The files that make a tokenizer where there is no `tokenizer.json`; none if they are not all there."""
    pieces, pair = folder / "vocab.txt", [folder / "vocab.json", folder / "merges.txt"]
    if pieces.is_file():
        return [pieces]
    return pair if all(file.is_file() for file in pair) else []


def read_bert_files(files: list[Path], named: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer of `bert_files`, by its class's defaults. named: special tokens by their part (`cls_token`)."""
    return _word_pieces(files[0], named) if len(files) == 1 else _roberta(files[0], files[1], named)


def as_class(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, bool | None]:
    """Apply what the tokenizer's class makes of `tokenizer_config.json`, and say what that is.

    Raises ShotfitError for an entry that is neither true nor false.
    """
    named, rules = settings.get("tokenizer_class"), dict[str, bool | None]()
    normalizer, split = backend.normalizer, backend.pre_tokenizer
    if isinstance(normalizer, normalizers.BertNormalizer) and named in (None, *_BERT):
        for entry, (word, default) in _RULES.items():
            rules[word] = _flag(settings, entry, default)
            setattr(normalizer, word, rules[word])
        backend.normalizer = normalizer
    elif isinstance(split, pre_tokenizers.ByteLevel) and named in (None, *_ROBERTA):
        split.add_prefix_space = bool(_flag(settings, "add_prefix_space", False))
        rules["add_prefix_space"] = split.add_prefix_space
        backend.pre_tokenizer = split
    return rules


def _flag(settings: Mapping[str, Any], entry: str, default: bool | None) -> bool | None:
    value = settings.get(entry, default)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    raise ShotfitError(f"tokenizer_config.json: {entry} is {value!r:.60}, expected true or false.")


def _word_pieces(file: Path, named: Mapping[str, str]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from `vocab.txt`: a piece a line, whose number is its id; of two equal ones the later."""
    lines = read_text(file, LARGEST_FILE, "a tokenizer").split("\n")
    pieces = lines[:-1] if lines[-1] == "" else lines
    if len(pieces) > MOST_TOKENS or max(map(len, pieces), default=0) > LONGEST_TOKEN:
        raise ShotfitError(
            f"{file} is no vocabulary: expected at most {MOST_TOKENS:,} lines of at most {LONGEST_TOKEN:,} characters."
        )
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (start, end), unknown = FRAMES[0], named.get("unk_token", "[UNK]")
    start, end = named.get("cls_token", start), named.get("sep_token", end)
    for token in (start, end, unknown):
        if token not in vocabulary:
            raise ShotfitError(f"{file} lacks the special token {token}; it is no vocabulary of BERT's kind.")
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _framed(backend, vocabulary, start, end, [unknown, named.get("pad_token", "[PAD]"), "[MASK]"])


def _roberta(vocabulary_file: Path, merges_file: Path, named: Mapping[str, str]) -> tokenizers.Tokenizer:
    """RoBERTa's tokenizer from `vocab.json` and `merges.txt`."""
    vocabulary, merges, failure = read_byte_pairs(vocabulary_file, merges_file)
    start, end = named.get("cls_token", FRAMES[1][0]), named.get("sep_token", FRAMES[1][1])
    for token in (start, end):
        if token not in vocabulary:
            raise failure(f"it lacks the special token {token}")
    backend = tokenizers.Tokenizer(guarded(lambda: tokenizers.models.BPE(vocabulary, merges), failure))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    others = [named.get("unk_token", "<unk>"), named.get("pad_token", "<pad>"), "<mask>"]
    return _framed(backend, vocabulary, start, end, others)


def _framed(
    backend: tokenizers.Tokenizer, vocabulary: Mapping[str, int], start: str, end: str, others: list[str]
) -> tokenizers.Tokenizer:
    backend.add_special_tokens([start, end, *(token for token in others if token in vocabulary)])
    backend.post_processor = processors.TemplateProcessing(
        single=[start, "$A", end], special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    return backend
