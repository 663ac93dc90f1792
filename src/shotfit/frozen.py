"""The frozen model as a method sees it: text(texts, edits), image(images, edits), logits.

It plans each call: the steps before the first edit come from the store (or from memory, once read), the rest runs. What
is stored depends on no parameter, so nothing in it can be stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shotfit.data.images import image_size
from shotfit.data.tasks import ClassList, Item
from shotfit.data.views import Box, draw_box
from shotfit.edits import NOTHING, Edit, frozen_until, input_is_read
from shotfit.errors import UsageError
from shotfit.reading import center_view, cut, read_ahead
from shotfit.recipe import CROP_SCALE
from shotfit.store import MemoryStore, Store
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BlocksConfig, Preprocessing, ResNetConfig
from shotfit.towers.layout import Savings, Stream
from shotfit.towers.texts import Texts

__all__ = ["Frozen", "ImagePool", "Images", "Plan", "normalize"]

TEXT_ROWS = 256  # frozen texts that run together
IMAGE_ROWS = 32  # images that are decoded and run together


class ImagePool:
    """Images that a fit may ask for, each in one center view or in `views` random views drawn once.

    Row item * views + view is one view of one image. A random view depends on the image's content and on its number
    alone, so that fits with other seeds find it in the store.
    """

    def __init__(self, items: Sequence[Item], views: int = 0, crop_scale: tuple[float, float] = CROP_SCALE) -> None:
        self.paths = [item.path for item in items]
        self.digests = [item.digest for item in items]
        self.labels = torch.tensor([item.label for item in items], dtype=torch.long)
        self.views, self.crop_scale = views, crop_scale

    def keys(self) -> list[str]:
        """What each row's pixels depend on, preprocessing apart."""
        if not self.views:
            return [f"{digest}/center" for digest in self.digests]
        low, high = self.crop_scale
        return [f"{digest}/crop{low:g}-{high:g}/{view}" for digest in self.digests for view in range(self.views)]

    def all(self) -> Images:
        """Every image: its center view, or its first random one."""
        return self.take(torch.arange(len(self.paths)))

    def in_views(self, views: int) -> ImagePool:
        """The same images in other views."""
        other = copy(self)
        other.views = views
        return other

    def take(self, items: Tensor, views: Tensor | int = 0) -> Images:
        """Images by item and view."""
        return Images(self, items * max(self.views, 1) + views)

    def files(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Rows, neighbours that are views of one file together, so that it is decoded once for them."""
        return [tuple(group) for _, group in groupby(rows, lambda row: row // max(self.views, 1))]

    def pixels(self, rows: tuple[int, ...], rule: Preprocessing, reduced: bool) -> list[Tensor]:
        """Decode the rows of one file: [3, size, size] each."""
        item, views = rows[0] // max(self.views, 1), [row % max(self.views, 1) for row in rows]
        path = self.paths[item]
        if not self.views:
            return [center_view(path, rule, reduced)] * len(rows)
        size = image_size(path)
        return cut(path, size, [self._box(item, view, size) for view in views], rule, reduced)

    def _box(self, item: int, view: int, size: tuple[int, int]) -> Box:
        seed = int(self.digests[item][:15], 16) + view
        return draw_box(*size, self.crop_scale, torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Images:
    """A batch of images: rows of a pool, or preprocessed pixels [n, 3, size, size] (then there is no pool)."""

    pool: ImagePool | None
    rows: Tensor

    @classmethod
    def of(cls, pixels: Tensor) -> Images:
        """Images that are already pixels."""
        return cls(None, pixels)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Plan:
    """What one call of a tower was: for `shotfit show`."""

    tower: str
    rows: int
    edits: tuple[str, ...]
    frozen_until: int
    last: int
    tokens: int | None = None
    padded_tokens: int | None = None


class Frozen:
    """A backbone, the store of what it computed, and the savings in use.

    memory: bytes that the text tower's activations may take in a training step; more rows run in chunks that are
    recomputed in the backward pass, with the same gradients.
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
        self.plans: list[Plan] = []
        self._read: WeakKeyDictionary[ImagePool, dict[tuple[int, bool], Tensor]] = WeakKeyDictionary()
        self._begun: WeakKeyDictionary[Texts, dict[int, Stream]] = WeakKeyDictionary()

    @property
    def embed(self) -> int:
        """Width of the joint space."""
        return self.backbone.embed

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

    def text(self, texts: Texts, edits: Sequence[Edit] = ()) -> Tensor:
        """Text features [rows, embed], not normalized. Edits of the other tower are left out."""
        tower, edits = self.backbone.text, [edit for edit in edits if edit.tower == "text"]
        step = frozen_until(edits, tower.last)
        packed = tower.pack(texts, self.savings)
        padded = len(texts) * self.backbone.config.text.context
        self._note(Plan("text", len(texts), _names(edits), step, tower.last, packed.tokens, padded))
        if step < tower.last:
            return self._text_chunks(texts, edits, step, packed.tokens)
        if not self.savings.frozen_beginning:
            with torch.no_grad():
                return tower.finish(tower.start(texts, (), self.savings))

        def compute(missing: list[int]) -> Iterator[Tensor]:
            for start in range(0, len(missing), TEXT_ROWS):
                rows = Texts(tuple(texts.rows[index] for index in missing[start : start + TEXT_ROWS]))
                with torch.no_grad():
                    yield tower.finish(tower.start(rows, (), self.savings))

        keys = [row.digest for row in (Texts((ids,)) for ids in texts.rows)]
        stored = self.store.rows({"tower": "text", **self._kind()}, keys, compute, "Encoding texts")
        return stored.to(self.backbone.device)

    def image(self, images: Images, edits: Sequence[Edit] = ()) -> Tensor:
        """Image features [images, embed], not normalized. Edits of the other tower are left out."""
        tower, edits = self.backbone.image, [edit for edit in edits if edit.tower == "image"]
        step = frozen_until(edits, tower.last) if self.savings.frozen_beginning else NOTHING
        self._note(Plan("image", len(images), _names(edits), frozen_until(edits, tower.last), tower.last))
        if images.pool is None or step == NOTHING:
            pixels = (
                images.rows if images.pool is None else torch.cat([*self._pixels(images.pool, images.rows.tolist())])
            )
            with torch.set_grad_enabled(bool(edits) and torch.is_grad_enabled()):
                return tower.finish(tower.start(pixels.to(self.backbone.device), edits, self.savings), edits)
        paired = input_is_read(edits, step)
        stored = self._stored(images.pool, step, paired).index_select(0, images.rows.to(self.backbone.device))
        if step == tower.last:
            return stored
        before, hidden = stored.unbind(dim=1) if paired else (None, stored)
        return tower.finish(tower.resume(hidden, step, self.savings, before), edits)

    def _stored(self, pool: ImagePool, step: int, paired: bool) -> Tensor:
        """A pool's streams after `step` (features after the last), read once and kept in memory.

        paired: what the step read in front of what it made, [images, 2, tokens, width].
        """
        kept = self._read.setdefault(pool, {})
        if (step, paired) not in kept:

            def compute(missing: list[int]) -> Iterator[Tensor]:
                for pixels in self._pixels(pool, missing):
                    yield self._run_until(pixels, step, paired)

            alone = step == self.backbone.image.last - 1 and self.savings.read_alone
            reduced = self.savings.reduced_images
            given = (("input", paired), ("read_alone", alone), ("reduced_images", reduced))
            more = {name: True for name, holds in given if holds}
            kind = {"tower": "image", "step": step, **more, **self._kind()}
            stored = self.store.rows(kind, pool.keys(), compute, "Encoding images")
            kept[step, paired] = stored.to(self.backbone.device)
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

    def _pixels(self, pool: ImagePool, rows: Sequence[int]) -> Iterator[Tensor]:
        """Rows in order, in batches of about IMAGE_ROWS: [m, 3, size, size]."""
        read = partial(pool.pixels, rule=self.backbone.config.preprocessing, reduced=self.savings.reduced_images)
        files = pool.files(rows)
        together = max(1, IMAGE_ROWS // max(pool.views, 1))
        batches = [files[start : start + together] for start in range(0, len(files), together)]
        for batch in read_ahead(batches, read):
            yield torch.stack([view for views in batch for view in views]).to(self.backbone.dtype)

    def _text_chunks(self, texts: Texts, edits: Sequence[Edit], step: int, tokens: int) -> Tensor:
        """Run with gradients, in chunks that are recomputed where the whole would not fit the memory budget."""
        tower, blocks = self.backbone.text, self.backbone.config.text.blocks

        def run(rows: Texts) -> Tensor:
            if step == NOTHING or not self.savings.frozen_beginning:
                return tower.finish(tower.start(rows, edits, self.savings), edits)
            return tower.finish(self._begin(rows, step), edits)

        # What autograd keeps of a block: about 9 vectors of the width and 3 of the MLP's width for each token.
        held = (
            tokens
            * (blocks.layers - max(step, 0))
            * (9 * blocks.width + 3 * blocks.mlp_width)
            * self.backbone.dtype.itemsize
        )
        if self.memory is None or held <= self.memory:
            return run(texts)
        size = max(1, len(texts) * self.memory // held)
        chunks = self._chunks(texts, size)
        recompute: Callable[..., Any] = checkpoint
        return torch.cat([recompute(run, rows, use_reentrant=False) for rows in chunks])

    def _begin(self, texts: Texts, step: int) -> Stream:
        """The stream of texts after `step`, kept in memory: prompts have no views, so it recurs at every step."""
        kept = self._begun.setdefault(texts, {})
        if step not in kept:
            tower = self.backbone.text
            with torch.no_grad():
                kept[step] = tower.run(tower.start(texts, (), self.savings), until=step)
        return kept[step]

    def _chunks(self, texts: Texts, size: int) -> list[Texts]:
        key = (texts, size)
        if getattr(self, "_chunked", (None,))[0] != key:
            self._chunked = (key, [texts[start : start + size] for start in range(0, len(texts), size)])
        return self._chunked[1]

    def _kind(self) -> dict[str, str | int | float | bool]:
        return {"backbone": self.backbone.fingerprint, "dtype": str(self.backbone.dtype)}

    def _note(self, plan: Plan) -> None:
        if len(self.plans) < 32:  # enough to show; a long training would otherwise keep thousands
            self.plans.append(plan)


def normalize(features: Tensor) -> Tensor:
    """Features divided by their L2 norm, no epsilon."""
    return features / features.norm(dim=-1, keepdim=True)


def _names(edits: Sequence[Edit]) -> tuple[str, ...]:
    return tuple(type(edit).__name__ for edit in edits)
