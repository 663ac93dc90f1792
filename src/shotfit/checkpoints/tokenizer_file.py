"""What a `tokenizer.json` may hold, checked before the library that runs it sees it.

The library builds what the file says: text that doubles in every step, an expression that takes hours on a short text,
a vocabulary that makes it panic. So each component must be of a known type, its numbers within bounds, and an
expression of a form whose time grows at most with the square of the text (`expressions.py`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray

from shotfit.checkpoints.expressions import problem_of
from shotfit.checkpoints.settings import shown
from shotfit.errors import ShotfitError
from shotfit.files import read_text

__all__ = ["LARGEST_FILE", "LONGEST_TOKEN", "MOST_TOKENS", "check_tokenizer", "guarded", "read_byte_pairs"]

LARGEST_FILE = 128 * 2**20  # bytes; SigLIP 2, with 256,000 pieces, has 34 MB, and MetaCLIP 2 has 901,629 pieces
MOST_TOKENS = 1_000_000  # pieces, merges
MOST_ADDED = 20_000  # tokens added to the vocabulary
LONGEST_TOKEN = 1_000  # characters of a piece
MOST_PARTS = 32  # components of one kind, those in sequences counted
MOST_FRAME = 16  # tokens around a text
MOST_GROWTH = 16  # how many times longer replacements may make a text
LONGEST_MAPPED = 256  # bytes that a map makes of one character; SentencePiece's 33
LARGEST_MAP = 2**20  # characters of a precompiled map of characters; SentencePiece's has 320,000

_NORMALIZERS = {
    *("Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Replace", "Prepend", "Nmt"),
    *("BertNormalizer", "Precompiled", "ByteLevel"),
}
_PRE_TOKENIZERS = {
    *("Sequence", "Split", "ByteLevel", "Whitespace", "WhitespaceSplit", "Metaspace", "BertPreTokenizer"),
    *("Punctuation", "Digits", "CharDelimiterSplit", "UnicodeScripts"),
}
_PROCESSORS = {"Sequence", "TemplateProcessing", "RobertaProcessing", "BertProcessing", "ByteLevel"}
_DECODERS = {
    *("Sequence", "ByteLevel", "WordPiece", "Metaspace", "BPEDecoder", "Replace", "ByteFallback", "Fuse", "Strip"),
    "CTC",
}
_MODELS = {"BPE", "Unigram", "WordPiece", "WordLevel"}
_KINDS = {
    "normalizer": (_NORMALIZERS, "normalizers"),
    "pre_tokenizer": (_PRE_TOKENIZERS, "pretokenizers"),
    "post_processor": (_PROCESSORS, "processors"),
    "decoder": (_DECODERS, "decoders"),
}

_T = TypeVar("_T")


class _FaultError(Exception):
    """Why a file is not given to the library, as the end of a sentence."""


def guarded(call: Callable[[], _T], failure: Callable[[str], ShotfitError]) -> _T:
    """What a call of the library gives, or the error that `failure` makes of the reason.

    The library raises bare exceptions, and panics, which are no `Exception`.
    """
    try:
        return call()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise failure(reason[:160]) from None
        raise


def check_tokenizer(file: Path, text: str) -> None:
    """Refuse a `tokenizer.json` that is not built from known components within bounds. `text`: its content."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShotfitError(
            f"{file} is no tokenizer file ({str(error)[:120]}); fetch the checkpoint's tokenizer.json again."
        ) from None
    try:
        _object(content, "the file")
        for kind, (known, _) in _KINDS.items():
            growth = _check_part(content.get(kind), kind, known)
            if growth > MOST_GROWTH:
                raise _FaultError(f"its {kind} may make a text more than {MOST_GROWTH:,} times as long")
        _check_model(_object(content.get("model"), "model"))
        _check_added(content.get("added_tokens"))
    except _FaultError as error:
        raise ShotfitError(
            f"{file} is no tokenizer file that shotfit reads ({error}); fetch the checkpoint's tokenizer.json again."
        ) from None


