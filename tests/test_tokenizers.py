"""Tokenizers: files of the Hugging Face kind, SigLIP's padding, OpenAI's cleaning, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from shotfit.checkpoints import cleaning
from shotfit.checkpoints import tokenizers as towers_tokenizers
from shotfit.checkpoints.cleaning import lowered
from shotfit.checkpoints.tokenizers import (
    HuggingFaceTokenizer,
    OpenAITokenizer,
    load_tokenizer,
)
from shotfit.engine.frozen import Frozen
from shotfit.errors import ShotfitError, UsageError
from shotfit.methods.prompts import context_of_words, lay_out
from shotfit.testing.tiny import random_backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.preprocess import clip_preprocessing
from shotfit.towers.tokenizer import Tokenizer

needs_clip = pytest.mark.skipif(
    importlib.util.find_spec("instant_clip_tokenizer") is None,
    reason="instant-clip-tokenizer has no wheel for this Python",
)

PAIR = Path(__file__).parent / "parity" / "selection" / "checkpoints" / "hf-clip"

PLAIN = TextConfig(
    vocabulary=594,
    context=24,
    blocks=BlocksConfig(width=8, layers=1, heads=1, mlp_width=8, activation="quick_gelu", epsilon=1e-5),
    embed=8,
    causal=True,
    pooling="end",
    end=593,
    padding=593,
    projection_bias=False,
)
SIGLIP = dataclasses.replace(PLAIN, vocabulary=20, context=6, causal=False, pooling="last", end=None, padding=1)
WORDS = ["<unk>", "</s>", "<pad>", "▁", "▁a", "▁dog", "▁cat", "▁red", "s"]


def clip_pair() -> Tokenizer:
    return HuggingFaceTokenizer.read(PAIR, PLAIN, "clip")


def write_siglip(folder: Path, *, end: bool = True, lower_case: bool = True) -> None:
    """A tokenizer.json of SigLIP's kind: unigram pieces, end appended by the file."""
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram([(word, -1.0) for word in WORDS], unk_id=0))
    steps: list[tokenizers.normalizers.Normalizer] = [tokenizers.normalizers.Lowercase()] if lower_case else []
    steps.append(tokenizers.normalizers.Replace(tokenizers.Regex("[!-/:-@]"), ""))
    backend.normalizer = tokenizers.normalizers.Sequence(steps)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.add_special_tokens(["</s>", "<unk>", "<pad>"])
    if end:
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="$A </s>", pair=None, special_tokens=[("</s>", 1)]
        )
    backend.enable_padding(length=32, pad_id=2, pad_token="<pad>")
    backend.enable_truncation(32)
    backend.save(str(folder / "tokenizer.json"))


def write_settings(folder: Path, **settings: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_learned_context_stands_before_the_end_of_a_padded_text(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    config = BackboneConfig(
        ImageConfig(8, 4, SIGLIP.blocks, 8, False, True, False, "attention", False),
        SIGLIP,
        clip_preprocessing(8),
        logit_bias=True,
    )
    frozen = Frozen(random_backbone(config, load_tokenizer(tmp_path, SIGLIP, "siglip")))
    texts = lay_out(frozen, ["red dog", "cat"], length=2)
    learned, (dog, red, cat) = (20, 21), (frozen.encode([word]).rows[0][0] for word in ("dog", "red", "cat"))
    assert texts.rows == ((*learned, red, dog, 1, 2), (*learned, cat, 1, 2, 2))
    assert lay_out(frozen, ["red dog"], length=2, position="middle").rows == ((20, red, dog, 21, 1, 2),)
    assert context_of_words(frozen, "red_dog").shape == (2, 8)
    with pytest.raises(
        UsageError, match="a context of 4 and the longest name take 7 tokens, but this backbone reads 6"
    ):
        lay_out(frozen, ["red dog"], length=4, method="coop")


# CLIP's vocab.json and merges.txt


def test_vocabulary_and_merges_give_the_ids_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.CLIPTokenizerFast.from_pretrained(PAIR), clip_pair()
    for text in (
        "a photo of a cat.",
        "",
        "Café  NAÏVE\n1234",
        "it's we'll",
        "日本 😀",
        "a <|endoftext|> b",
        "<|ENDOFTEXT|>",
        "!!a",
    ):
        assert ours.encode([text], truncate=True) == [theirs(text, truncation=True, max_length=24).input_ids]


def test_row_is_start_text_end_and_no_padding() -> None:
    tokenizer = clip_pair()
    (row,) = tokenizer.encode(["a cat"])
    assert (row[0], row[-1]) == (592, 593)
    assert row[1:-1] == tokenizer.tokens("a cat")
    assert len(row) == tokenizer.count("a cat") + 2


def test_empty_text_is_start_and_end() -> None:
    assert clip_pair().encode(["", " \n"]) == [[592, 593], [592, 593]]


def test_no_texts_give_no_rows() -> None:
    assert clip_pair().encode([]) == []


def test_long_text_is_refused_with_its_length_and_the_limit() -> None:
    with pytest.raises(
        ShotfitError, match=r"^'cat cat .*\.\.\.' has 60 tokens, but the text tower has room for 22; shorten"
    ):
        clip_pair().encode(["cat " * 30])


def test_truncated_text_keeps_its_end() -> None:
    tokenizer = clip_pair()
    (row,) = tokenizer.encode(["cat " * 30], truncate=True)
    assert len(row) == tokenizer.context
    assert row[1:-1] == tokenizer.tokens("cat " * 30)[:22]
    assert row[-1] == 593


def test_one_string_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError, match="not one string"):
        clip_pair().encode("cat")


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ShotfitError, match=r"is not valid Unicode"):
        clip_pair().encode(["a \udcff"])


