"""A text tower of BERT's kind: edits in plain words, savings, padding; and methods on it: gradients, classes, files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.plans import activation_bytes
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.methods import find
from shotfit.methods.base import Method, Support
from shotfit.testing.tiny import random_backbone, tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.bert import BertTransformer
from shotfit.towers.blocks import Block
from shotfit.towers.config import BertConfig, config_from_dict, config_to_dict
from shotfit.towers.edits import NOTHING, Adapter, Context, Edit, PromptTokens
from shotfit.towers.layout import Savings
from shotfit.towers.texts import Texts

from .test_memory import kept

WIDTH, VOCABULARY, PADDING = 16, 259, 258
# a start, two learned ids, a name of one to three tokens, and an end
TEXTS = Texts.of([[256, 259, 7, 260, *name, 257] for name in ([1], [1, 2], [3, 4, 5], [1, 6], [2])])
Make = Callable[[Tensor], Sequence[Edit]]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    """Read at the first token behind BERT's pooler, averaged in front of an MLP, and the maximum of all tokens."""
    folder = tmp_path_factory.mktemp("backbones")
    made = {"first": tiny_backbone(folder / "first", "bert"), "mean": tiny_backbone(folder / "mean", "bert_mean")}
    text = made["mean"].config.text
    assert isinstance(text, BertConfig)
    most = replace(text, pooling="max", final_norm=True, projection="linear", projection_bias=True)
    made["max"] = random_backbone(replace(made["mean"].config, text=most), made["mean"].tokenizer)
    return {name: backbone.double() for name, backbone in made.items()}


def adapters(*blocks: int, through_norm: bool = True) -> Make:
    return lambda p: [Adapter("text", block, lambda x: torch.tanh(x @ p), through_norm) for block in blocks]


def prompts(*blocks: int, position: int = 1) -> Make:
    return lambda p: [PromptTokens("text", block, p[block : block + 3], position=position) for block in blocks]


EDITS: dict[str, tuple[Make, int]] = {
    "a context": (lambda p: [], NOTHING),
    "adapters beside the upper blocks": (adapters(2, 3), 2),
    "an adapter beside the last block": (adapters(3, through_norm=False), 3),
    "an adapter on the words": (adapters(0, 1), NOTHING),
    "prompts and adapters": (lambda p: [*prompts(2, 3)(p), *adapters(2)(p)], 1),
    "prompts on names of unequal length": (prompts(3, position=5), 2),
}


def outcome(backbone: Backbone, savings: Savings, make: Make, texts: Texts = TEXTS) -> list[Tensor]:
    """Features, and the gradients of a context and of the other edits' parameter."""
    generator = torch.Generator().manual_seed(1)
    context, matrix = (torch.randn(n, WIDTH, dtype=torch.double, generator=generator) for n in (2, WIDTH))
    context.requires_grad_(), matrix.requires_grad_()
    features = Frozen(backbone, MemoryStore(), savings).text(texts, [Context(context), *make(matrix)])
    weights = torch.arange(features.numel(), dtype=torch.double).cos().view_as(features)
    gradients = torch.autograd.grad((features * weights).sum(), (context, matrix), materialize_grads=True)
    return [features.detach(), *gradients]


def some_savings() -> Iterator[Savings]:
    for values in itertools.product((True, False), repeat=4):
        names = ("frozen_beginning", "cut", "shared", "read_alone")
        yield replace(Savings.none(), **dict(zip(names, values, strict=True)))
    yield Savings()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(float(expected.abs().max()), 1e-30))


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
@pytest.mark.parametrize("name", EDITS)
def test_every_combination_of_savings_gives_the_same(name: str, pooling: str, backbones: dict[str, Backbone]) -> None:
    expected = outcome(backbones[pooling], Savings.none(), EDITS[name][0])
    for savings in some_savings():
        for one, other in zip(expected, outcome(backbones[pooling], savings, EDITS[name][0]), strict=True):
            close(other, one)