def _check_part(part: Any, kind: str, known: set[str]) -> int:
    """How many times longer a text may become by this component."""
    waiting, growth, maps = [part], 1, 0
    for _ in range(MOST_PARTS + 1):
        if not waiting:
            return growth
        part = waiting.pop()
        if part is None:
            continue
        entries = _object(part, kind)
        _one_of(kind, entries.get("type"), known)
        for name, value in entries.items():
            if name == _KINDS[kind][1] and entries["type"] == "Sequence":
                waiting += _list(value, name, MOST_PARTS)
            elif name == "pattern":
                _check_pattern(value, squared=kind == "pre_tokenizer")
            elif name == "precompiled_charsmap":
                maps += 1
                _check_map(value)
            elif name in ("single", "pair"):
                known_tokens = [*_object(entries.get("special_tokens", {}), "special_tokens")]
                for piece in _list(value, name, MOST_FRAME):
                    token = _object(piece, name).get("SpecialToken")
                    if token is not None and _object(token, name).get("id") not in known_tokens:
                        raise _FaultError(f"{name} has the token {shown(token.get('id'))}, which special_tokens lacks")
                    text = _object(piece, name).get("Sequence")
                    if name == "single" and text is not None and _object(text, name).get("id") != "A":
                        raise _FaultError(f"{name} frames the text {shown(text.get('id'))}, but has one, which is A")
            elif name == "special_tokens":
                for token in _object(value, name).values():
                    _list(_object(token, name).get("ids"), f"{name}: ids", MOST_FRAME)
                    _list(_object(token, name).get("tokens"), f"{name}: tokens", MOST_FRAME)
            elif isinstance(value, str) and len(value) > LONGEST_TOKEN:
                raise _FaultError(f"{name} of {kind} has more than {LONGEST_TOKEN:,} characters")
        if entries["type"] == "Precompiled" and "precompiled_charsmap" not in entries:  # over which the library panics
            raise _FaultError(f"{kind} has no precompiled_charsmap")
        if entries["type"] == "Replace" and isinstance(entries.get("content"), str):
            growth *= max(1, len(entries["content"]))
        if maps > 1:
            raise _FaultError(f"{kind} has more than one precompiled map")
    raise _FaultError(f"{kind} has more than {MOST_PARTS} parts")


def _check_map(value: Any) -> None:
    """A SentencePiece map: in base64, a tree behind its size, then texts that end with a zero byte."""
    if not isinstance(value, str) or len(value) > LARGEST_MAP:
        raise _FaultError(f"precompiled_charsmap is no text of at most {LARGEST_MAP:,} characters")
    try:
        content = base64.b64decode(value, validate=True)
    except ValueError:
        raise _FaultError("precompiled_charsmap is not base64") from None
    size = int.from_bytes(content[:4], "little")
    if size % 4 or len(content) < 4 + size:
        raise _FaultError("precompiled_charsmap is cut off")
    texts = content[4 + size :]
    if max(map(len, texts.split(b"\0"))) > LONGEST_MAPPED:
        raise _FaultError(f"precompiled_charsmap makes more than {LONGEST_MAPPED} bytes of one character")
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise _FaultError("precompiled_charsmap makes what is not UTF-8 text") from None
    _check_tree(np.frombuffer(content[4 : 4 + size], "<u4").astype(np.int64), texts)


def _check_tree(units: NDArray[np.int64], texts: bytes) -> None:
    """A double array (Darts): unit `p` leads to the units `(p ^ offset) ^ byte`, which lie in one block of 256.

    Where bit 8 is set, a character ends there, and the unit `p ^ offset` says at which byte its text begins.
    """
    if not len(units) or len(units) % 256:
        raise _FaultError("precompiled_charsmap has no tree")
    offset = (units >> 10) << ((units & 2**9) >> 6)
    inner = units < 2**31  # the others are such beginnings
    target = np.where(inner, np.arange(len(units)) ^ offset, 0)
    ends = inner & (units & 2**8 > 0)
    if target.max() >= len(units) or (units[target[ends]] % 2**31 > len(texts)).any():
        raise _FaultError("precompiled_charsmap leads out of itself")
    begins = np.frombuffer(texts + b"\0", np.uint8)[units[target[ends]] % 2**31]
    if (begins & 0xC0 == 0x80).any():
        raise _FaultError("precompiled_charsmap begins a text within a character")


