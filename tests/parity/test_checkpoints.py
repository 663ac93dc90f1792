"""Checkpoints in the real formats: features equal what each format's own library computes from the same folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone, save_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import TextTransformer, VisionTransformer

from .cases import Case, assert_close, cases

TOLERANCE = 1e-5

CASES = cases("checkpoints")


@cache
def opened(path: Path) -> Backbone:
    return load_backbone(path)


def backbone(case: Case) -> Backbone:
    return opened(case.path.parent / case.meta["folder"])


def features(case: Case) -> dict[str, Tensor]:
    towers = backbone(case)
    images = towers.image.finish(towers.image.start(case["in/images"]))
    texts = towers.text.finish(towers.text.start(Texts.of(case["in/tokens"].tolist())))
    return {"image": images, "text": texts}


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_formats_library(case: Case) -> None:
    for tower, found in features(case).items():
        assert_close(found, case[f"out/{tower}/features"], TOLERANCE, tower)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_formats_library(case: Case) -> None:
    towers = backbone(case)
    image, text = (torch.nn.functional.normalize(value, dim=-1) for value in features(case).values())
    logits = towers.logit_scale.exp() * image @ text.t()
    logits = logits if towers.logit_bias is None else logits + towers.logit_bias
    assert_close(logits, case["out/logits_per_image"], TOLERANCE)
    if "out/probabilities" in case:
        assert_close(logits.sigmoid(), case["out/probabilities"], TOLERANCE)


@pytest.mark.parametrize("case", cases("checkpoints", lambda case: "out/image/block/0" in case))
def test_hidden_states_equal_the_formats_library(case: Case) -> None:
    image, text = backbone(case).image, backbone(case).text
    assert isinstance(image, VisionTransformer)
    images = image.start(case["in/images"])
    texts = text.start(Texts.of(case["in/tokens"].tolist()), savings=Savings.none())
    first = [0, 1, -1]  # what is recorded of the first image and the first text
    for name in case.under("out/image/block/"):
        hidden = image.run(images, until=int(name) + 1).hidden.unflatten(0, (len(case["in/images"]), -1))
        assert_close(hidden[:1, first], case[f"out/image/block/{name}"], TOLERANCE, f"image block {name}")
    for name in case.under("out/text/block/"):
        hidden = text.run(texts, until=int(name) + 1).hidden.unflatten(0, (len(case["in/tokens"]), -1))
        assert_close(hidden[:1, first], case[f"out/text/block/{name}"], TOLERANCE, f"text block {name}")
    normed = image.post_norm(image.run(images).hidden).unflatten(0, (len(case["in/images"]), -1))
    assert_close(normed[:1, :3], case["out/image/last_hidden"], TOLERANCE, "image after the final norm")
    assert isinstance(text, TextTransformer)
    normed = text.final_norm(text.run(texts).hidden).unflatten(0, (len(case["in/tokens"]), -1))
    assert_close(normed[:, [0, -1]], case["out/text/last_hidden"], TOLERANCE, "text after the final norm")


@pytest.mark.parametrize("case", cases("checkpoints", lambda case: "out/image/pooled" in case))
def test_pooled_vectors_equal_the_formats_library(case: Case) -> None:
    towers = backbone(case)
    for tower, found in features(case).items():
        projection = towers.state_dict()[f"{tower}.projection.weight"]
        assert_close(case[f"out/{tower}/pooled"] @ projection.t(), found, TOLERANCE, tower)


@pytest.mark.parametrize("case", cases("checkpoints", lambda case: bool(case.meta.get("strings"))))
def test_token_ids_equal_the_formats_library(case: Case) -> None:
    rows = backbone(case).encode(case.meta["strings"])
    for row, recorded in zip(rows, case["in/tokens"].tolist(), strict=True):
        assert row == recorded[: len(row)]
        assert set(recorded[len(row) :]) <= {0, row[-1]}, "after the end token stands padding only"


@pytest.mark.parametrize("case", CASES)
def test_saved_in_our_format_it_is_the_same_backbone(case: Case, tmp_path: Path) -> None:
    source = case.path.parent / case.meta["folder"]
    save_backbone(backbone(case), tmp_path, tokenizer=source if source.is_dir() else None)
    assert load_backbone(tmp_path).fingerprint == backbone(case).fingerprint
