"""Tokenizers of BERT's kind: ids equal the Hugging Face library's own for the same files, trained on a small corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from shotfit.checkpoints.tokenizers import load_tokenizer
from shotfit.errors import ShotfitError
from shotfit.towers.config import BertConfig, BlocksConfig

CORPUS = [
    "a photo of a dog.",
    "a photo of a cat, a type of pet",
    "histopathology image of adenocarcinoma",
    "une photo d'un café à la crème",
    "Ein Bild von einem Straßenbahnwagen",
    "一张小猫的照片",
    "снимок кошки",
    "the X-ray of a chest (2 views): pneumonia?",
] * 4
TEXTS = [
    *CORPUS[:8],
    "A Photo of a DOG",
    "unseen zebras & quaggas",
    "two  spaces and\ttabs\n",
    " in front",
    "naïve façade ﬁne №5",
    "ID: 12-34_56",
    "小猫 and 狗",
    "\u200bzero width",
    "🙂 emoji",
    "",
]
SPECIAL = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}


def text_config(vocabulary: int, padding: int, context: int = 64) -> BertConfig:
    blocks = BlocksConfig(8, 1, 2, 16, "gelu", 1e-12, norm="sum")
    return BertConfig(vocabulary, context, blocks, 8, padding, "first", False, False, "none", False)


def word_pieces(folder: Path, lower: bool = False) -> Path:
    """`vocab.txt` of pieces in both cases."""
    trained = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer = normalizers.BertNormalizer(lowercase=lower)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=180, special_tokens=SPECIAL["bert"]))
    vocabulary = trained.get_vocab()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__)))
    return folder


def byte_pairs(folder: Path) -> Path:
    """RoBERTa's `vocab.json` and `merges.txt`."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL["roberta"], initial_alphabet=alphabet)
    trained.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    trained.model.save(str(folder))
    return folder


def pieces(folder: Path) -> Path:
    """XLM-RoBERTa's `tokenizer.json`."""
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL["roberta"], unk_token="<unk>")
    trained.train_from_iterator(CORPUS, trainer)
    vocabulary = json.loads(trained.to_str())["model"]["vocab"]
    made: Any = transformers.XLMRobertaTokenizer
    made(vocab=[(piece, score) for piece, score in vocabulary]).save_pretrained(folder)
    return folder


def compared(folder: Path, original: Any, padding: int) -> None:
    """Rows of ids are the original's, and no text is read as a special token."""
    ours = load_tokenizer(folder, text_config(len(original), padding), "pieces:plain")
    assert ours is not None
    for text in TEXTS:
        assert ours.encode([text])[0] == original(text)["input_ids"], text
    for token in original.all_special_tokens:
        with pytest.raises(ShotfitError, match="holds"):
            ours.check(f"a {token} b")


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    "options",
    [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False, "do_lower_case": False}],
    ids=lambda options: ",".join(options) or "defaults",
)
@pytest.mark.parametrize("saved", [True, False], ids=["tokenizer.json", "vocab.txt"])
def test_word_pieces_are_the_library_s(options: dict[str, Any], saved: bool, tmp_path: Path) -> None:
    word_pieces(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **options}))
    original: Any = transformers.BertTokenizer.from_pretrained(str(tmp_path), **options)
    if saved:
        original.save_pretrained(tmp_path)
        without(tmp_path, "vocab.txt")
    compared(tmp_path, original, 0)


@pytest.mark.parametrize("saved", [True, False], ids=["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("space", [False, True])
def test_byte_pairs_are_the_library_s(saved: bool, space: bool, tmp_path: Path) -> None:
    byte_pairs(tmp_path)
    settings = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": space}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    original: Any = transformers.RobertaTokenizer.from_pretrained(str(tmp_path), add_prefix_space=space)
    if saved:
        original.save_pretrained(tmp_path)
        without(tmp_path, "vocab.json", "merges.txt")
    compared(tmp_path, original, 1)


def test_pieces_of_xlm_roberta_are_the_library_s(tmp_path: Path) -> None:
    original: Any = transformers.XLMRobertaTokenizer.from_pretrained(str(pieces(tmp_path)))
    compared(tmp_path, original, 1)


def test_class_decides_over_the_file(tmp_path: Path) -> None:
    """The file keeps capitals; the class that the configuration names lowers them, unless told otherwise."""
    original: Any = transformers.BertTokenizer.from_pretrained(str(word_pieces(tmp_path)), do_lower_case=False)
    original.save_pretrained(tmp_path)
    rows = []
    for settings in ({"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "PreTrainedTokenizerFast"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        ours = load_tokenizer(tmp_path, text_config(len(original), 0), "pieces:plain")
        assert ours is not None
        rows.append((ours.encode(["A Photo"]), ours.encode(["a photo"])))
    assert rows[0][0] == rows[0][1] and rows[1][0] != rows[1][1]


def test_open_clip_s_cleaning_stands_in_front(tmp_path: Path) -> None:
    original: Any = transformers.RobertaTokenizer.from_pretrained(str(byte_pairs(tmp_path)))
    config = text_config(len(original), 1)
    plain, cleaned = (load_tokenizer(tmp_path, config, kind) for kind in ("pieces:plain", "pieces:whitespace"))
    assert plain is not None and cleaned is not None and plain.identity != cleaned.identity
    assert cleaned.encode(["two  spaces &amp; more "])[0] == original("two spaces & more")["input_ids"]
    with pytest.raises(ShotfitError, match="special token <s>"):
        cleaned.check("&lt;s&gt;")


def test_rows_are_never_padded_and_end_within_the_context(tmp_path: Path) -> None:
    original: Any = transformers.BertTokenizer.from_pretrained(str(word_pieces(tmp_path)))
    ours = load_tokenizer(tmp_path, text_config(len(original), 0, context=8), "pieces:plain")
    assert ours is not None and ours.padding is None
    start, end = original.cls_token_id, original.sep_token_id
    assert ours.encode(["dog"])[0][0] == start and ours.encode(["dog"])[0][-1] == end
    with pytest.raises(ShotfitError, match="has room for 6"):
        ours.encode(["a photo of a cat, a type of pet"])
    (row,) = ours.encode(["a photo of a cat, a type of pet"], truncate=True)
    assert row == original("a photo of a cat, a type of pet", truncation=True, max_length=8)["input_ids"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", r"lacks the special token \[CLS\]"),
        ("[CLS]\n[SEP]\n", r"lacks the special token \[UNK\]"),
        ("[CLS]\n" + "x" * 2000, "expected at most 1,000,000 lines of at most 1,000 characters"),
        ("", r"lacks the special token"),
    ],
)
def test_vocabulary_that_is_none_is_refused_in_a_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ShotfitError, match=message):
        load_tokenizer(tmp_path, text_config(30, 0), "pieces:plain")


def test_settings_of_another_type_are_refused_in_a_line(tmp_path: Path) -> None:
    word_pieces(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": "yes" * 99}))
    with pytest.raises(ShotfitError, match=r"do_lower_case is .* expected true or false"):
        load_tokenizer(tmp_path, text_config(200, 0), "pieces:plain")


def test_merges_without_roberta_s_tokens_are_refused_in_a_line(tmp_path: Path) -> None:
    byte_pairs(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({k: v for k, v in vocabulary.items() if k != "</s>"}))
    with pytest.raises(ShotfitError, match="lacks the special token </s>"):
        load_tokenizer(tmp_path, text_config(400, 1), "pieces:plain")