def _check_pattern(value: Any, squared: bool) -> None:
    pattern = _object(value, "pattern")
    if pattern.keys() - {"String", "Regex"} or not all(isinstance(text, str) for text in pattern.values()):
        raise _FaultError("a pattern is neither a String nor a Regex")
    if "Regex" in pattern:
        problem = problem_of(pattern["Regex"], squared)
        if problem is not None:
            raise _FaultError(f"the expression {shown(pattern['Regex'])} {problem}")
    elif pattern.get("String") == "":
        raise _FaultError("a pattern is empty")


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)
    _one_of("model", kind, _MODELS)
    vocabulary: Any = model.get("vocab")
    if kind == "Unigram":
        for piece in _list(vocabulary, "vocab", MOST_TOKENS):
            if not isinstance(piece, list) or len(piece) != 2 or not _is_token(piece[0]) or not _is_score(piece[1]):
                raise _FaultError(f"an entry of vocab is {shown(piece)}, expected a piece and a finite score")
        unknown = model.get("unk_id")
        if unknown is not None and not (_is_id(unknown) and unknown < len(vocabulary)):
            raise _FaultError(f"unk_id is {shown(unknown)}, expected the number of a piece")
        if not vocabulary:
            raise _FaultError("vocab is empty")
    else:
        for token, number in _object(vocabulary, "vocab").items():
            if not _is_token(token) or not _is_id(number):
                raise _FaultError(f"vocab has {shown(token)}: {shown(number)}, expected a piece and its number")
        if len(vocabulary) > MOST_TOKENS:
            raise _FaultError(f"vocab has more than {MOST_TOKENS:,} pieces")
    if kind == "BPE":
        merges = _list(model.get("merges"), "merges", 2 * MOST_TOKENS)
        fault = fault_of_merges(vocabulary, map(_merge, merges), model.get("continuing_subword_prefix") or "")
        if fault:
            raise _FaultError(fault)
        if model.get("dropout"):
            raise _FaultError("dropout is set: a text would not always be the same tokens")
    longest = model.get("max_input_chars_per_word", 100)
    if not _is_id(longest) or longest > LONGEST_TOKEN:
        raise _FaultError(f"max_input_chars_per_word is {shown(longest)}, expected at most {LONGEST_TOKEN:,}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if model.get(name) is not None and not _is_token(model[name]):
            raise _FaultError(f"{name} is {shown(model[name])}, expected a short text")


def _merge(value: Any) -> Any:
    """A merge as older files write it, "a b", and as newer ones do, ["a", "b"]."""
    return value.split(" ") if isinstance(value, str) and not value.startswith("#version") else value


def fault_of_merges(vocabulary: Mapping[str, int], merges: Iterable[Sequence[str]], prefix: str = "") -> str:
    """What is wrong with the merges of a byte-pair vocabulary; "" where nothing is.

    merges: pairs of pieces. prefix: how a piece begins that does not begin a word. The library panics where two pieces
    make one that is longer than all that the vocabulary has, and where the second is shorter than the prefix.
    """
    for merge in merges:
        if isinstance(merge, str):  # a line of comment
            continue
        first, second = merge if isinstance(merge, (list, tuple)) and len(merge) == 2 else (None, None)
        if not isinstance(first, str) or not isinstance(second, str):
            return f"merges has {shown(merge)}, expected two pieces"
        if not second.startswith(prefix):
            return f"merges has {shown(second)}, expected a piece that begins with {shown(prefix)}"
        joined = first + second[len(prefix) :]
        if first not in vocabulary or second not in vocabulary or joined not in vocabulary:
            lacking = next(piece for piece in (first, second, joined) if piece not in vocabulary)
            return f"merges makes {shown(lacking)}, which vocab lacks"
    return ""


def read_byte_pairs(
    vocabulary_file: Path, merges_file: Path
) -> tuple[dict[str, int], list[tuple[str, str]], Callable[[str], ShotfitError]]:
    """The pieces with their ids and the merges of `vocab.json` and `merges.txt`, and the error of a further fault."""

    def failure(reason: str) -> ShotfitError:
        return ShotfitError(
            f"{vocabulary_file} and merges.txt beside it are no byte-pair vocabulary ({reason}); fetch both again."
        )

    for file in (vocabulary_file, merges_file):
        read_text(file, LARGEST_FILE, "a tokenizer")  # its size, and that it is text
    vocabulary, merges = guarded(
        lambda: tokenizers.models.BPE.read_file(str(vocabulary_file), str(merges_file)), failure
    )
    fault = fault_of_merges(vocabulary, merges)
    if fault:
        raise failure(fault)
    return vocabulary, merges, failure


def _check_added(added: Any) -> None:
    for token in _list([] if added is None else added, "added_tokens", MOST_ADDED):
        content, number = _object(token, "added_tokens").get("content"), token.get("id")
        if not _is_token(content) or not content or not _is_id(number):
            raise _FaultError(f"added_tokens has {shown(content)}: {shown(number)}, expected a text and its number")


def _one_of(what: str, kind: Any, known: set[str]) -> None:
    if not isinstance(kind, str) or kind not in known:
        raise _FaultError(f"{what} is {shown(kind)}, expected one of {', '.join(sorted(known))}")


def _is_token(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TOKEN


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**24


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30 and value == value


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _FaultError(f"{name} is {shown(value)}, expected an object")
    return value


def _list(value: Any, name: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        found = f"{len(value):,} entries" if isinstance(value, list) else shown(value)
        raise _FaultError(f"{name} is {found}, expected a list of at most {most:,}")
    return value
