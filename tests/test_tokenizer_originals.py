"""Token ids are those of the original tokenizers: CLIP's with its real vocabulary, which open_clip's package has, the
others trained here; each read by transformers or open_clip, and by us."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from shotfit.checkpoints.tokenizers import HuggingFaceTokenizer, OpenAITokenizer, TokenizerKind, as_text, load_tokenizer
from shotfit.errors import UsageError
from shotfit.towers.config import BlocksConfig, TextConfig

CONTEXT = 24
TEXTS = [
    "a photo of a dog",
    "A photo of a DOG.",
    "  two   spaces,\ttabs ",
    "it's a snow_leopard (wild), 3.5 m!",
    "Café naïve — Straße №5",
    "Tom &amp; Jerry &lt;3 &quot;x&quot;",
    "小さい猫 и кошка",
    "",
    "an unlikely word: zyzzyva😀",
    "one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three",
]
CORPUS = [
    *TEXTS,
    *(text.lower() for text in TEXTS),
    "the quick brown fox jumps over the lazy dog",
    "of a cat and a bird",
]
BLOCKS = BlocksConfig(8, 1, 1, 8, "gelu", 1e-6)


def t5(folder: Path) -> None:
    retrained(transformers.T5Tokenizer(extra_ids=0), folder)


def xlm_roberta(folder: Path) -> None:
    retrained(transformers.XLMRobertaTokenizer(), folder)


def bert(folder: Path) -> None:
    retrained(transformers.BertTokenizer(), folder)


def retrained(tokenizer: Any, folder: Path) -> None:
    tokenizer.train_new_from_iterator(CORPUS, 300).save_pretrained(folder)


def gemma(folder: Path, named: str = "GemmaTokenizer") -> None:
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", pair=None, special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    save(made, folder, named, **names, padding_side="right", add_bos_token=False, add_eos_token=True)


def save(made: tokenizers.Tokenizer, folder: Path, named: str, **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named, **settings}))


def rows_of_ours(
    folder: Path, kind: TokenizerKind, vocabulary: int = 1000, texts: list[str] = TEXTS
) -> list[list[int]]:
    """As a tower that reads whole rows gets them."""
    config = TextConfig(vocabulary, CONTEXT, BLOCKS, 8, False, "last", None, 0, True)
    tokenizer = load_tokenizer(folder, config, kind)
    assert tokenizer is not None
    return tokenizer.encode(texts, truncate=True)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("train", "kind", "options"),
    [
        (t5, "pieces:canonicalize", {"clean": "canonicalize"}),
        (gemma, "pieces:canonicalize", {"clean": "canonicalize"}),
        (xlm_roberta, "pieces:whitespace", {}),
        (t5, "pieces:lower", {"clean": "lower"}),
        (bert, "pieces:stripped", {"strip_sep_token": True}),
    ],
    ids=["siglip", "siglip2", "metaclip2", "lower", "clipa"],
)
def test_ids_are_open_clips(
    train: Any, kind: TokenizerKind, options: dict[str, Any], tmp_path: Path, quiet: None
) -> None:
    from .originals import open_clip

    train(tmp_path)
    original = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=CONTEXT, **options)
    assert rows_of_ours(tmp_path, kind) == original(TEXTS).tolist()


@pytest.mark.parametrize(("named", "lowers"), [("Siglip2Tokenizer", True), ("GemmaTokenizer", False)])
def test_siglip_2_of_transformers_is_read_in_lower_case(named: str, lowers: bool, tmp_path: Path, quiet: None) -> None:
    gemma(tmp_path, named)
    texts = TEXTS if lowers else [text.lower() for text in TEXTS]  # Gemma's class leaves it to whoever calls it
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    original.padding_side = "right"
    rows = original(texts, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    assert rows_of_ours(tmp_path, "siglip", texts=TEXTS) == rows


def test_metaclip_2_of_transformers_reads_its_file_as_it_is(tmp_path: Path, quiet: None) -> None:
    xlm_roberta(tmp_path)
    original = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = original(TEXTS, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    assert rows_of_ours(tmp_path, "pieces:plain") == rows


def siglip(folder: Path) -> Any:
    """SigLIP's own class on a SentencePiece model, and the same model as the `tokenizer.json` of its repositories."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=made, vocab_size=120, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(made.getvalue())
    read = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    pieces = [(read.id_to_piece(number), read.get_score(number)) for number in range(read.get_piece_size())]
    backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.Precompiled(_map_of(made.getvalue()))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    save(backend, folder, "SiglipTokenizer", pad_token="</s>", eos_token="</s>", unk_token="<unk>")
    return transformers.SiglipTokenizer(str(folder / "spiece.model"))


