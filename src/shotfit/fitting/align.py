"""Put two encoders that were never trained together into one space, by pictures with captions.

    found = align("pairs.csv", image="my.py:images", text="my.py:texts", out="joined")
    fit("photos", backbone=found.backbone)

Three parts of the images, none in two of them: to learn from, to choose the strength of the regularization by, and held
out, on which nothing is chosen. Images of the same content or of one group stay together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotfit.calls import checked
from shotfit.checkpoints.closed import closed_half
from shotfit.checkpoints.joined import CARD, RECORD, WEIGHTS, Maps, files_of, join, load_joined, open_joined
from shotfit.data.finding import identified
from shotfit.data.listing import How as Columns
from shotfit.data.pairs import Pair, read_pairs
from shotfit.data.tasks import Item
from shotfit.engine.allocator import kept_memory
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store, cache_folder, open_store
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import write_folder
from shotfit.fitting.folder import SYSTEM_FILES, check_replaceable
from shotfit.fitting.joining import AT, HOWS, STRENGTHS, How, Recall, best_scale, joined, recall
from shotfit.printing import as_code, as_markdown
from shotfit.towers.backbone import Backbone
from shotfit.towers.closed import ClosedBackbone

__all__ = ["Alignment", "align"]

SHARE = 0.1  # of images that are held out, where the source names no part, and of the others to choose by
FEWEST = 20  # images, below which nothing can be held out that says anything


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two encoders in one space. images, captions: of those learned from; held_out: images that recall is of.

    strength: of the regularization, chosen by `chosen_on` other images, with the mean recall of each that was tried.
    """

    backbone: Backbone
    folder: Path | None
    how: How
    strength: float
    tried: dict[float, float]
    images: int
    captions: int
    chosen_on: int
    held_out: int
    recall: Recall

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        plain = {name: value for name, value in vars(self).items() if name not in ("backbone", "folder", "recall")}
        named = {"backbone": self.backbone.name, "fingerprint": self.backbone.fingerprint}
        tried = {f"{strength:g}": mean for strength, mean in self.tried.items()}
        return named | plain | {"tried": tried, "embed": self.backbone.embed, "recall": self.recall.as_json()}


@checked
@kept_memory()
@torch.no_grad()
def align(
    pairs: str | Path,
    image: Any,
    text: Any,
    out: str | Path | None = None,
    *,
    how: How = "procrustes",
    images: str | Path | None = None,
    path_column: str | None = None,
    caption_column: str | None = None,
    group_column: str | None = None,
    templates: Sequence[str] = (),
    seed: int = 1,
    store: Store | MemoryStore | None = None,
) -> Alignment:
    """Join an image encoder and a text encoder, measure it on held-out pairs, and write `out`, a backbone's folder.

    pairs: a manifest (CSV, JSON Lines, Parquet) of images and captions, or class folders, whose prompts by `templates`
    are the captions. image, text: encoders of images and of texts alone, as names (`my.py:make`, `timm:NAME`,
    `sentence-transformers:NAME`) or objects. how: "procrustes" and "ridge" are closed forms, "contrastive" trains two
    small matrices. images: where the manifest's paths begin. seed: of the contrastive head.

    Raises UsageError for encoders or a folder that cannot be used, ShotfitError for pairs that cannot be read.

    Example (needs pairs and encoders):
        align("pairs.jsonl", "my.py:images", "my.py:texts", "joined").recall.to_text
    """
    if how not in HOWS:
        raise UsageError(f"There is no way {how!r} to join encoders: use {', '.join(HOWS)}.")
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_target(folder)
    columns = Columns(None if images is None else Path(images), path_column, caption_column, group_column)
    found = read_pairs(Path(pairs), columns, templates)
    items, broken = identified([pair.picture for pair in found], cache_folder())
    if broken:
        raise next(iter(broken.values()))
    if (different := len({item.digest for item in items})) < FEWEST:
        raise ShotfitError(f"{pairs} has {different} different pictures; expected {FEWEST} at least.")
    store = open_store() if store is None else store
    halves = closed_half(image, "images"), closed_half(text, "texts")
    shown = Frozen(halves[0], store).image(ImagePool(items).all()).cpu()
    captions = list(dict.fromkeys(caption for pair in found for caption in pair.captions))
    frozen = Frozen(halves[1], store)
    read = frozen.text(frozen.encode(captions)).cpu()
    features = _Features(shown, read, captions, found)
    learn, choose, held = _parts(found, items)
    tried = {one: _measured(features, choose, _learned(features, learn, how, one, seed)).mean for one in STRENGTHS}
    strength = max(tried, key=lambda one: tried[one])
    maps = _learned(features, learn, how, strength, seed)
    scale = best_scale(*_in_space(features, choose, maps))
    maps = replace(_learned(features, [*learn, *choose], how, strength, seed), logit_scale=scale)
    measured = _measured(features, held, maps)
    count = sum(len(found[row].captions) for row in (*learn, *choose))
    backbone = join(*halves, maps)
    done = Alignment(
        backbone, folder, how, strength, tried, len(learn) + len(choose), count, len(choose), len(held), measured
    )
    if folder is None:
        return done
    record = {name: value for name, value in done.as_json().items() if name not in ("backbone", "embed")}
    files = files_of(*halves, maps, record)
    write_folder(folder.resolve(), {**files, CARD: _card(done, halves).encode("utf-8", "backslashreplace")})
    return replace(done, backbone=_reopened(folder, halves, image, text))


