"""Methods on stored features: what each of them promises beyond the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.data.tasks import ClassList
from shotfit.engine.frozen import Frozen, ImagePool, Images, normalize
from shotfit.errors import UsageError
from shotfit.fitting.train import train
from shotfit.methods import find, proker
from shotfit.methods.base import Fold, Method, Support, Validation
from shotfit.methods.class_features import last_matrix
from shotfit.methods.knn import KNN
from shotfit.methods.proker import ProKeR
from shotfit.methods.prolip import ProLIP
from shotfit.testing.tiny import tiny_backbone, tiny_task
from shotfit.towers.backbone import Backbone
from shotfit.towers.edits import Unprojected

NOTHING = Validation("none", ())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> ImagePool:
    return ImagePool(tiny_task(tmp_path_factory.mktemp("images")).train)


def fitted(name: str, backbone: Backbone, pool: ImagePool, validation: Validation = NOTHING, **options: Any) -> Method:
    """A method fitted to the pool's images; one that is trained takes twelve steps."""
    torch.manual_seed(0)
    method, support = find(name)(**options), Support(pool, pool, 4)
    method.attach(Frozen(backbone), [ClassList("task", ("red", "green", "blue"))])
    method.check()
    method.prepare(support)
    method.build(method.frozen, method.classes)
    recipe = method.training_recipe()
    if recipe is not None:
        train(method, support, recipe, 12, torch.Generator().manual_seed(0), trainings=0)
    with torch.no_grad():
        method.solve(support, validation)
    return method


def features(method: Method, pool: ImagePool) -> Tensor:
    return normalize(method.frozen.image(pool.all()))


def test_nearest_mean_is_the_nearest_by_distance(backbone: Backbone, pool: ImagePool) -> None:
    method, labels = fitted("nearest_centroid", backbone, pool, views=0), pool.labels
    moved = features(method, pool) - features(method, pool).mean(dim=0)
    moved = normalize(moved)
    means = torch.stack([moved[labels == label].mean(dim=0) for label in range(3)])
    nearest = torch.cdist(moved, means).argmin(dim=1)
    assert torch.equal(method.logits(pool.all()).argmax(dim=1), nearest)


def test_uncentered_means_are_of_the_features_themselves(backbone: Backbone, pool: ImagePool) -> None:
    method = fitted("nearest_centroid", backbone, pool, views=0, centered=False)
    own = features(method, pool)[pool.labels == 1].mean(dim=0)
    torch.testing.assert_close(method.get_buffer("means")[1], own)
    assert not method.get_buffer("center").any()


def test_one_neighbour_knows_each_support_image(backbone: Backbone, pool: ImagePool) -> None:
    method = fitted("knn", backbone, pool, k=1)
    assert torch.equal(method.logits(pool.all()).argmax(dim=1), pool.labels)


def test_votes_of_all_neighbours_are_shares(backbone: Backbone, pool: ImagePool) -> None:
    method = fitted("knn", backbone, pool, k=1000, sharpness=1e6)
    counts = torch.bincount(pool.labels).float()
    torch.testing.assert_close(method.logits(pool.all()).softmax(dim=1)[0], counts / counts.sum(), atol=1e-4, rtol=0)


def test_search_of_k_looks_at_a_fold_s_own_images_alone(backbone: Backbone, pool: ImagePool) -> None:
    held = torch.arange(0, len(pool.labels), 3)
    learned = torch.tensor([row for row in range(len(pool.labels)) if row not in held.tolist()])
    fold = Fold(learned, pool.take(held), pool.labels[held])
    method = fitted("knn", backbone, pool, Validation("cross-validation", (fold,)), ks="1,2")
    assert isinstance(method, KNN)
    near = features(method, pool)
    nearest = pool.labels[learned][(near[held] @ near[learned].T).argmax(dim=1)]
    assert int(method.correct[0]) == int((nearest == pool.labels[held]).sum())


def test_cross_modal_probe_starts_as_zero_shot_and_learns_from_texts(backbone: Backbone, pool: ImagePool) -> None:
    method = find("cross_modal")(text_share=1.0)
    method.attach(Frozen(backbone), [ClassList("task", ("red", "green", "blue"))])
    method.build(method.frozen, method.classes)
    zero_shot = find("zero_shot")()
    zero_shot.attach(method.frozen, method.classes)
    torch.testing.assert_close(method.logits(pool.all()), zero_shot.logits(pool.all()))
    of_texts = method.loss(pool.all(), pool.labels)
    torch.testing.assert_close(of_texts, method.loss(pool.take(torch.tensor([0])), pool.labels[:1]))


