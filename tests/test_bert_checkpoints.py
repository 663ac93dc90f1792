"""Checkpoints with a text tower of BERT's kind: what is read from where, and what is refused in one line."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from shotfit.checkpoints.bert_text import KNOWN, bert_of_open_clip
from shotfit.checkpoints.settings import Settings
from shotfit.checkpoints.weights import load_backbone, save_backbone
from shotfit.errors import ShotfitError
from shotfit.towers.config import BertConfig
from shotfit.towers.preprocess import preprocess

from .test_bert_equality import CONFIGS, DUAL, SIZES, texts_of, write_open_clip
from .test_bert_tokenizers import word_pieces

WEIGHTS, OPEN_CLIP, TEXT = "open_clip_model.safetensors", "open_clip_config.json", "config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An open_clip folder with BERT in it, its text model's configuration, and a tokenizer."""
    write_open_clip(tmp_path, "bert", "cls_last_hidden_state_pooler", "mlp")
    word_pieces(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("".join(f"{line}\n" for line in lines[: SIZES["vocab_size"]]))
    return tmp_path


def change(file: Path, path: str, value: Any) -> None:
    """One entry of a JSON file, by its path; None takes it out."""
    content = json.loads(file.read_text())
    *sections, name = path.split(".")
    section = content
    for key in sections:
        section = section[key]
    if value is None:
        section.pop(name, None)
    else:
        section[name] = value
    file.write_text(json.dumps(content))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ShotfitError, match=message) as refusal:
        load_backbone(folder)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600


# What is read


def test_tokenizer_beside_the_weights_reads_texts(folder: Path) -> None:
    backbone = load_backbone(folder)
    (row,) = backbone.encode(["A photo &amp; a dog."])
    assert row == backbone.encode(["a  photo & a dog."])[0] and row[0] == 2 and row[-1] == 3
    assert backbone.checked_tokenizer().context == 20  # context_length of the configuration


def test_context_is_bounded_by_the_table_of_positions(folder: Path) -> None:
    change(folder / OPEN_CLIP, "model_cfg.text_cfg.context_length", None)  # 77, but there are 24 positions
    assert load_backbone(folder).config.text.context == 24


def test_saved_backbone_opens_as_the_same(folder: Path, tmp_path: Path) -> None:
    backbone = load_backbone(folder)
    save_backbone(backbone, tmp_path / "saved", tokenizer=folder)
    again = load_backbone(tmp_path / "saved")
    assert again.fingerprint == backbone.fingerprint and again.encode(["a dog"]) == backbone.encode(["a dog"])
    ids = torch.tensor([[2, 7, 8, 3]])
    assert torch.equal(texts_of(again, ids), texts_of(backbone, ids))


def test_pooler_that_nothing_reads_is_passed_over(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["text.transformer.pooler.dense.weight"] = torch.zeros(48, 48)
    weights["text.transformer.pooler.dense.bias"] = torch.zeros(48)
    fingerprint = load_backbone(folder).fingerprint
    save_file(weights, folder / WEIGHTS)
    assert load_backbone(folder).fingerprint == fingerprint


def test_entries_left_out_have_open_clip_s_defaults(tmp_path: Path) -> None:
    write_open_clip(tmp_path, "roberta", "mean_pooler", "mlp")
    fingerprint = load_backbone(tmp_path).fingerprint
    for name in ("hf_pooler_type", "hf_proj_type"):
        change(tmp_path / OPEN_CLIP, f"model_cfg.text_cfg.{name}", None)
    assert load_backbone(tmp_path).fingerprint == fingerprint


@pytest.mark.parametrize("name", [*KNOWN, "google-bert/bert-base-uncased", "FacebookAI/xlm-roberta-large"])
def test_known_names_have_their_sizes(name: str, tmp_path: Path) -> None:
    text, tables = bert_of_open_clip(Settings({"hf_model_name": name, "context_length": 9999}, "here"), 512, tmp_path)
    assert text.context == 512 and text.blocks.layers == (24 if "large" in name else 12)
    assert text.blocks.width == 64 * text.blocks.heads and text.blocks.mlp_width == 4 * text.blocks.width
    family = "xlm" if "xlm" in name else "roberta" if "roberta" in name else "bert"
    assert text.vocabulary == {"xlm": 250002, "roberta": 50265, "bert": 30522}[family]
    assert (text.padding, tables.skipped, tables.types) == ((0, 0, 2) if family == "bert" else (1, 2, 1))


def test_images_of_chinese_clip_are_prepared_as_the_library_does(tmp_path: Path) -> None:
    vision = {key: value for key, value in SIZES.items() if not key.startswith(("vocab", "max"))}
    DUAL["chinese_clip"](SIZES, {**vision, "image_size": 32, "patch_size": 16}).save_pretrained(tmp_path)
    published = {  # by the keys of the model's own file
        "feature_extractor_type": "ChineseCLIPFeatureExtractor",
        **{"do_center_crop": False, "do_resize": True, "do_normalize": True, "resample": 3},
        "size": {"height": 32, "width": 32},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(published))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    made: Any = transformers.ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    expected = torch.as_tensor(np.asarray(made(picture)["pixel_values"][0]))
    found = preprocess(picture, load_backbone(tmp_path).config.preprocessing)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# What is refused


def test_text_tower_alone_is_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in weights.items() if name.startswith("text.")}, folder / WEIGHTS)
    refused(folder, r"lacks \d+ tensors: visual\.")