def _reopened(folder: Path, halves: Sequence[ClosedBackbone], image: Any, text: Any) -> Backbone:
    """As anybody opens it now: by the folder alone where that suffices, else with its encoders."""
    if not isinstance(image, str) or not isinstance(text, str):
        return open_joined(folder, image, text)
    try:
        return load_joined(folder)
    except UsageError:
        return open_joined(folder, halves[0].name, halves[1].name)


@dataclass(frozen=True, eq=False)
class _Features:
    """Of all images [images, image] and of all different captions [captions, text], with the pairs."""

    images: Tensor
    texts: Tensor
    captions: list[str]
    pairs: Sequence[Pair]

    def owners(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which caption and which of the rows, for each caption of each: [pairs], [pairs]."""
        place = {caption: number for number, caption in enumerate(self.captions)}
        known = [(place[caption], at) for at, row in enumerate(rows) for caption in self.pairs[row].captions]
        both = torch.tensor(known, dtype=torch.long)
        return both[:, 0], both[:, 1]


def _learned(features: _Features, rows: Sequence[int], how: How, strength: float, seed: int) -> Maps:
    captions, owners = features.owners(rows)
    return joined(features.images[list(rows)], features.texts[captions], owners, how, strength, seed=seed)


def _in_space(features: _Features, rows: Sequence[int], maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
    """Images and different captions of some rows in the joint space, and which caption is whose."""
    captions, owners = features.owners(rows)
    different, place = captions.unique(return_inverse=True)
    owns = torch.zeros(len(rows), len(different), dtype=torch.bool)
    owns[owners, place] = True
    return maps.images(features.images[list(rows)]), maps.texts(features.texts[different]), owns


def _measured(features: _Features, rows: Sequence[int], maps: Maps) -> Recall:
    return recall(*_in_space(features, rows, maps))


def _parts(pairs: Sequence[Pair], items: Sequence[Item]) -> tuple[list[int], list[int], list[int]]:
    """Rows to learn from, to choose by, and held out.

    The test part is held out where there is one, else the validation part, else a tenth of the images; the validation
    part chooses where there is a test part, else a tenth of the others.
    """
    together = [f"group {pair.group}" if pair.group else item.digest for pair, item in zip(pairs, items, strict=True)]
    named: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for pair, key in zip(pairs, together, strict=True):
        named[pair.part].add(key)
    held = named["test"] or named["val"]
    choose = (named["val"] if named["test"] else set()) - held
    rest = sorted({*together} - held - choose, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    if not held:
        held, rest = {*rest[: max(1, round(SHARE * len(rest)))]}, rest[max(1, round(SHARE * len(rest))) :]
    if not choose:
        choose, rest = {*rest[: max(1, round(SHARE * len(rest)))]}, rest[max(1, round(SHARE * len(rest))) :]
    learn = {*rest}
    if len(learn) < 2:
        raise ShotfitError(f"The pairs leave {len(learn)} images to learn from; expected some beside those held out.")
    return tuple([row for row, key in enumerate(together) if key in part] for part in (learn, choose, held))  # type: ignore[return-value]


def _check_target(folder: Path) -> None:
    """Refuse a folder that holds anything but an older one. Raises UsageError."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    own = {RECORD, WEIGHTS, CARD} if RECORD in names else set()
    check_replaceable(folder, names - own - SYSTEM_FILES, "joined encoders")


def _card(found: Alignment, halves: Sequence[ClosedBackbone]) -> str:
    """The card of a joined folder, in Markdown."""
    rows = {"image to text": (found.recall.to_text, found.recall.chance_to_text),
            "text to image": (found.recall.to_image, found.recall.chance_to_image)}  # fmt: skip
    image, text = (Path(half.name).name if ":" in Path(half.name).name else half.name for half in halves)
    return "\n".join(
        [
            f"# {as_markdown(image)} and {as_markdown(text)} in one space",
            "",
            f"Two encoders that were not trained together, joined by `shotfit align` ({found.how}, regularization "
            f"{found.strength:g}, chosen on {found.chosen_on:,} of the images): {found.images:,} images with "
            f"{found.captions:,} captions were learned from, in {found.backbone.embed} dimensions.",
            "",
            f"- Images: {as_code(image)}, fingerprint {as_code(halves[0].fingerprint)}",
            f"- Texts: {as_code(text)}, fingerprint {as_code(halves[1].fingerprint)}",
            "- The folder holds neither of them; whoever opens it needs both, with these fingerprints.",
            "- Their licences, and the terms of the pairs, hold for what is made with it.",
            "",
            f"Recall on {found.held_out:,} held-out images, which nothing was learned from or chosen on:",
            "",
            f"| query | {' | '.join(f'at {at}' for at in AT)} | by chance |",
            f"|---|{'---|' * (len(AT) + 1)}",
            *(
                f"| {what} | {' | '.join(f'{100 * value:.1f} %' for value in values)} | "
                f"{', '.join(f'{100 * value:.2g} %' for value in chance)} |"
                for what, (values, chance) in rows.items()
            ),
            "",
        ]
    )
