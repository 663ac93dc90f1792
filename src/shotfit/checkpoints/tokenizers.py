"""From texts to rows of token ids, exactly as the checkpoint's own tokenizer makes them.

Files beside a checkpoint win: `tokenizer.json`, or CLIP's `vocab.json` with `merges.txt`. A CLIP checkpoint without
files is read with OpenAI's vocabulary and cleaning, by the packages of the extra `shotfit[clip]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from shotfit.checkpoints.bert_tokenizers import FRAMES, as_class, bert_files, read_bert_files
from shotfit.checkpoints.cleaning import CLEANINGS, Cleaning, canonical, lowered, without_punctuation
from shotfit.checkpoints.settings import read_json
from shotfit.checkpoints.tokenizer_file import LARGEST_FILE, check_tokenizer, guarded, read_byte_pairs
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import read_text, sha256
from shotfit.towers.config import BertConfig, TextConfig
from shotfit.towers.tokenizer import Tokenizer

__all__ = [
    "HuggingFaceTokenizer",
    "OpenAITokenizer",
    "TextAs",
    "TokenizerKind",
    "as_text",
    "load_tokenizer",
]

# By which rules a folder's files are read. "pieces": those that open_clip names (`hf_tokenizer_name`), behind one of
# its cleanings, or with the separator stripped. "plain" and "canonical": as a caller asked for.
TokenizerKind = Literal[
    "clip",
    "siglip",
    "siglip:plain",
    "siglip:canonical",
    "pieces:whitespace",
    "pieces:lower",
    "pieces:canonicalize",
    "pieces:stripped",
    "pieces:plain",
    "pieces:canonical",
]
TextAs = Literal["canonical", "plain"]  # how texts are read against the checkpoint's own rule

CLIP_VOCABULARY = 49_408
GEMMA_VOCABULARY = 256_000  # SigLIP 2's, whose training kept punctuation
LONGEST_TEXT = 10_000  # characters; expressions may take the square of them
CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer in the format of the `tokenizers` library, made by `read`."""

    def __init__(
        self, backend: tokenizers.Tokenizer, clean: Callable[[str], str] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._backend, self._clean = backend, clean or str

    @classmethod
    def read(cls, folder: Path, config: TextConfig | BertConfig, kind: TokenizerKind) -> HuggingFaceTokenizer:
        """Read `tokenizer.json`, else `vocab.json` and `merges.txt` or BERT's `vocab.txt`, and the names beside them.

        Start and end are those that the file itself puts around a text; where it puts none, those that
        `tokenizer_config.json` or `special_tokens_map.json` name (SigLIP: the end only), else the kind's own.
        Raises ShotfitError for a file that cannot be read or does not fit the text tower.
        """
        named, bert = _named_tokens(folder), isinstance(config, BertConfig)
        files, lower_case, given = [folder / "tokenizer.json"], False, dict[str, Any]()
        if files[0].is_file():
            backend, given = _open(files[0])
            lower_case = kind == "siglip" and _lower_case(backend, folder)
        elif bert:
            files = bert_files(folder)
            backend = read_bert_files(files, named)
        else:
            files = [folder / "vocab.json", folder / "merges.txt"]
            backend = _clip_byte_pairs(files[0], files[1], named)
        of_class = {"class": as_class(backend, _json(folder / "tokenizer_config.json"))} if bert else {}
        start, end = _frame(backend)
        if not start and not end:
            start, end = _named_frame(backend, named, "bert" if bert else kind)
        if not end:
            raise ShotfitError(
                f"{files[0]} puts no end token after a text and names none; "
                "expected a post-processor or an eos_token in tokenizer_config.json beside it."
            )
        if isinstance(config, TextConfig) and config.pooling == "end" and config.end not in end:
            raise ShotfitError(
                f"{files[0]} ends a text with id {end[-1]}, but the checkpoint reads texts at id {config.end}; "
                "the tokenizer belongs to another checkpoint, put the right files beside this one."
            )
        clean, cleaning = _cleaning(kind, backend, config, folder)
        padding = None
        if _reads_padding(config, kind):
            by_name = backend.token_to_id(named["pad_token"]) if "pad_token" in named else None
            padding = given.get("pad_id", config.padding) if by_name is None else by_name
        if kind == "pieces:stripped":  # CLIPA's: 0 stands where the separator was
            end = (0,)
        special = {
            token.content for token in backend.get_added_tokens_decoder().values() if token.special and token.content
        }
        special |= {token for token in map(backend.id_to_token, (*start, *end)) if token is not None}
        return cls(
            backend,
            clean,
            context=config.context,
            vocabulary=config.vocabulary,
            start=start,
            end=end,
            padding=padding,
            special=sorted(special),
            source={
                "files": [sha256(file, LARGEST_FILE, "a tokenizer") for file in files],
                "unknown": named.get("unk_token"),
                "lower_case": lower_case,
                **of_class,
                **cleaning,
            },
        )

    def tokens(self, text: str) -> list[int]:
        return _ids(self._backend, _bounded(text, self._clean))

    def _special_in(self, text: str) -> str | None:
        return super()._special_in(_bounded(text, self._clean))


class OpenAITokenizer(Tokenizer):
    """CLIP's byte pairs behind OpenAI's cleaning, by the packages of the extra `shotfit[clip]`.

    The packages are imported with the first text, so that a checkpoint loads (and has its fingerprint) without them.
    A special token written in a text becomes that token, in upper case too, where OpenAI's split finds it.
    """

    def __init__(self, context: int = 77, padding: int | None = None) -> None:
        super().__init__(
            context=context,
            vocabulary=CLIP_VOCABULARY,
            start=(CLIP_VOCABULARY - 2,),
            end=(CLIP_VOCABULARY - 1,),
            padding=padding,
            special=[CLIP_START, CLIP_END],
            source={"openai": "clip byte pairs; ftfy, html twice, white space, lower case"},
        )

    def tokens(self, text: str) -> list[int]:
        return [token for piece in _split(lowered(text)) for token in _piece_tokens(piece)]

    def _special_in(self, text: str) -> str | None:
        return super()._special_in(lowered(text))  # `&lt;|endoftext|&gt;` is the end token too


def load_tokenizer(folder: Path | None, config: TextConfig | BertConfig, kind: TokenizerKind) -> Tokenizer | None:
    """The tokenizer of a checkpoint: from files in `folder`, else OpenAI's where the vocabulary is CLIP's, else None.

    None means that the towers load and texts are refused (`Backbone.checked_tokenizer` has the sentence).
    """
    if folder is not None:
        pair = kind == "clip" and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
        other = isinstance(config, BertConfig) and bert_files(folder)
        if pair or other or (folder / "tokenizer.json").is_file():
            return HuggingFaceTokenizer.read(folder, config, kind)
    if kind == "clip" and config.vocabulary == CLIP_VOCABULARY:
        return OpenAITokenizer(config.context, config.padding if _reads_padding(config, kind) else None)
    return None


def as_text(kind: TokenizerKind, text: TextAs) -> TokenizerKind:
    """The kind that reads texts as a caller asks for, in place of the checkpoint's own rule.

    Raises UsageError for CLIP's tokenizer, which has one rule alone.
    """
    family = kind.partition(":")[0]
    if family not in ("siglip", "pieces"):
        raise UsageError(f"text={text} is for checkpoints with a tokenizer of SigLIP's kind; leave it out.")
    return cast(TokenizerKind, f"{family}:{text}")


@cache
def _byte_pairs() -> Any:
    try:
        from instant_clip_tokenizer import Tokenizer as BytePairs
    except ImportError:
        raise ShotfitError(_missing_extra_message()) from None
    return BytePairs()


def _missing_extra_message() -> str:
    if sys.version_info >= (3, 13):
        return (
            "this CLIP checkpoint has no tokenizer file; put tokenizer.json beside it "
            "(or use Python 3.12 or older, for which shotfit[clip] carries CLIP's vocabulary)."
        )
    return (
        "this CLIP checkpoint has no tokenizer file and CLIP's own tokenizer is not installed; "
        "run pip install 'shotfit[clip]', or put tokenizer.json beside the checkpoint."
    )


@cache
def _clip_split() -> pre_tokenizers.Split:
    # OpenAI's pattern ignores case. On text in lower case that changes two characters: the long s is a second form of
    # the s in 's, and a combining iota (U+0345), whose fold is a letter but which is none, belongs to no piece.
    others = r"[^\s\p{L}\p{N}\x{345}]+"
    pattern = rf"<\|startoftext\|>|<\|endoftext\|>|'\x{{17F}}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|{others}"
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="removed", invert=True)