@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_padding_behind_a_text_changes_nothing(pooling: str, backbones: dict[str, Backbone]) -> None:
    padded = Texts.of([*row, *[PADDING] * (number % 3)] for number, row in enumerate(TEXTS.rows))
    for savings in (Savings(), Savings.none()):
        for one, other in zip(
            outcome(backbones[pooling], savings, adapters(2)),
            outcome(backbones[pooling], savings, adapters(2), padded),
            strict=True,
        ):
            close(other, one)


def block(self: Block, x: Tensor) -> Tensor:
    """A block on [1, tokens, width], in plain words."""
    tokens, heads = x.shape[1], self.attention.heads
    query, key, value = self.attention.qkv(x).view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    h = self.norm1(x + self.attention.out((weights @ value).transpose(0, 1).reshape(1, tokens, -1)))
    return self.norm2(h + self.mlp(h))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
def test_edits_do_what_they_say(pooling: str, backbones: dict[str, Backbone]) -> None:
    backbone, p = backbones[pooling], torch.randn(WIDTH, WIDTH, dtype=torch.double)
    tower, rows = backbone.text, []
    assert isinstance(tower, BertTransformer)
    for row in TEXTS.rows:
        words = [tower.token_embedding.weight[token] if token < VOCABULARY else p[token - VOCABULARY] for token in row]
        x = torch.stack(words)[None]
        x = x + torch.tanh(x @ p)
        x = tower.embedding_norm(x + tower.positions[: len(row)] + tower.token_type)
        for number, each in enumerate(tower.blocks, start=1):
            assert isinstance(each, Block)
            if number == 2:
                x = torch.cat([x[:, :1], p[None, 2:5], x[:, 4:]], dim=1)
            x = block(each, x) + (torch.tanh(x @ p) if number in (2, 3) else 0)  # reads what attention reads: x
        rows.append({"first": x[:, 0], "mean": x.mean(1), "max": x.amax(1)}[pooling])
    expected = tower.projection(tower.pooler(tower.final_norm(torch.cat(rows))))
    edits = [Context(p[:2]), *adapters(0, 2, 3)(p), *prompts(2)(p)]
    torch.testing.assert_close(Frozen(backbone).text(TEXTS, edits), expected, rtol=0, atol=1e-12)


def test_texts_run_without_their_padding_and_share_nothing(backbones: dict[str, Backbone]) -> None:
    for pooling, alone in (("first", True), ("mean", False)):
        frozen = Frozen(backbones[pooling], MemoryStore())
        frozen.plans = []
        frozen.text(TEXTS, [Context(torch.zeros(2, WIDTH, dtype=torch.double))])
        (plan,) = frozen.plans
        assert (plan.tokens, plan.padded_tokens) == (sum(map(len, TEXTS.rows)), 5 * 77)
        assert plan.shared == () and plan.read_alone is alone


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("savings", [Savings(), Savings.none()], ids=["savings", "none"])
def test_what_texts_keep_is_what_is_counted(pooling: str, savings: Savings, backbones: dict[str, Backbone]) -> None:
    small, context = backbones[pooling], torch.zeros(4, 64, requires_grad=True)
    text = small.config.text
    text = replace(text, blocks=replace(text.blocks, width=64, heads=4, mlp_width=256, layers=4))
    backbone = random_backbone(replace(small.config, text=text))
    lengths = (1, 2, 12, 1, 3, 1, 2, 4, 1, 5)
    texts = Texts.of([256, *range(259, 263), *[2 + n] * lengths[n % 10], 257] for n in range(200))
    found = kept(backbone, lambda: Frozen(backbone, savings=savings).text(texts, [Context(context)]))
    layout = backbone.text.pack(texts, savings).layout
    places = layout.own.rows * layout.own.longest
    assert found <= activation_bytes(text.blocks, layout.tokens, places, 4, 0, savings, 4) <= 2 * found