def test_image_tower_alone_is_refused(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in weights.items() if not name.startswith("text.")}, folder / WEIGHTS)
    refused(folder, r"lacks \d+ tensors: text\.transformer\.embeddings")


def test_text_model_of_hugging_face_alone_is_refused(tmp_path: Path) -> None:
    transformers.BertModel(CONFIGS["bert"]).save_pretrained(tmp_path)
    refused(tmp_path, "model_type 'bert' is not supported, expected one of 'clip', .* with both towers")


def test_missing_tokenizer_is_said_when_a_text_is_read(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    backbone = load_backbone(folder)
    with pytest.raises(ShotfitError, match=r"has no tokenizer, .* put its tokenizer\.json beside the weights"):
        backbone.encode(["a dog"])


TOO_MANY = 10**9
FAULTS: dict[str, tuple[str, str, Any, str]] = {
    "another width": (TEXT, "hidden_size", 96, r"has shape \[24, 48\], but the configuration asks for \[24, 96\]"),
    "another MLP": (TEXT, "intermediate_size", 96, r"has shape \[80, 48\], but the configuration asks for \[96, 48\]"),
    "other positions": (TEXT, "max_position_embeddings", 512, r"asks for \[512, 48\]"),
    "another vocabulary": (TEXT, "vocab_size", 30522, r"asks for \[30522, 48\]"),
    "other types": (TEXT, "type_vocab_size", 3, r"asks for \[3, 48\]"),
    "fewer blocks": (TEXT, "num_hidden_layers", 2, r"16 tensors that this architecture has no place for"),
    "more blocks": (TEXT, "num_hidden_layers", 4, r"lacks 16 tensors: text\.transformer\.encoder\.layer\.3"),
    "heads that do not fit": (TEXT, "num_attention_heads", 7, r"expected a divisor of hidden_size \(48\)"),
    "a billion blocks": (TEXT, "num_hidden_layers", TOO_MANY, "the number of layers is 1000000000, expected 1 to"),
    "a billion words": (TEXT, "vocab_size", TOO_MANY, "the size of the vocabulary is 1000000000, expected 1 to"),
    "a billion positions": (TEXT, "max_position_embeddings", TOO_MANY, r"asks for \[1000000000, 48\]"),
    "a billion types": (TEXT, "type_vocab_size", TOO_MANY, r"asks for \[1000000000, 48\]"),
    "a billion channels": (TEXT, "hidden_size", TOO_MANY, "the width of a tower is 1000000000, expected 1 to"),
    "no positions at all": (TEXT, "max_position_embeddings", 0, "expected a whole number, 1 or more"),
    "a decoder": (TEXT, "is_decoder", True, "is_decoder is True, expected false"),
    "relative positions": (TEXT, "position_embedding_type", "relative_key", "expected one of absolute"),
    "an unknown activation": (TEXT, "hidden_act", "mish", "hidden_act is 'mish', expected one of gelu"),
    "code of its own": (TEXT, "auto_map", {"AutoModel": "evil.Model"}, r"code of its own \(auto_map\)"),
    "an unknown pooler": ("open_clip", "hf_pooler_type", "last_pooler", "'last_pooler', expected one of cls_last"),
    "an unknown projection": ("open_clip", "hf_proj_type", "conv", "'conv', expected one of linear, mlp, none"),
    "no projection": ("open_clip", "hf_proj_type", "none", "text features are 48 wide, but the joint space 16"),
    "another projection": ("open_clip", "hf_proj_type", "linear", r"lacks 1 tensor: text\.proj\.weight"),
    "BERT's pooler": ("open_clip", "hf_pooler_type", "cls_pooler", r"lacks 2 tensors: text\.transformer\.pooler"),
    "a name that is none": ("open_clip", "hf_model_name", 7, "hf_model_name 7 is no text tower"),
    "an unknown entry": ("open_clip", "lora_rank", 8, "lora_rank = 8 is not supported"),
    "another joint space": ("open_clip", "-embed_dim", 24, r"visual\.proj has shape \[64, 16\]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_configuration_that_does_not_fit_is_refused_in_a_line(fault: str, folder: Path) -> None:
    file, entry, value, message = FAULTS[fault]
    if file == "open_clip":
        place = f"model_cfg.{entry[1:]}" if entry.startswith("-") else f"model_cfg.text_cfg.{entry}"
        if entry == "hf_model_name":
            (folder / TEXT).unlink()
        change(folder / OPEN_CLIP, place, value)
    else:
        change(folder / TEXT, entry, value)
    refused(folder, message)


@pytest.mark.parametrize(
    "beside",
    [
        None,
        {"model_type": "mt5"},
        {"model_cfg": {}},
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"model_type": ["bert"]},
    ],
)
@pytest.mark.parametrize("name", ["google/mt5-base", "/etc/passwd", "../bert-base-uncased", "anybody/any" * 999])
def test_unknown_text_model_is_refused_and_never_looked_for(
    name: str, beside: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connected)
    change(folder / OPEN_CLIP, "model_cfg.text_cfg.hf_model_name", name)
    (folder / "evil.py").write_text("raise SystemExit('run')")
    (folder / TEXT).write_text(json.dumps(beside)) if beside else (folder / TEXT).unlink()
    refused(folder, r"is no text tower whose sizes shotfit knows\. If it is BERT, RoBERTa or XLM-RoBERTa")


def test_weights_of_any_name_are_open_clip_s_where_the_other_file_is_of_the_text_model(folder: Path) -> None:
    fingerprint = load_backbone(folder).fingerprint
    for name in ("model.safetensors", "epoch_3.safetensors"):
        (folder / WEIGHTS).rename(folder / name)
        found = load_backbone(folder if name == "model.safetensors" else folder / name)
        assert found.fingerprint == fingerprint
        (folder / name).rename(folder / WEIGHTS)


READ = {
    TEXT: ["model_type", "is_decoder", "add_cross_attention", "hidden_act", "layer_norm_eps", "pad_token_id", *SIZES],
    OPEN_CLIP: [f"model_cfg.text_cfg.{name}" for name in ("hf_pooler_type", "hf_proj_type", "context_length")],
}
ODD = [-1, 0, 2**31, 10**30, 1.5, 1e300, float("nan"), True, "", "x" * 9_999, "\x1b[2J", [], [1] * 99, {}, {"a": {}}]


@pytest.mark.parametrize(("file", "entry"), [(file, entry) for file, entries in READ.items() for entry in entries])
def test_odd_values_are_one_line_or_nothing(file: str, entry: str, folder: Path) -> None:
    before = (folder / file).read_text()
    for value in ODD:
        (folder / file).write_text(before)
        change(folder / file, entry, value)
        try:
            load_backbone(folder)
        except ShotfitError as refusal:
            assert "\n" not in str(refusal) and "\x1b" not in str(refusal) and len(str(refusal)) < 600


def test_known_name_with_other_weights_is_refused(folder: Path) -> None:
    change(folder / OPEN_CLIP, "model_cfg.text_cfg.hf_model_name", "roberta-base")
    (folder / TEXT).unlink()
    refused(folder, r"position_embeddings\.weight has shape \[24, 48\], but the configuration asks for \[514, 768\]")


def changed_dual(entry: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / TEXT, entry, value)


@pytest.mark.parametrize(
    ("kind", "fault", "message"),
    [
        (
            "vision-text-dual-encoder",
            changed_dual("vision_config.model_type", "vit"),
            "'vit', expected one of clip_vis",
        ),
        ("vision-text-dual-encoder", changed_dual("text_config.model_type", "gpt2"), "'gpt2', expected one of bert"),
        ("vision-text-dual-encoder", changed_dual("projection_dim", 17), r"asks for \[17, 48\]"),
        ("chinese_clip", changed_dual("auto_map", {"AutoModel": "evil.Model"}), r"code of its own \(auto_map\)"),
        ("chinese_clip", changed_dual("text_config.vocab_size", TOO_MANY), "the size of the vocabulary is"),
        ("altclip", changed_dual("projection_dim", 17), r"asks for \[17, "),
        ("altclip", changed_dual("text_config.pad_token_id", 30), "more than the 31 rows that belong to padding"),
    ],
)
def test_dual_encoder_that_does_not_fit_is_refused_in_a_line(
    kind: str, fault: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    vision = {key: value for key, value in SIZES.items() if not key.startswith(("vocab", "max"))}
    DUAL[kind](SIZES, {**vision, "image_size": 32, "patch_size": 16}).save_pretrained(tmp_path)
    assert isinstance(load_backbone(tmp_path).config.text, BertConfig)
    fault(tmp_path)
    refused(tmp_path, message)