def _split(text: str) -> list[str]:
    return [piece for piece, _ in _clip_split().pre_tokenize_str(text)]


# Pieces that the package, which knows no special tokens and splits by itself, would not keep whole.
WHOLE_PIECES = {CLIP_START: (49_406,), CLIP_END: (49_407,), "'\u017f": (6, 129, 379)}


@lru_cache(maxsize=2**16)
def _piece_tokens(piece: str) -> tuple[int, ...]:
    return WHOLE_PIECES.get(piece) or tuple(_byte_pairs().encode(piece))


def _cleaning(
    kind: TokenizerKind, backend: tokenizers.Tokenizer, config: TextConfig | BertConfig, folder: Path
) -> tuple[Callable[[str], str] | None, dict[str, str]]:
    """What is done to a text in front of the file's own rules, and how the tokenizer's identity says so."""
    family, _, asked = kind.partition(":")
    if kind == "siglip" and _canonical(backend, config, folder):
        return without_punctuation, {"cleaning": "no punctuation"}
    if asked == "canonical":
        return canonical, {"cleaning": asked}
    if family == "pieces" and asked != "plain":
        named = "whitespace" if asked == "stripped" else asked
        return CLEANINGS[cast(Cleaning, named)], {"cleaning": asked}
    return None, ({"cleaning": asked} if asked else {})