@pytest.mark.parametrize("text", ["a <|endoftext|> b", "<|ENDOFTEXT|>", "<|startoftext|>"])
def test_class_name_with_a_special_token_is_refused(text: str) -> None:
    with pytest.raises(ShotfitError, match="holds the special token"):
        clip_pair().check(text)


def test_plain_class_name_passes_the_check() -> None:
    clip_pair().check("a photo of a {}.")


def test_tokenizer_of_another_checkpoint_is_refused_by_its_end() -> None:
    with pytest.raises(ShotfitError, match="ends a text with id 593, but the checkpoint reads texts at id 500"):
        HuggingFaceTokenizer.read(PAIR, dataclasses.replace(PLAIN, end=500), "clip")


def test_tokenizer_with_more_ids_than_the_tower_is_refused() -> None:
    with pytest.raises(ShotfitError, match="beyond the text tower's 400 ids"):
        HuggingFaceTokenizer.read(PAIR, dataclasses.replace(PLAIN, vocabulary=400, pooling="largest"), "clip")


def test_broken_merges_are_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ShotfitError, match=r"vocab\.json and merges\.txt beside it are no byte-pair vocabulary"):
        load_tokenizer(tmp_path, PLAIN, "clip")


# tokenizer.json


def save_pair_as_json(folder: Path, drop_frame: bool = False) -> None:
    clip_pair()._backend.save(str(folder / "tokenizer.json"))  # type: ignore[attr-defined]
    if drop_frame:
        content = json.loads((folder / "tokenizer.json").read_text())
        content["post_processor"] = None
        (folder / "tokenizer.json").write_text(json.dumps(content))


def test_tokenizer_file_gives_the_ids_of_vocabulary_and_merges(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path)
    tokenizer = load_tokenizer(tmp_path, PLAIN, "clip")
    assert tokenizer is not None
    assert tokenizer.encode(["Highway or Road", ""]) == clip_pair().encode(["Highway or Road", ""])
    assert (tokenizer.start, tokenizer.end, tokenizer.padding) == ((592,), (593,), None)


def test_start_and_end_are_found_by_name_where_the_file_adds_none(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path, drop_frame=True)
    assert HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip").encode(["cat"]) == clip_pair().encode(["cat"])


def test_tokenizer_without_any_end_is_refused(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path, drop_frame=True)
    write_settings(tmp_path, eos_token="[END]")
    with pytest.raises(ShotfitError, match="puts no end token after a text and names none"):
        HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip")


def test_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ShotfitError, match=r"tokenizer\.json is no tokenizer file .*\(.+\); fetch"):
        load_tokenizer(tmp_path, PLAIN, "clip")