def test_configuration_as_json_comes_back(backbones: dict[str, Backbone]) -> None:
    config = backbones["max"].config
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert plain["text"]["kind"] == "bert" and config_from_dict(plain) == config
    for changed, message in (
        ({"kind": "t5"}, "text.kind is 't5', expected 'bert' or nothing"),
        ({"x": 1}, "x: unknown"),
    ):
        with pytest.raises(ShotfitError, match=message):
            config_from_dict({**plain, "text": {**plain["text"], **changed}})


# Methods

FIVE: dict[str, dict[str, str]] = {
    "coop": {"length": "4", "position": "middle"},
    "softcpt": {"variant": "cata", "length": "3", "class_length": "2"},
    "apex": {"visual_depth": "2", "text_depth": "3", "text_tokens": "3"},
    "mma": {"scale": "0.5", "start": "0", "end": "1"},
    "dualadapter": {},
}
KINDS = pytest.mark.parametrize("kind", ["bert", "bert_mean"])


def at_work(name: str, folder: Path, kind: str) -> tuple[Method, Support]:
    task, method = tiny_task(folder / "images"), find(name).with_options(FIVE[name])
    method.attach(Frozen(tiny_backbone(folder / "backbone", kind).double(), MemoryStore()), (task.classes,))
    pool = ImagePool(task.train)
    support = Support(pool, pool, 4)
    torch.manual_seed(0)
    method.prepare(support)
    method.build(method.frozen, method.classes)
    return method, support


@KINDS
@pytest.mark.parametrize("name", FIVE)
def test_gradients_are_central_differences(name: str, kind: str, tmp_path: Path) -> None:
    method, support = at_work(name, tmp_path, kind)
    parameters = [p for group in method.parameter_groups() for p in group.parameters]

    def loss() -> Tensor:
        torch.manual_seed(0)  # a loss may draw
        return method.loss(support.random.all(), support.labels)

    gradients = torch.autograd.grad(loss(), parameters)
    step, generator = 1e-6, torch.Generator().manual_seed(3)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.double, generator=generator)
        with torch.no_grad():
            ahead = loss_at(parameter, step * direction, loss)
            behind = loss_at(parameter, -step * direction, loss)
        along = float((gradient * direction).sum())
        assert (ahead - behind) / (2 * step) == pytest.approx(along, rel=1e-5, abs=1e-8 * float(direction.norm()))


def loss_at(parameter: Tensor, move: Tensor, loss: Callable[[], Tensor]) -> float:
    """The loss with a parameter moved, which then stands where it was."""
    before = parameter.clone()
    parameter += move
    found = float(loss())
    parameter.copy_(before)
    return found


@pytest.mark.parametrize("name", FIVE)
def test_fitted_model_knows_new_classes_and_opens_as_it_was_saved(name: str, tmp_path: Path) -> None:
    task, backbone = tiny_task(tmp_path / "images"), tiny_backbone(tmp_path / "backbone", "bert")
    options: Any = {"shots": 2, "epochs": 2, "recipe": "paper", "check": False, "keep": True}
    method = find(name).with_options(FIVE[name])
    model = fit(task, method, backbone=backbone, store=MemoryStore(), **options)
    pictures = [item.picture for item in task.test]
    expected = [prediction.probabilities for prediction in model.predict(pictures, top=3)]
    opened = Model.open(model.save(tmp_path / "model"), load_backbone(tmp_path / "backbone"))
    assert [prediction.probabilities for prediction in opened.predict(pictures, top=3)] == expected
    if not method.accepts_new_classes:
        with pytest.raises(ShotfitError, match="zero_shot"):
            opened.for_classes(["a", "b"])
        return
    other = opened.for_classes([*reversed(model.class_names), "another thing"])
    old, new = opened.predict(pictures[:1], top=3)[0], other.predict(pictures[:1], top=4)[0]
    assert [label for label in new.labels if label != "another thing"] == list(old.labels)