def _canonical(backend: tokenizers.Tokenizer, config: TextConfig | BertConfig, folder: Path) -> bool:
    """True where punctuation has to be removed: SigLIP 1 was trained without, and some files leave that to a class."""
    named = _json(folder / "tokenizer_config.json").get("tokenizer_class")
    if config.vocabulary == GEMMA_VOCABULARY or named in ("Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast"):
        return False
    return any(mark in _normalized(backend, "a, b.") for mark in ",.")


def _bounded(text: str, clean: Callable[[str], str]) -> str:
    """A text as it is cleaned, if it is not too long for that; the other case is refused where it is read."""
    return text if len(text) > LONGEST_TEXT else clean(text)


def _reads_padding(config: TextConfig | BertConfig, kind: str) -> bool:
    if isinstance(config, BertConfig):
        return False
    return kind.startswith("siglip") or not config.causal or config.pooling == "last"


def _ids(backend: tokenizers.Tokenizer, text: str, framed: bool = False) -> list[int]:
    try:
        text.encode()  # a lone surrogate, as file names of unknown encoding have
    except UnicodeEncodeError:
        raise ShotfitError(f"{text[:60]!a} is not valid Unicode; give the class or file a readable name.") from None
    if max(len(text), len(_normalized(backend, text))) > LONGEST_TEXT:
        raise ShotfitError(
            f"{text[:60]!a}... has more than {LONGEST_TEXT:,} characters, or its tokenizer makes as many of it; "
            "shorten the class name or the template."
        )
    return guarded(lambda: list(backend.encode(text, add_special_tokens=framed).ids), _failure(text))


def _normalized(backend: tokenizers.Tokenizer, text: str) -> str:
    if backend.normalizer is None or len(text) > LONGEST_TEXT:
        return text
    return guarded(lambda: str(backend.normalizer.normalize_str(text)), _failure(text))


