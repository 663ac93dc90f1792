"""A training step keeps to its budget, streams lie in files, and a long training says what it will take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen, ImagePool, Images
from shotfit.engine.plans import activation_bytes
from shotfit.engine.resident import Rows
from shotfit.engine.store import MemoryStore, Store
from shotfit.fitting import train as training
from shotfit.fitting.fit import fit
from shotfit.testing.tiny import random_backbone, tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, BlocksConfig, ImageConfig, TextConfig
from shotfit.towers.edits import Adapter, Context
from shotfit.towers.layout import Savings
from shotfit.towers.preprocess import clip_preprocessing
from shotfit.towers.texts import Texts

VOCABULARY, LEARNED, LAYERS = 300, 4, 4
BLOCKS = BlocksConfig(64, LAYERS, 4, 256, "quick_gelu", 1e-5)
BOTH = pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    text = TextConfig(VOCABULARY, 77, BLOCKS, 32, True, "end", VOCABULARY - 1, 0, False)
    image = ImageConfig(32, 8, BLOCKS, 32, True, False, True, "token", True)
    return random_backbone(BackboneConfig(image, text, clip_preprocessing(32), False))


@pytest.fixture
def texts() -> Texts:
    """A start, the learned context, a name of one to five tokens, at times of twelve, and an end: 200 classes."""
    context, lengths = range(VOCABULARY, VOCABULARY + LEARNED), (1, 2, 12, 1, 3, 1, 2, 4, 1, 5)
    return Texts.of([1, *context, *[2 + number] * lengths[number % 10], VOCABULARY - 1] for number in range(200))


def kept(backbone: Backbone, run: Callable[[], Tensor]) -> int:
    """Bytes of all that autograd keeps of a call, weights apart."""
    weights = {value.untyped_storage().data_ptr() for value in backbone.state_dict().values()}
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)  # alive, so that no two have one address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert run().requires_grad
    storages = {storage.data_ptr(): storage.nbytes() for storage in map(Tensor.untyped_storage, tensors)}
    return sum(size for place, size in storages.items() if place not in weights)


@BOTH
def test_what_gated_blocks_keep_is_what_is_counted(savings: Savings) -> None:
    blocks = replace(BLOCKS, activation="gelu", gated=True, inner_norms=True)
    text = TextConfig(VOCABULARY, 77, BLOCKS, 32, True, "end", VOCABULARY - 1, 0, False)
    image = ImageConfig(32, 8, blocks, 32, True, False, True, "token", True, rotary=True)
    backbone = random_backbone(BackboneConfig(image, text, clip_preprocessing(32), False))
    frozen, matrix = Frozen(backbone, savings=savings), torch.zeros(64, 64, requires_grad=True)
    images = Images.of(torch.randn(20, 3, 32, 32))
    found = kept(backbone, lambda: frozen.image(images, [Adapter("image", 0, lambda x: x @ matrix)]))
    assert found <= activation_bytes(blocks, 20 * 17, 20 * 17, LAYERS, 0, savings, 4) <= 2 * found


def context() -> Context:
    values = torch.randn(LEARNED, BLOCKS.width, generator=torch.Generator().manual_seed(1))
    return Context(values.requires_grad_())


@BOTH
def test_what_texts_keep_is_what_is_counted(backbone: Backbone, texts: Texts, savings: Savings) -> None:
    frozen = Frozen(backbone, savings=savings)
    found = kept(backbone, lambda: frozen.text(texts, [context()]))
    layout = backbone.text.pack(texts, savings).layout
    visible = layout.own.longest + layout.shared.longest if layout.shared else 0
    places = layout.own.rows * layout.own.longest + (layout.shared.tokens if layout.shared else 0)
    counted = activation_bytes(BLOCKS, layout.tokens, places, LAYERS, visible, savings, 4)
    assert found <= counted <= 2 * found


@BOTH
def test_what_images_keep_is_what_is_counted(backbone: Backbone, savings: Savings) -> None:
    frozen, matrix = Frozen(backbone, savings=savings), torch.zeros(BLOCKS.width, BLOCKS.width, requires_grad=True)
    images = Images.of(torch.randn(20, 3, 32, 32))
    found = kept(backbone, lambda: frozen.image(images, [Adapter("image", 0, lambda x: x @ matrix)]))
    counted = activation_bytes(BLOCKS, 20 * 17, 20 * 17, LAYERS, 0, savings, 4)
    assert found <= counted <= 2 * found


def test_chunks_are_as_many_as_the_budget_asks_for(backbone: Backbone, texts: Texts) -> None:
    whole, bound = Frozen(backbone), Frozen(backbone, memory=1_000_000)
    whole.plans, bound.plans = [], []
    features, chunked = whole.text(texts, [one := context()]), bound.text(texts, [other := context()])
    chunks = bound.plans[-1].chunks
    assert whole.plans[-1].chunks == 1 and 5 < chunks < len(texts)
    torch.testing.assert_close(chunked, features, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(f.sum(), c.vectors)[0] for f, c in ((features, one), (chunked, other))]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    part = texts[: -(-len(texts) // chunks)]
    assert kept(backbone, lambda: Frozen(backbone).text(part, [context()])) <= 500_000  # half a budget for each tower


def test_streams_are_read_from_their_files_by_batch(tmp_path: Path) -> None:
    backbone, pool = tiny_backbone(tmp_path / "backbone"), ImagePool(tiny_task(tmp_path / "images").train)
    edits = [Adapter("image", 2, lambda x: x)]
    rows: list[Rows] = []
    for _ in range(2):  # computed and written, then found
        frozen = Frozen(backbone, Store(tmp_path / "store"))
        features = frozen.image(pool.all(), edits)
        rows += frozen._read[pool].values()
        torch.testing.assert_close(frozen.image(pool.take(torch.tensor([4, 1])), edits), features[[4, 1]])
    assert [row.all for row in rows] == [None, None]
    computed = [torch.full((1, 3), float(number)) for number in range(2)]
    held = Store(tmp_path / "other").held({"a": 1}, ["0", "1"], lambda missing: iter(computed), "counting")
    assert [row.tolist() for row in held] == [[0.0] * 3, [1.0] * 3]
    assert {row.data_ptr() for row in held}.isdisjoint(tensor.data_ptr() for tensor in computed)


def test_long_training_says_first_what_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, backbone = tiny_task(tmp_path / "images"), tiny_backbone(tmp_path / "backbone")

    def said() -> list[str]:
        fit(task, "taskres", shots=2, epochs=6, backbone=backbone, store=MemoryStore())
        return capsys.readouterr().err.splitlines()

    assert said() == []
    monkeypatch.setattr(training, "LONG", 0.0)
    (line,) = said()
    told = r"Fitting taskres: about \d+ s for 6 steps and 2 more such fits to check it, \d+\.\d GB of memory"
    assert re.fullmatch(told, line), line
