"""Other values of a tower's weights: they do what a tower with these weights does, whatever is saved on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.changed import merged, parameters_at, step_of
from shotfit.towers.edits import NOTHING, Edit, Factors, Weights, frozen_until
from shotfit.towers.layout import Savings
from shotfit.towers.linear import Matrix
from shotfit.towers.texts import Texts

WIDTH = 16
Values = Callable[[Tensor], dict[str, Tensor | Factors]]
KINDS = ("vit", "resnet", "siglip", "eva", "perception", "post_norm", "bert", "bert_mean")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    return {kind: tiny_backbone(tmp_path_factory.mktemp("backbone"), kind).double() for kind in KINDS}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ImagePool:
    return ImagePool(tiny_task(tmp_path_factory.mktemp("images"), images=2).train)


def texts_of(backbone: Backbone) -> Texts:
    return backbone_texts(backbone, ["a thing", "a thin line", "another", "a thing"])


def backbone_texts(backbone: Backbone, texts: Sequence[str]) -> Texts:
    return Texts.of(backbone.encode(texts))


def low_rank(*names: str) -> Values:
    return lambda p: {
        f"attention.{name}.weight": Factors(p[:, n : n + 2] * 0.3, p[n : n + 2]) for n, name in enumerate(names)
    }


def singular(*names: str) -> Values:
    return lambda p: {
        f"attention.{name}.weight": Factors(p.detach() / 4, p.detach().T / 4, p[n], beside=False)
        for n, name in enumerate(names)
    }


def mixed(p: Tensor) -> dict[str, Tensor | Factors]:
    return {
        "attention.value.weight": Factors(p[:, :3], p[:3], p[3, :3]),
        "attention.query.weight": 0.2 * p,
        "attention.key.bias": p[1],
        "attention.out.bias": p[2],
        "norm1.weight": 1 + 0.1 * p[0],
    }


VALUES: dict[str, tuple[str, tuple[int, ...], Values]] = {
    "low rank in all image blocks": ("image", (1, 2, 3, 4), low_rank("query", "key", "value")),
    "low rank in two text blocks": ("text", (2, 3), low_rank("query", "value", "out")),
    "low rank of the joint matrix": (
        "image", (4,), lambda p: {"attention.qkv.weight": Factors(torch.cat([p, p, -p])[:, :4], p[:4])}
    ),
    "singular values": ("image", (2, 4), singular("query", "key", "value", "out")),
    "singular values of a text block": ("text", (3,), singular("value")),
    "all kinds": ("text", (1, 2), mixed),
    "all kinds of the last image block": ("image", (4,), mixed),
    "norms": ("image", (3, 4), lambda p: {"norm1.weight": p[0], "norm2.weight": 1 + p[1] / 4, "norm2.bias": p[2]}),
    "biases of the MLP": ("text", (1,), lambda p: {"mlp.down.bias": p[0], "mlp.up.bias": torch.cat([p[1], p[2]])}),
    "an MLP": ("text", (3,), lambda p: {"mlp.up.weight": torch.cat([p, p]), "mlp.down.weight": torch.cat([p, p], 1)}),
}  # fmt: skip


def outcome(frozen: Frozen, tower: str, edits: Callable[[Tensor], Sequence[Edit]], pool: ImagePool) -> list[Tensor]:
    """Features, and the gradient of what the values are made from."""
    parameter = torch.randn(WIDTH, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    parameter.requires_grad_()
    made, texts = edits(parameter), texts_of(frozen.backbone)
    features = frozen.image(pool.all(), made) if tower == "image" else frozen.text(texts, made)
    weights = torch.arange(features.numel(), dtype=torch.double).cos().view_as(features)
    return [features.detach(), *torch.autograd.grad((features * weights).sum(), parameter)]


def same(expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12 * float(one.abs().max()))


@pytest.mark.parametrize("name", VALUES)
def test_every_combination_of_savings_gives_the_same(
    name: str, backbones: dict[str, Backbone], pool: ImagePool
) -> None:
    tower, steps, values = VALUES[name]
    backbone = backbones["vit"]

    def edits(p: Tensor) -> list[Weights]:
        return [Weights(tower, step, values(p)) for step in steps]  # type: ignore[arg-type]

    last = backbone.image.last if tower == "image" else backbone.text.last
    assert frozen_until(edits(torch.zeros(WIDTH, WIDTH)), last) == steps[0] - 1
    expected = outcome(Frozen(backbone, MemoryStore(), Savings.none()), tower, edits, pool)
    names = [field.name for field in fields(Savings)]
    some = [Savings(), *(Savings.without([one]) for one in names)]
    some += [replace(Savings.none(), **{one: True}) for one in names]
    for chosen in some:
        frozen = Frozen(backbone, MemoryStore(), chosen)
        for _ in range(2):  # computed, then from the store
            same(expected, outcome(frozen, tower, edits, pool))
    same(expected, outcome(Frozen(backbone, memory=1), tower, edits, pool))  # one image and text at a time


@pytest.mark.parametrize("name", VALUES)
def test_it_is_the_tower_with_these_weights(name: str, backbones: dict[str, Backbone], pool: ImagePool) -> None:
    tower, steps, values = VALUES[name]
    backbone = backbones["vit"]
    p = torch.randn(WIDTH, WIDTH, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    changed, other = [Weights(tower, step, values(p)) for step in steps], deepcopy(backbone)  # type: ignore[arg-type]
    with torch.no_grad():
        for edit in changed:
            own = other.image if tower == "image" else other.text
            for parameter, value in merged(own, edit).values.items():
                assert isinstance(value, Tensor)
                step_of(own, edit.step).get_parameter(parameter).copy_(value)
    fresh = [Frozen(one, MemoryStore(), Savings.none()) for one in (backbone, other)]
    if tower == "image":
        same([fresh[1].image(pool.all())], [fresh[0].image(pool.all(), changed)])
    else:
        same([fresh[1].text(texts_of(other))], [fresh[0].text(texts_of(backbone), changed)])


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_of_every_step_and_their_gradients(
    kind: str, tower: Literal["image", "text"], backbones: dict[str, Backbone], pool: ImagePool
) -> None:
    backbone = backbones[kind]
    own = backbone.image if tower == "image" else backbone.text
    steps = [parameters_at(own, step) for step in range(own.last + 1)]
    fixed = sum("running_" in key or key == "rotation" for key, _ in own.named_parameters())
    assert sum(map(len, steps)) == len(list(own.named_parameters())) - fixed

    def loss(values: Sequence[dict[str, Tensor]], savings: Savings) -> Tensor:
        edits = [Weights(tower, step, one) for step, one in enumerate(values)]
        assert [edit.frozen_until for edit in edits] == [NOTHING, *range(own.last)]
        frozen = Frozen(backbone, MemoryStore(), savings)
        found = frozen.image(pool.all(), edits) if tower == "image" else frozen.text(texts_of(backbone), edits)
        return (found * torch.arange(found.numel(), dtype=torch.double).cos().view_as(found)).sum()

    torch.manual_seed(0)
    start = [{key: (0.9 * value.detach() + 0.01).requires_grad_() for key, value in one.items()} for one in steps]
    flat = [value for one in start for value in one.values()]
    found = loss(start, Savings())
    same([found.detach()], [loss(start, Savings.none()).detach()])
    gradients = torch.autograd.grad(found, flat)
    for number in range(len(steps)):  # along a direction in the weights of one step
        moved = {key: torch.randn_like(value) for key, value in start[number].items()}
        expected = sum(
            float((gradient * moved[key]).sum())
            for gradient, (step, key) in zip(
                gradients, [(s, k) for s, one in enumerate(start) for k in one], strict=True
            )
            if step == number
        )
        with torch.no_grad():
            up, down = (
                loss([{k: v + sign * moved[k] for k, v in one.items()} if n == number else one
                      for n, one in enumerate(start)], Savings())
                for sign in (1e-6, -1e-6)
            )  # fmt: skip
        assert abs(float(up - down) / 2e-6 - expected) < 1e-5 * max(1.0, abs(expected)), number


def test_factors_and_whole_matrices_agree_whatever_is_cheaper() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(12, 8, dtype=torch.double), torch.randn(12, dtype=torch.double)
    down, up, gains = (torch.randn(*shape, dtype=torch.double) for shape in ((3, 8), (5, 3), (3,)))
    for beside, own in itertools.product((True, False), (None, gains)):
        matrix = Matrix(weight, ((4, Factors(up, down, own, beside)),))
        for rows in (slice(None), slice(4), slice(6, None), slice(5, 7)):
            for tokens in (1, 1000):
                x = torch.randn(tokens, 8, dtype=torch.double)
                expected = x @ matrix.merged()[rows].T + bias[rows]
                torch.testing.assert_close(matrix[rows].times(x, bias[rows]), expected, rtol=0, atol=1e-12)


def test_values_of_another_shape_are_an_error(backbones: dict[str, Backbone]) -> None:
    backbone = backbones["vit"]
    for name, size in (("norm1.weight", 1), ("attention.key.bias", 48), ("norm1.bias", 15)):
        with pytest.raises(ValueError, match=f"{name} has the shape"):
            edit = Weights("text", 1, {name: torch.ones(size, dtype=torch.double)})
            Frozen(backbone).text(texts_of(backbone), [edit])