def _failure(text: str) -> Callable[[str], ShotfitError]:
    return lambda reason: ShotfitError(
        f"the checkpoint's tokenizer cannot read {text[:60]!a} ({reason}); fetch its tokenizer files again."
    )


def _open(file: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer, which neither cuts nor fills up a text, and how its file says that it should fill up."""
    text = _read_text(file)
    check_tokenizer(file, text)
    backend = guarded(
        lambda: tokenizers.Tokenizer.from_str(text),
        lambda reason: ShotfitError(
            f"{file} is no tokenizer file ({reason}); fetch the checkpoint's tokenizer.json again."
        ),
    )
    padding = backend.padding or {}
    backend.no_padding()  # before it reads any text: bounds of a file may make it panic
    backend.no_truncation()
    return backend, padding


def _read_text(file: Path) -> str:
    return read_text(file, LARGEST_FILE, "a tokenizer")


def _clip_byte_pairs(vocabulary_file: Path, merges_file: Path, named: dict[str, str]) -> tokenizers.Tokenizer:
    """CLIP's tokenizer as transformers builds it from `vocab.json` and `merges.txt`."""
    start, end = named.get("bos_token", CLIP_START), named.get("eos_token", CLIP_END)
    vocabulary, merges, failure = read_byte_pairs(vocabulary_file, merges_file)
    unknown = named.get("unk_token", CLIP_END)
    model = guarded(
        lambda: tokenizers.models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=unknown), failure
    )
    missing = [token for token in (start, end) if token not in vocabulary]
    if missing:
        raise ShotfitError(
            f"{vocabulary_file} lacks the special token {missing[0]}; it is no vocabulary of CLIP's kind."
        )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pieces = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pieces), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens([start, end])
    backend.post_processor = tokenizers.processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), trim_offsets=False, add_prefix_space=False
    )
    return backend


def _lower_case(backend: tokenizers.Tokenizer, folder: Path) -> bool:
    """True where lower case had to be added.

    SigLIP and SigLIP 2 were trained on lower case, which SigLIP 2's file leaves to its tokenizer class. Checkpoints
    name that class, an older one that does nothing (GemmaTokenizer), or none; only `do_lower_case: false` asks for
    capitals.
    """
    if _json(folder / "tokenizer_config.json").get("do_lower_case") is False:
        return False
    if '"Lowercase"' in json.dumps(json.loads(backend.to_str())["normalizer"]):
        return False
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return True


def _frame(backend: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer's post-processor puts before and after a text."""
    for probe in chain(("a", "A", "0"), (token for token in map(backend.id_to_token, range(1000)) if token)):
        bare, framed = _ids(backend, probe), _ids(backend, probe, framed=True)
        if not bare:
            continue
        places = [at for at in range(len(framed)) if framed[at : at + len(bare)] == bare]
        if len(places) == 1:
            return tuple(framed[: places[0]]), tuple(framed[places[0] + len(bare) :])
    return (), ()


def _named_frame(
    backend: tokenizers.Tokenizer, named: dict[str, str], kind: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if kind == "bert":
        known = (frame for frame in FRAMES if all(backend.token_to_id(token) is not None for token in frame))
        start, end = next(known, (None, None))
        start, end = named.get("cls_token", start), named.get("sep_token", end)
    else:
        own_start, own_end = (CLIP_START, CLIP_END) if kind == "clip" else (None, "</s>")
        start = named.get("bos_token", own_start) if kind == "clip" else None
        end = named.get("eos_token", own_end)
    start_id, end_id = (None if token is None else backend.token_to_id(token) for token in (start, end))
    return (() if start_id is None else (start_id,)), (() if end_id is None else (end_id,))


def _named_tokens(folder: Path) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like, where the files beside a tokenizer name them."""
    named: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the later wins
        settings = _json(folder / name)
        for key in ("bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token"):
            value = settings.get(key)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                named[key] = content
    return named


def _json(file: Path) -> Mapping[str, Any]:
    return read_json(file).entries if file.is_file() else {}
