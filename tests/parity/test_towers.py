"""Both towers equal OpenAI's, step by step and in their features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen, Images, normalize
from shotfit.towers.backbone import Backbone
from shotfit.towers.blocks import Block
from shotfit.towers.layout import Savings, Stream
from shotfit.towers.resnet import ModifiedResNet
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import PatchEmbedding, TextTower, TextTransformer, VisionTransformer

from .backbones import build
from .cases import Case, assert_close, cases

TOLERANCE = 1e-5
TOWERS = cases("clip_towers", lambda case: case.meta["method"] == "clip_towers")


@pytest.mark.parametrize("case", TOWERS)
@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
def test_features_and_logits_equal_the_official_ones(case: Case, savings: Savings) -> None:
    frozen = Frozen(build(case), savings=savings)
    image, text = frozen.image(Images.of(case["in/images"])), frozen.text(_texts(case))
    assert_close(image, case["out/image/features"], TOLERANCE)
    assert_close(text, case["out/text/features"], TOLERANCE)
    assert_close(normalize(image), case["out/image/normalized"], TOLERANCE)
    assert_close(normalize(text), case["out/text/normalized"], TOLERANCE)
    assert_close(frozen.logits(image, text), case["out/logits_per_image"], TOLERANCE)
    assert_close(frozen.logits(image, text).T, case["out/logits_per_text"], TOLERANCE)


@pytest.mark.parametrize("case", TOWERS)
def test_texts_are_read_where_the_official_program_reads_them(case: Case) -> None:
    packed = build(case).text.pack(_texts(case), Savings.none())
    rows = torch.arange(len(case["in/tokens"])) * case["in/tokens"].shape[1]
    assert torch.equal(packed.layout.read - rows, case["out/eot"])


@pytest.mark.parametrize("case", TOWERS)
def test_text_steps_equal_the_official_ones(case: Case) -> None:
    tower = build(case).text
    tokens = case["in/tokens"].shape[1]
    places = torch.stack([torch.zeros_like(case["out/eot"]), torch.ones_like(case["out/eot"]), case["out/eot"]], dim=1)

    def chosen(hidden: Tensor) -> Tensor:
        rows = hidden.unflatten(0, (-1, tokens))
        return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[-1]))

    stream = tower.start(_texts(case), savings=Savings.none())
    assert_close(chosen(stream.hidden), case["out/text/embeddings"], TOLERANCE)
    _compare_blocks(case, "text", tower, stream, chosen)


@pytest.mark.parametrize("case", TOWERS)
def test_image_steps_equal_the_official_ones(case: Case) -> None:
    backbone: Backbone = build(case)
    tower, pixels = backbone.image, case["in/images"][:2]
    if isinstance(tower, ModifiedResNet):
        maps = tower.start(pixels)
        assert_close(maps.hidden, case["out/image/stem"], TOLERANCE)
        for stage in range(1, 5):
            maps = tower.run(maps, until=stage)
            assert_close(maps.hidden, case[f"out/image/layer{stage}"], TOLERANCE)
        return
    embedding = tower.embedding
    assert isinstance(embedding, PatchEmbedding)

    def chosen(hidden: Tensor) -> Tensor:
        return hidden.view(2, -1, hidden.shape[-1])[:, [0, 1, -1]]

    assert_close(chosen(embedding.tokens(pixels)), case["out/image/embeddings"], TOLERANCE)
    stream = tower.start(pixels, savings=Savings.none())
    assert_close(chosen(stream.hidden), case["out/image/ln_pre"], TOLERANCE)
    _compare_blocks(case, "image", tower, stream, chosen)


def _compare_blocks(
    case: Case, name: str, tower: TextTower | VisionTransformer, stream: Stream, chosen: object
) -> None:
    assert callable(chosen) and stream.layout is not None
    for index, block in enumerate(tower.blocks):
        assert isinstance(block, Block)
        attended = block.attention(block.norm1(stream.hidden), stream.layout)
        assert_close(chosen(attended), case[f"out/{name}/block/{index}/attn"], TOLERANCE)
        between = stream.hidden + attended
        assert_close(chosen(block.mlp(block.norm2(between))), case[f"out/{name}/block/{index}/mlp"], TOLERANCE)
        stream = tower.run(stream, until=index + 1)
        assert_close(chosen(stream.hidden), case[f"out/{name}/block/{index}"], TOLERANCE)
    assert isinstance(tower, TextTransformer | VisionTransformer)
    norm = tower.final_norm if isinstance(tower, TextTransformer) else tower.post_norm
    place = 2 if name == "text" else 0
    pooled = norm(chosen(stream.hidden)[:, place])
    assert_close(pooled, case[f"out/{name}/pooled"][: len(pooled)], TOLERANCE)


def _texts(case: Case) -> Texts:
    return Texts.of(case["in/tokens"].tolist())