def test_small_lambda_leaves_proker_at_zero_shot(backbone: Backbone, pool: ImagePool) -> None:
    method = fitted("proker", backbone, pool, lmbda=1e-6)
    zero_shot = fitted("zero_shot", backbone, pool)
    torch.testing.assert_close(method.logits(pool.all()), zero_shot.logits(pool.all()), atol=1e-3, rtol=0)


def test_proker_takes_the_published_pair_where_nothing_is_held_out(backbone: Backbone, pool: ImagePool) -> None:
    method = fitted("proker", backbone, pool)
    assert isinstance(method, ProKeR) and method.pair == (1.5, 0.05)
    assert method.chosen() == {"search": False, "beta": 1.5, "lmbda": 0.05}


def test_kernel_that_would_fill_the_memory_is_refused(
    backbone: Backbone, pool: ImagePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proker, "MOST_ROWS", 2 * len(pool.labels))
    with pytest.raises(UsageError, match=r"in 3 views make \d+ rows.*expected at most \d+: use fewer views or shots"):
        fitted("proker", backbone, pool, views=3)


@pytest.mark.parametrize(
    ("name", "option", "text"), [("gda", "alphas", "1,two"), ("proker", "lambdas", "0,1"), ("knn", "ks", "")]
)
def test_values_that_cannot_be_tried_are_refused(name: str, option: str, text: str, backbone: Backbone) -> None:
    method = find(name)(**{option: text})
    method.attach(Frozen(backbone), [])
    with pytest.raises(UsageError, match=f"{option} is .*; expected numbers above 0 with commas between them"):
        method.check()


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_projection_behind_pooled_features_gives_the_tower_s_own(kind: str, tmp_path: Path, pool: ImagePool) -> None:
    frozen = Frozen(tiny_backbone(tmp_path, kind))
    method = ProLIP()
    method.attach(frozen, [ClassList("task", ("red", "green"))])
    method.build(frozen, method.classes)
    torch.testing.assert_close(method.image_features(pool.all()), frozen.image(pool.all()))
    pixels = Images.of(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(method.image_features(pixels), frozen.image(pixels))


def test_tower_without_a_projection_is_refused_with_the_way_out(tmp_path: Path, pool: ImagePool) -> None:
    siglip = tiny_backbone(tmp_path, "siglip")
    with pytest.raises(UsageError, match=r"has none: choose another backbone, or .*--set side=features"):
        fitted("prolip", siglip, pool)
    for side in ("features", "text"):
        assert fitted("prolip", siglip, pool, side=side).logits(pool.all()).isfinite().all()


def test_large_penalty_holds_the_projection_where_it_was(backbone: Backbone, pool: ImagePool) -> None:
    moved = [fitted("prolip", backbone, pool, penalty=penalty) for penalty in (0.0, 1e6)]
    away = [float((one.weight - one.start).detach().square().sum()) for one in moved if isinstance(one, ProLIP)]
    assert away[0] > 10 * away[1]


def test_text_projection_is_read_in_front_of_itself(backbone: Backbone) -> None:
    frozen = Frozen(backbone)
    texts = frozen.encode(["a red thing", "a blue one"])
    pooled = frozen.text(texts, [Unprojected("text", backbone.text.last - 1)])
    projection = last_matrix(backbone.text)
    assert projection is not None
    torch.testing.assert_close(projection(pooled), frozen.text(texts))


def test_enhanced_base_tunes_the_projection_first_and_the_residual_after(backbone: Backbone, pool: ImagePool) -> None:
    projection = last_matrix(backbone.text)
    assert projection is not None
    loaded = projection.weight
    first = fitted("taskres", backbone, pool, enhanced=12)
    assert not first.get_parameter("residual").any()
    assert not torch.equal(first.get_parameter("projection"), loaded)
    second = fitted("taskres", backbone, pool, enhanced=2)
    assert second.get_parameter("residual").any()
    start = fitted("taskres", backbone, pool)
    assert not torch.equal(start.text_features(), second.text_features())
    alone = find("taskres")(enhanced=2)
    alone.attach(Frozen(backbone), second.classes)
    alone.build(alone.frozen, alone.classes)
    regular = find("taskres")()
    regular.attach(alone.frozen, alone.classes)
    regular.build(alone.frozen, alone.classes)
    torch.testing.assert_close(alone.text_features(), regular.text_features())