def test_settings_that_are_no_json_are_named(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ShotfitError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(tmp_path, PLAIN, "clip")


def test_tower_that_reads_padding_gets_full_rows(tmp_path: Path) -> None:
    save_pair_as_json(tmp_path)
    config = dataclasses.replace(PLAIN, causal=False, pooling="last", padding=0)
    tokenizer = load_tokenizer(tmp_path, config, "clip")
    assert tokenizer is not None
    (row,) = tokenizer.encode(["cat"])
    assert len(row) == config.context
    assert set(row[row.index(593) + 1 :]) == {0}


# SigLIP


def test_siglip_rows_end_and_are_padded_to_the_context(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    write_settings(tmp_path, pad_token="</s>", eos_token="</s>")
    tokenizer = load_tokenizer(tmp_path, SIGLIP, "siglip")
    assert tokenizer is not None
    assert tokenizer.encode(["A Dog!", ""]) == [[4, 5, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert tokenizer.count("a dog") == 2


def test_siglip_truncates_before_its_end(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    tokenizer = HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip")
    assert tokenizer.encode(["a red dog a cat a red"], truncate=True) == [[4, 7, 5, 4, 6, 1]]
    with pytest.raises(ShotfitError, match="has 7 tokens, but the text tower has room for 5"):
        tokenizer.encode(["a red dog a cat a red"])


def test_siglip_end_and_padding_come_from_the_names_beside_the_file(tmp_path: Path) -> None:
    write_siglip(tmp_path, end=False)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    tokenizer = HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip")
    assert tokenizer.encode(["a dog"]) == [[4, 5, 1, 2, 2, 2]]


def test_siglip_lower_case_is_added_where_the_file_leaves_it_to_its_class(tmp_path: Path) -> None:
    write_siglip(tmp_path, lower_case=False)
    write_settings(tmp_path, tokenizer_class="Siglip2Tokenizer", pad_token="</s>")
    assert HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip").tokens("A DOG") == [4, 5]


@pytest.mark.parametrize("settings", [{}, {"tokenizer_class": "GemmaTokenizer"}, {"do_lower_case": True}])
def test_siglip_reads_lower_case_whatever_class_its_file_names(tmp_path: Path, settings: dict[str, object]) -> None:
    write_siglip(tmp_path, lower_case=False)
    write_settings(tmp_path, pad_token="</s>", **settings)
    assert HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip").tokens("A DOG") == [4, 5]


def test_siglip_keeps_capitals_where_its_file_says_so(tmp_path: Path) -> None:
    write_siglip(tmp_path, lower_case=False)
    write_settings(tmp_path, pad_token="</s>", do_lower_case=False)
    assert HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip").tokens("a DOG") != [4, 5]


def test_siglip_class_name_with_its_end_is_refused(tmp_path: Path) -> None:
    write_siglip(tmp_path)
    with pytest.raises(ShotfitError, match="holds the special token </s>"):
        HuggingFaceTokenizer.read(tmp_path, SIGLIP, "siglip").check("a </S> dog")


def test_siglip_without_a_file_has_no_tokenizer(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path, SIGLIP, "siglip") is None


def test_small_vocabulary_without_a_file_has_no_tokenizer() -> None:
    assert load_tokenizer(None, PLAIN, "clip") is None


# identity


def test_identity_is_that_of_the_files_and_settings(tmp_path: Path) -> None:
    first, second = clip_pair(), clip_pair()
    shorter = HuggingFaceTokenizer.read(PAIR, dataclasses.replace(PLAIN, context=12), "clip")
    assert first.identity == second.identity
    assert len({first.identity, shorter.identity, OpenAITokenizer().identity}) == 3
    assert len(first.identity) == 64


def test_identity_follows_a_changed_file(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((PAIR / name).read_bytes())
    (tmp_path / "merges.txt").write_text((tmp_path / "merges.txt").read_text() + "as t\n")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"ast": 591}))
    assert HuggingFaceTokenizer.read(tmp_path, PLAIN, "clip").identity != clip_pair().identity


# OpenAI's


def clip_config(context: int = 77) -> TextConfig:
    return dataclasses.replace(PLAIN, vocabulary=49_408, context=context, pooling="largest", end=None, padding=0)


def test_clip_without_files_reads_openai_vocabulary(tmp_path: Path) -> None:
    assert isinstance(load_tokenizer(tmp_path, clip_config(), "clip"), OpenAITokenizer)


def test_missing_extra_is_named_when_text_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    towers_tokenizers._byte_pairs.cache_clear()
    towers_tokenizers._piece_tokens.cache_clear()
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    monkeypatch.setattr(sys, "version_info", (3, 11))
    tokenizer = load_tokenizer(None, clip_config(), "clip")
    assert tokenizer is not None
    with pytest.raises(ShotfitError, match=r"pip install 'shotfit\[clip\]', or put tokenizer\.json beside"):
        tokenizer.encode(["a dog"])
    monkeypatch.setattr(sys, "version_info", (3, 13))
    with pytest.raises(ShotfitError, match=r"put tokenizer\.json beside it \(or use Python 3\.12 or older"):
        tokenizer.encode(["a dog"])


def test_missing_ftfy_is_named_by_a_text_that_it_cleans(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaning._fix_text.cache_clear()
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert lowered(" A  dog. ") == "a dog."
    with pytest.raises(ShotfitError, match=r"cleaned by ftfy .* run pip install 'shotfit\[clip\]'"):
        OpenAITokenizer().encode(["un café"])


@needs_clip
def test_openai_row_has_clips_ids() -> None:
    assert OpenAITokenizer().encode(["a photo of a dog", ""]) == [
        [49406, 320, 1125, 539, 320, 1929, 49407],
        [49406, 49407],
    ]


@needs_clip
@pytest.mark.parametrize(
    ("text", "same"),
    [("x\0y", "xy"), ("black &amp;amp; white", "black & white"), ("cafÃ©", "café"), ("  a\t\nDOG ", "a dog")],
)
def test_openai_cleaning_repairs_text(text: str, same: str) -> None:
    assert lowered(text) == same
    assert OpenAITokenizer().tokens(text) == OpenAITokenizer().tokens(same)


@needs_clip
def test_special_token_is_one_only_where_a_piece_begins() -> None:
    tokenizer = OpenAITokenizer()
    assert tokenizer.tokens("a<|EndOfText|>") == [320, 49407]
    assert 49407 not in tokenizer.tokens("a!<|endoftext|>")


@needs_clip
@pytest.mark.parametrize("text", ["a <|EndOfText|>", "a!<|endoftext|>", "&lt;|endoftext|&gt;", "<|startoftext|>"])
def test_openai_class_name_with_a_special_token_is_refused(text: str) -> None:
    with pytest.raises(ShotfitError, match="holds the special token"):
        OpenAITokenizer().check(text)


@needs_clip
def test_openai_context_below_77_limits_the_text() -> None:
    assert OpenAITokenizer(4).encode(["a photo of a dog"], truncate=True) == [[49406, 320, 1125, 49407]]
    assert OpenAITokenizer(2).encode(["a"], truncate=True) == [[49406, 49407]]
    with pytest.raises(ShotfitError, match="has 5 tokens, but the text tower has room for 2"):
        OpenAITokenizer(4).encode(["a photo of a dog"])
    with pytest.raises(ShotfitError, match="no room for a text's start and end"):
        OpenAITokenizer(1)


@needs_clip
def test_very_long_text_is_cut() -> None:
    (row,) = OpenAITokenizer().encode(["word " * 20_000], truncate=True)
    assert len(row) == 77


@needs_clip
def test_combining_marks_and_long_s_split_as_openai_splits() -> None:
    tokenizer = OpenAITokenizer()
    assert tokenizer.tokens("a\u0345b") == tokenizer.tokens("a b")
    assert tokenizer.tokens("'\u017f") == [6, 129, 379]


@needs_clip
@given(st.text(max_size=40))
def test_every_text_has_a_row_within_the_context(text: str) -> None:
    (row,) = OpenAITokenizer(16).encode([text], truncate=True)
    assert 2 <= len(row) <= 16
    assert (row[0], row[-1]) == (49406, 49407)
    assert all(0 <= token < 49408 for token in row)


@needs_clip
@given(st.lists(st.sampled_from(["cat", "dog's", "12", "naïve", "-", "日本"]), max_size=6))
def test_words_between_spaces_encode_by_themselves(words: list[str]) -> None:
    tokenizer = OpenAITokenizer()
    assert tokenizer.tokens(" ".join(words)) == [token for word in words for token in tokenizer.tokens(word)]