def _map_of(model: bytes) -> bytes:
    """How a SentencePiece model maps characters."""
    read: Any = sentencepiece_model_pb2
    content: bytes = read.ModelProto.FromString(model).normalizer_spec.precompiled_charsmap
    return content


def test_siglip_1_of_transformers_is_read_as_its_class_reads_it(tmp_path: Path, quiet: None) -> None:
    original = siglip(tmp_path)
    rows = original(TEXTS, padding="max_length", truncation=True, max_length=CONTEXT)["input_ids"]
    assert rows_of_ours(tmp_path, "siglip") == rows
    assert rows[0] == original(["A photo of a dog."], padding="max_length", max_length=CONTEXT)["input_ids"][0]


def test_clips_ids_are_open_clips(quiet: None) -> None:
    """With the real vocabulary, which both packages have."""
    from .originals import open_clip

    original = open_clip.tokenizer.SimpleTokenizer()
    for text in [*TEXTS, *CORPUS, "THE end's; they'll go 12,5 €", "e\u0301te\u0301 ﬁne"]:
        assert OpenAITokenizer().tokens(text) == original.encode(text)


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json"])
def test_clip_s_files_of_transformers_are_read_as_its_class_reads_them(files: str, tmp_path: Path, quiet: None) -> None:
    from .originals import open_clip

    known = open_clip.tokenizer.SimpleTokenizer()
    words = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {words.get(piece, piece): number for piece, number in known.encoder.items()}
    merges = sorted(known.bpe_ranks, key=known.bpe_ranks.get)
    original = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    original.save_pretrained(tmp_path)
    if files == "vocab.json":
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    config = TextConfig(len(vocabulary), CONTEXT, BLOCKS, 8, True, "largest", None, 0, True)
    tokenizer = load_tokenizer(tmp_path, config, "clip")
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    rows = original(TEXTS, truncation=True, max_length=CONTEXT)["input_ids"]
    assert tokenizer.encode(TEXTS, truncate=True) == rows


def test_siglip_1_reads_no_punctuation_even_where_its_file_leaves_that_to_a_class(tmp_path: Path) -> None:
    t5(tmp_path)
    one, other = rows_of_ours(tmp_path, "siglip", texts=["A photo of a dog.", "a photo of a dog"])
    assert one == other


def test_siglip_2_reads_punctuation(tmp_path: Path) -> None:
    gemma(tmp_path)
    one, other = rows_of_ours(tmp_path, "siglip", texts=["a photo of a dog.", "a photo of a dog"])
    assert one != other


def test_a_vocabulary_of_gemmas_size_is_siglip_2s_whatever_the_files_name(tmp_path: Path) -> None:
    t5(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "eos_token": "</s>"}))
    one, other = rows_of_ours(tmp_path, "siglip", 256_000, ["a photo of a dog.", "A photo of a dog"])
    assert one != other
    assert rows_of_ours(tmp_path, "siglip", 256_000, ["A DOG"]) == rows_of_ours(tmp_path, "siglip", 256_000, ["a dog"])


def test_a_caller_decides_how_texts_are_read_and_the_tokenizer_is_another(tmp_path: Path) -> None:
    gemma(tmp_path)
    config = TextConfig(1000, CONTEXT, BLOCKS, 8, False, "last", None, 0, True)
    kinds: list[TokenizerKind] = ["siglip", as_text("siglip", "canonical"), as_text("siglip", "plain")]
    trained, canonical, plain = (HuggingFaceTokenizer.read(tmp_path, config, kind) for kind in kinds)
    assert canonical.tokens("A snow_leopard.") == trained.tokens("a snow leopard")
    assert plain.tokens("A dog.") != trained.tokens("A dog.") == trained.tokens("a dog.")
    assert len({tokenizer.identity for tokenizer in (trained, canonical, plain)}) == 3
    with pytest.raises(UsageError, match="text=plain is for checkpoints with a tokenizer of SigLIP's kind"):
        as_text("clip", "plain")
