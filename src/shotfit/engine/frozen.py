"""The frozen model as a method sees it: text(texts, edits), image(images, edits), logits.

It plans each call: the steps before the first edit come from the store (or from memory, once read), the rest runs. What
is stored depends on no parameter, so nothing in it can be stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import ceil
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shotfit.data.decoded import boxes_together
from shotfit.data.images import image_size
from shotfit.data.tasks import ClassList, Item
from shotfit.data.views import CROP_SCALE, Box, draw_box
from shotfit.engine import ranks
from shotfit.engine.decoding import center_view, cut, read_ahead
from shotfit.engine.plans import Plan, activation_bytes, plan_images, plan_texts
from shotfit.engine.resident import Rows
from shotfit.engine.shards import DamagedRowsError
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BlocksConfig, Preprocessing, ResNetConfig
from shotfit.towers.edits import NOTHING, Edit, Weights, frozen_until, input_is_read
from shotfit.towers.layout import Layout, Savings, Stream
from shotfit.towers.places import at_places
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import VisionTransformer

__all__ = ["Frozen", "ImagePool", "Images", "normalize"]

TEXT_ROWS = 256  # frozen texts that run together
IMAGE_ROWS = 32  # images that are decoded and run together
CLAIMED = 256  # missing images at a time that no other process encodes, a multiple of IMAGE_ROWS


class ImagePool:
    """Images that a fit may ask for, each in one center view or in `views` random views drawn once.

    Row item * views + view is one view of one image. A random view depends on the image's content and on its number
    alone, so that fits with other seeds find it in the store.

    passing: seen once and gone, as in a prediction: features are kept on disk, and nothing larger, or in memory.
    sets: the number of classes, where an image may have several labels.
    """

    def __init__(
        self,
        items: Sequence[Item],
        views: int = 0,
        crop_scale: tuple[float, float] = CROP_SCALE,
        passing: bool = False,
        sets: int = 0,
    ) -> None:
        self.passing = passing
        self.pictures = [item.picture for item in items]
        self.digests = [item.digest for item in items]
        self.groups = [item.group for item in items]
        self.labels = torch.tensor([item.label for item in items], dtype=torch.long)  # [images]
        if sets:
            rows = [index for index, item in enumerate(items) for _ in item.labels]
            self.labels = torch.zeros(len(items), sets)  # [images, classes] of 0 and 1
            self.labels[rows, [label for item in items for label in item.labels]] = 1.0
        self.views, self.crop_scale = views, crop_scale

    def keys(self) -> list[str]:
        """What each row's pixels depend on, preprocessing apart."""
        if not self.views:
            return [f"{digest}/center" for digest in self.digests]
        low, high = self.crop_scale
        return [f"{digest}/crop{low:g}-{high:g}/{view}" for digest in self.digests for view in range(self.views)]

    def all(self) -> Images:
        """Every image: its center view, or its first random one."""
        return self.take(torch.arange(len(self.pictures)))

    def in_views(self, views: int) -> ImagePool:
        """The same images in other views."""
        other = copy(self)
        other.views = views
        return other

    def take(self, items: Tensor, views: Tensor | int = 0) -> Images:
        """Images by item and view."""
        return Images(self, items * max(self.views, 1) + views)

    def files(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Rows, neighbours that are views or boxes of one picture together, so that it is decoded once for them."""
        views = max(self.views, 1)
        groups = [tuple(group) for _, group in groupby(rows, lambda row: self._place(row // views))]
        return [rows[start : start + IMAGE_ROWS] for rows in groups for start in range(0, len(rows), IMAGE_ROWS)]

    def _place(self, item: int) -> object:
        """What images that are decoded together have in common: boxes their picture."""
        picture = self.pictures[item]
        return item if picture.crop is None else (picture.whole, picture.lenient)

    def pixels(self, rows: tuple[int, ...], rule: Preprocessing, reduced: bool) -> list[Tensor]:
        """Decode the rows of one picture: [3, size, size] each."""
        with boxes_together():
            views = max(self.views, 1)
            found = [
                self._views(item, [row % views for row in group], rule, reduced)
                for item, group in groupby(rows, lambda row: row // views)
            ]
        return [view for one in found for view in one]

    def _views(self, item: int, views: Sequence[int], rule: Preprocessing, reduced: bool) -> list[Tensor]:
        picture = self.pictures[item]
        if not self.views:
            return [center_view(picture, rule, reduced)] * len(views)
        size = image_size(picture)
        return cut(picture, size, [self._box(item, view, size) for view in views], rule, reduced)

    def _box(self, item: int, view: int, size: tuple[int, int]) -> Box:
        seed = int(self.digests[item][:15], 16) + view
        return draw_box(*size, self.crop_scale, torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images: rows of a pool, or preprocessed pixels [n, 3, size, size] (then there is no pool).

    places: every place of their grid counts as an image, and has features of its own (`towers/places.py`).
    """

    pool: ImagePool | None
    rows: Tensor
    places: bool = False

    @classmethod
    def of(cls, pixels: Tensor) -> Images:
        """Images that are already pixels."""
        return cls(None, pixels)

    def __len__(self) -> int:
        return len(self.rows)


class Frozen:
    """A backbone, the store of what it computed, and the savings in use.

    memory: bytes that the activations of a training step may take, half of them for each tower; what would take more
    runs in chunks that are recomputed in the backward pass, with the same gradients.
    """

    def __init__(
        self,
        backbone: Backbone,
        store: Store | MemoryStore | None = None,
        savings: Savings = Savings(),
        memory: int | None = None,
    ) -> None:
        self.backbone, self.savings, self.memory = backbone, savings, memory
        self.store: Store | MemoryStore = MemoryStore() if store is None else store
        self.plans: list[Plan] | None = None  # of every call, once somebody who wants them makes it a list
        self._seen: WeakKeyDictionary[Images, Tensor] = WeakKeyDictionary()
        self._read: WeakKeyDictionary[ImagePool, dict[tuple[int, bool], Rows]] = WeakKeyDictionary()
        self._encoded: WeakKeyDictionary[Texts, Tensor] = WeakKeyDictionary()
        self._begun: WeakKeyDictionary[Texts, dict[int, Stream]] = WeakKeyDictionary()
        self._shares: WeakKeyDictionary[Texts, Texts] = WeakKeyDictionary()  # of this process, of several
        self._parts: WeakKeyDictionary[Texts, dict[int, list[Texts]]] = WeakKeyDictionary()

    @property
    def embed(self) -> int:
        """Width of the joint space."""
        return self.backbone.embed

    @property
    def parameter_dtype(self) -> torch.dtype:
        """Precision of parameters, features and losses: float32, also where the towers compute in less."""
        return torch.promote_types(self.backbone.dtype, torch.float32)

    @property
    def temperature(self) -> Tensor:
        """[] exp(logit_scale), which multiplies cosines."""
        return self.backbone.logit_scale.float().exp()

    def image_blocks(self, method: str, otherwise: str) -> BlocksConfig:
        """The image tower's transformer blocks, which the method changes; a tower without any is refused.

        otherwise: the option with which the method leaves them alone.
        """
        config = self.backbone.config.image
        if isinstance(config, ResNetConfig):
            raise UsageError(
                f"{method} changes transformer blocks of the image tower, but {self.backbone.name} has a ResNet: "
                f"choose a backbone with a vision transformer, such as mini, or {otherwise}."
            )
        return config.blocks

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Scaled cosines [images, classes] of features [images, embed] and [classes, embed].

        SigLIP's bias is the same for every class, so it changes no probability over classes and is left out.
        """
        scale = self.backbone.logit_scale.to(image_features.dtype).exp()
        return scale * normalize(image_features) @ normalize(text_features).T

    def encode(self, texts: Sequence[str]) -> Texts:
        """Texts from strings."""
        return Texts.of(self.backbone.encode(texts))

    def sentences(self, texts: Sequence[str]) -> Texts:
        """Texts from whole sentences: one that is too long loses its end, one that holds a special token is refused."""
        tokenizer = self.backbone.checked_tokenizer()
        for text in texts:
            tokenizer.check(text)
        return Texts.of(tokenizer.encode(texts, truncate=True))

    def class_texts(self, classes: Sequence[ClassList]) -> tuple[Texts, int]:
        """All prompts of all classes, class by class, and the number of templates."""
        prompts = [prompt for task in classes for prompt in task.prompts()]
        return self.encode([text for templates in prompts for text in templates]), len(prompts[0])

    def text(self, texts: Texts, edits: Sequence[Edit] = (), absent: int = 0) -> Tensor:
        """Text features [rows, embed], not normalized, float32 at least. Edits of the other tower are left out.

        absent: how many texts a method has left out because nothing looks at them, for the plan.
        """
        features = self._text(texts, self._of_tower("text", edits), absent)
        return features.to(self.parameter_dtype)

    def _text(self, texts: Texts, edits: Sequence[Edit], absent: int) -> Tensor:
        tower = self.backbone.text
        step = frozen_until(edits, tower.last)
        if step < tower.last:
            layout = tower.pack(texts, self.savings).layout
            parts = self._text_parts(texts, layout, edits, step)
            self._note(lambda: plan_texts(self.backbone, layout, edits, self.savings, parts, absent))
            if ranks.splits(len(texts)):
                return self._shared_out(texts, edits, step)
            return self._run_texts(texts, edits, step, parts)
        self._note(lambda: plan_texts(self.backbone, tower.pack(texts, self.savings).layout, edits, self.savings, 1))
        if not self.savings.frozen_beginning:
            with torch.no_grad():
                return tower.finish(tower.start(texts, (), self.savings))
        if texts not in self._encoded:
            with torch.inference_mode(False):  # it is kept, and may serve a training next
                self._encoded[texts] = self._encode(texts)
        return self._encoded[texts]

    def _encode(self, texts: Texts) -> Tensor:
        """Features of texts that nothing edits, [rows, embed], each row from the store."""
        tower = self.backbone.text

        def compute(missing: list[int]) -> Iterator[Tensor]:
            for start in range(0, len(missing), TEXT_ROWS):
                rows = Texts(tuple(texts.rows[index] for index in missing[start : start + TEXT_ROWS]))
                with torch.no_grad():
                    yield tower.finish(tower.start(rows, (), self.savings))

        keys = [row.digest for row in (Texts((ids,)) for ids in texts.rows)]
        stored = self.store.rows({"tower": "text", **self.kind()}, keys, compute, "Encoding texts")
        return stored.to(self.backbone.device)

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        """Image features [images, embed], not normalized, float32 at least. Edits of the other tower are left out.

        Of pixels at their places [images x places, embed], image by image, without gradients.
        """
        if images.places:
            return self._at_places(images, self._of_tower("image", edits))
        last, edits = self.backbone.image.last, self._of_tower("image", edits)
        step, training = frozen_until(edits, last), bool(edits) and torch.is_grad_enabled()
        stored = images.pool is not None and self.savings.frozen_beginning and step != NOTHING
        if images.pool is not None and images.pool.passing:
            stored &= step == last and isinstance(self.store, Store)
        again = (
            not stored and (images.pool is None or images.pool.passing) and not edits
        )  # several members ask for the same batch, or logits and features are asked for
        if again and images in self._seen:
            return self._seen[images]
        parts = 1 if stored and step == last else self._image_parts(len(images), edits, step)
        self._note(lambda: plan_images(self.backbone, len(images), edits, self.savings, parts if training else 1))
        with torch.set_grad_enabled(training):
            run = self._resume_images if stored else self._run_images
            features = run(images, edits, ceil(len(images) / parts)).to(self.parameter_dtype)
        if again:
            self._seen[images] = features
        return features

    def _at_places(self, images: Images, edits: Sequence[Edit]) -> Tensor:
        """Features of every place, of images that are pixels; the last unedited ones are kept for other members."""
        if not edits and images in self._seen:
            return self._seen[images]
        found = at_places(self.backbone.image, images.rows.to(self.backbone.device), edits, self.savings)
        features = found.flatten(0, 1).to(self.parameter_dtype)
        if not edits:
            self._seen[images] = features
        return features

    def resident(self, images: Images) -> bool:
        """Whether a step on these images reads no memory but a GPU's: their streams have been read, and lie there."""
        if self.backbone.device.type != "cuda":
            return False
        return images.pool is None or all(rows.all is not None for rows in self._read.get(images.pool, {}).values())

    def _resume_images(self, images: Images, edits: Sequence[Edit], size: int) -> Tensor:
        """Features from the stored streams, `size` images together."""
        tower = self.backbone.image
        step = frozen_until(edits, tower.last)
        paired = input_is_read(edits, step)
        pool = images.pool
        assert pool is not None
        if step == tower.last:
            return self._take(pool, step, paired, images.rows)

        def run(rows: Tensor) -> Tensor:
            taken = self._take(pool, step, paired, rows)
            before, hidden = taken.unbind(dim=1) if paired else (None, taken)
            return tower.finish(tower.resume(hidden, step, self.savings, before), edits)

        return _in_parts(run, images.rows.split(size))

    def _run_images(self, images: Images, edits: Sequence[Edit], size: int) -> Tensor:
        """Features from pixels, `size` images together; files are decoded once, ahead of the tower."""
        tower = self.backbone.image

        def run(pixels: Tensor) -> Tensor:
            return tower.finish(tower.start(pixels.to(self.backbone.device), edits, self.savings), edits)

        if images.pool is None:
            return _in_parts(run, images.rows.split(size))
        decoded = self.pixels(images.pool, images.rows.tolist())
        return _in_parts(run, torch.cat([*decoded]).split(size) if torch.is_grad_enabled() else decoded)

    def _take(self, pool: ImagePool, step: int, paired: bool, rows: Tensor) -> Tensor:
        """Rows of a pool's streams; what a file lost since it was found is computed again."""

        def take() -> Tensor:
            try:
                return self._stored(pool, step, paired).take(rows)
            except DamagedRowsError:
                self._read.setdefault(pool, {}).pop((step, paired), None)
                raise

        return self.store.undamaged(take)

    def _stored(self, pool: ImagePool, step: int, paired: bool) -> Rows:
        """A pool's streams after `step` (features after the last), read once.

        paired: what the step read in front of what it made, [images, 2, tokens, width].
        """
        kept = self._read.setdefault(pool, {})
        if (step, paired) not in kept:

            def compute(missing: list[int]) -> Iterator[Tensor]:
                for pixels in self.pixels(pool, missing):
                    # One row alone is multiplied another way, and has other last digits than among others: what is
                    # stored must not depend on what was missing.
                    alone = len(pixels) == 1 and not pool.passing
                    found = self._run_until(pixels.repeat(2, 1, 1, 1) if alone else pixels, step, paired)
                    yield found[: len(pixels)]

            alone = step == self.backbone.image.last - 1 and self.savings.read_alone
            reduced = self.savings.reduced_images
            given = (("input", paired), ("read_alone", alone), ("reduced_images", reduced))
            more = {name: True for name, holds in given if holds}
            kind = {"tower": "image", "step": step, **more, **self.kind()}
            rows = self.store.held(kind, pool.keys(), compute, "Encoding images", CLAIMED)
            kept[step, paired] = Rows(rows, self.backbone.device, whole=step == self.backbone.image.last)
        return kept[step, paired]

    @torch.no_grad()
    def _run_until(self, pixels: Tensor, step: int, paired: bool) -> Tensor:
        tower = self.backbone.image
        stream = tower.start(pixels.to(self.backbone.device), (), self.savings)
        if step == tower.last:
            return tower.finish(stream)
        stream = tower.run(stream, until=step)
        if stream.layout is None:
            return stream.hidden
        kept = [stream.before, stream.hidden] if paired else [stream.hidden]
        rows = [hidden.unflatten(0, (len(pixels), -1)) for hidden in kept if hidden is not None]
        return torch.stack(rows, dim=1) if paired else rows[0]

    def pixels(self, pool: ImagePool, rows: Sequence[int]) -> Iterator[Tensor]:
        """Rows in order, in batches of about IMAGE_ROWS: [m, 3, size, size]."""
        read = partial(pool.pixels, rule=self.backbone.config.preprocessing, reduced=self.savings.reduced_images)
        for batch in read_ahead(_batches(pool.files(rows)), read):
            yield torch.stack([view for views in batch for view in views]).to(self.backbone.dtype)

    def _run_texts(self, texts: Texts, edits: Sequence[Edit], step: int, parts: int) -> Tensor:
        tower = self.backbone.text

        def run(rows: Texts) -> Tensor:
            if step == NOTHING or not self.savings.frozen_beginning:
                return tower.finish(tower.start(rows, edits, self.savings), edits)
            return tower.finish(self._begin(rows, step), edits)

        if parts == 1:
            return run(texts)
        kept, size = self._parts.setdefault(texts, {}), ceil(len(texts) / parts)
        if parts not in kept:
            kept[parts] = [texts[start : start + size] for start in range(0, len(texts), size)]
        return _in_parts(run, kept[parts])

    def _shared_out(self, texts: Texts, edits: Sequence[Edit], step: int) -> Tensor:
        """Features [texts, embed] of texts, each of which one of several processes runs (`ranks.py`)."""
        if texts not in self._shares:
            self._shares[texts] = texts[ranks.share(len(texts))]
        own = self._shares[texts]
        layout = self.backbone.text.pack(own, self.savings).layout
        features = self._run_texts(own, edits, step, self._text_parts(own, layout, edits, step))
        return ranks.gathered(features.to(self.parameter_dtype), len(texts))

    def _text_parts(self, texts: Texts, layout: Layout, edits: Sequence[Edit], step: int) -> int:
        """In how many chunks texts run: as many as keep the activations within the budget."""
        if not torch.is_grad_enabled():
            return 1
        shared = layout.shared.longest if layout.shared else 0  # every chunk runs its beginning itself
        visible, own = (layout.own.longest + shared if shared else 0), layout.own.rows * layout.own.longest
        config = self.backbone.config.text.blocks
        rest = self._activations(config, layout.tokens - shared, own, edits, step, visible)
        return min(len(texts), self._over(rest, self._activations(config, shared, shared, edits, step, visible)))

    def _image_parts(self, images: int, edits: Sequence[Edit], step: int) -> int:
        """The same for images; without gradients, where nothing is kept, no more run together than are encoded so."""
        tower = self.backbone.image
        if not torch.is_grad_enabled() or step >= tower.last or not isinstance(tower, VisionTransformer):
            return max(1, ceil(images / IMAGE_ROWS))
        tokens = images * tower.tokens
        held = self._activations(tower.config.blocks, tokens, tokens, edits, step, visible=0)
        return min(images, self._over(held))

    def _activations(
        self, blocks: BlocksConfig, tokens: int, places: int, edits: Sequence[Edit], step: int, visible: int
    ) -> int:
        """Bytes that autograd keeps of the blocks behind `step`, and for the gradients of their weights."""
        steps, size = blocks.layers - max(step, 0), self.backbone.dtype.itemsize
        of_weights = tokens * size * sum(edit.kept for edit in edits if isinstance(edit, Weights))
        return activation_bytes(blocks, tokens, places, steps, visible, self.savings, size) + of_weights

    def _over(self, held: int, every: int = 0) -> int:
        """Into how many parts these bytes go, where each part and `every` are within the budget of one tower."""
        return 1 if self.memory is None else max(1, ceil(held / max(1, self.memory // 2 - every)))

    def _begin(self, texts: Texts, step: int) -> Stream:
        """The stream of texts after `step`, kept in memory: prompts have no views, so it recurs at every step."""
        kept = self._begun.setdefault(texts, {})
        if step not in kept:
            tower = self.backbone.text
            with torch.no_grad():
                kept[step] = tower.run(tower.start(texts, (), self.savings), until=step)
        return kept[step]

    def _of_tower(self, tower: Literal["image", "text"], edits: Sequence[Edit]) -> list[Edit]:
        """The edits of one tower. Raises UsageError where there is no place for any."""
        found = [edit for edit in edits if edit.tower == tower]
        if found and self.backbone.closed:
            raise UsageError(f"{self.backbone.name} is closed: no method can put a {type(found[0]).__name__} into it.")
        return found

    def kind(self) -> dict[str, str | int | float | bool]:
        """What all that is computed depends on, as a kind of the store."""
        return {"backbone": self.backbone.fingerprint, "dtype": f"torch.{self.backbone.precision}"}

    def _note(self, plan: Callable[[], Plan]) -> None:
        if self.plans is not None:
            self.plans.append(plan())


def _in_parts(run: Callable[[Any], Tensor], parts: Iterable[Any]) -> Tensor:
    """run(part) of every part, one after the other: [n, embed]; the backward pass runs each again, if more than one."""
    if not torch.is_grad_enabled():
        return torch.cat([run(part) for part in parts])
    parts = list(parts)
    if len(parts) == 1:
        return run(parts[0])
    # Nothing in a tower is random, and the state of a GPU's generator would have to be waited for.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(run, part) for part in parts])


def _batches(files: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """The rows of files in batches, each full once it has IMAGE_ROWS; none but the last has fewer."""
    batches: list[list[tuple[int, ...]]] = [[]]
    for rows in files:
        if sum(map(len, batches[-1])) >= IMAGE_ROWS:
            batches.append([])
        batches[-1].append(rows)
    return batches if files else []


def normalize(features: Tensor) -> Tensor:
    """Features divided by their L2 norm, no epsilon."""
    return features / features.norm(dim=-1, keepdim=True)
