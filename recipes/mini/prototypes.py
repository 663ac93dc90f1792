"""What names look like: the space that both towers speak in, and a place in it for every name.

EfficientNet-Lite1's classifier knows what a thousand classes look like from more than a million photographs. Its rows,
in coordinates where pooled features have unit variance, span the directions in which things differ that have names;
the 256 strongest are the words' part of the joint space. An image is there by a linear map of its pooled features. A
class is where its row is. Every other name is where names of like meaning are: kernel ridge regression from meanings
(MiniLM's vectors of the name, its synonyms, what is above it and its definition) to places. Names that drawings and
captions show join the thousand as places less sure than theirs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from pictures import Picture
from safetensors import safe_open
from safetensors.torch import save_file
from teachers import MiniLM
from torch import Tensor
from torch.nn import functional
from words import WordNet

__all__ = ["LIFT", "MENTIONS", "WORDS", "Bank", "Meanings", "Space", "captions_to_places", "make_bank", "visual_space"]

WORDS = 256  # directions of the joint space that text speaks in; the rest belongs to images alone
EVEN = 0.75  # the directions' strengths are divided by this power of themselves on the images' side
SHARPNESS, RIDGE = 4.0, 0.3  # of the regression: kernel exp(SHARPNESS (cosine - 1)), noise of a class of Lite1
DRAWINGS, MENTIONS = 3, 8  # pictures that a name needs, to have a place by them
DRAWN_NOISE, MENTIONED_NOISE = (3, 90), (0.3, 30)  # of such a place: the first, plus the second by the pictures
LIFT = 0.12  # most that is added to the cosines of a name whose place is not sure
FEW = 20  # so many pictures of a class count as much as half of what the classifier says of it


@dataclass
class Space:
    """The words' part of the joint space.

    mean [1472] of pooled features; directions [256, 1472], zero where the classifier does not read; classes
    [1000, 256], the places of Lite1's classes.
    """

    mean: Tensor
    directions: Tensor
    classes: Tensor

    def places(self, pooled: Tensor) -> Tensor:
        """Pooled features [n, 1472] to places [n, 256]."""
        return (pooled - self.mean) @ self.directions.T


def visual_space(classifier: Tensor, pooled: Tensor) -> Space:
    """From the classifier's rows [1000, 1280] and pooled features of photographs [n, 1472]."""
    mean = pooled.mean(0)
    read = (pooled - mean)[:, : classifier.shape[1]]
    values, axes = torch.linalg.eigh((read.T @ read / len(read)).double())
    values = values.clamp(min=1e-6)
    root, back = (axes @ torch.diag(values**power) @ axes.T for power in (0.5, -0.5))
    rows = (classifier - classifier.mean(0)).double() @ root
    left, strength, right = torch.linalg.svd(rows, full_matrices=False)
    left, strength, right = left[:, :WORDS], strength[:WORDS] / strength[0], right[:WORDS]
    directions = strength[:, None] ** (1 - EVEN) * (right @ back)
    directions = functional.pad(directions, (0, pooled.shape[1] - directions.shape[1]))
    return Space(mean, directions.float().contiguous(), (left * strength**EVEN).float().contiguous())


class Meanings:
    """MiniLM's vectors of names, of their senses in WordNet and of `wnids`, and of other texts; kept in `file`."""

    def __init__(
        self,
        wordnet: WordNet,
        minilm: MiniLM,
        names: Sequence[str],
        wnids: Sequence[str],
        others: Sequence[str],
        file: Path,
    ) -> None:
        self.wordnet = wordnet
        senses = {*wnids, *filter(None, map(wordnet.sense, names))}
        told = [text for sense in sorted(senses) for part in self._told(sense) for text in part]
        texts = sorted({*names, *others, *told})
        self.row = {text: index for index, text in enumerate(texts)}
        mark = sha256("\n".join(texts).encode()).hexdigest()
        self.vectors = _kept(file, mark)
        if self.vectors is None:
            print(f"MiniLM reads {len(texts)} texts", flush=True)
            self.vectors = minilm(texts)
            save_file({"vectors": self.vectors}, file, metadata={"texts": mark})
        self.mean = self.vectors[[self.row[name] for name in names]].mean(0)

    def _told(self, sense: str) -> tuple[list[str], list[str], list[str]]:
        """Synonyms, what is above, and the definition."""
        synset = self.wordnet.nouns[sense]
        above = [self.wordnet.nouns[wnid].lemmas[0] for wnid in self.wordnet.above(sense, 4)]
        return synset.lemmas, above, [synset.gloss] if synset.gloss else []

    def bare(self, texts: Sequence[str]) -> Tensor:
        """Centered vectors of the texts alone [texts, 384], length 1."""
        assert self.vectors is not None
        return functional.normalize(self.vectors[[self.row[text] for text in texts]] - self.mean, dim=-1)

    def of(self, names: Sequence[str], senses: Sequence[str | None]) -> Tensor:
        """Vectors of names in a sense [names, 384], length 1: name, synonyms, what is above, definition in equal parts.

        Where the sense is None the name stands for itself.
        """
        vectors = self.bare(names)
        for index, sense in enumerate(senses):
            for part in self._told(sense) if sense else ():
                if part:
                    vectors[index] += functional.normalize(self.bare(part).mean(0), dim=0)
        return functional.normalize(vectors, dim=-1)


def _kept(file: Path, mark: str) -> Tensor | None:
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as kept:
        return kept.get_tensor("vectors") if kept.metadata() == {"texts": mark} else None


@dataclass
class Bank:
    """Names whose places are known: meanings [n, 384], places [n, 256], noise [n] of each beside a class of Lite1."""

    meanings: Tensor
    places: Tensor
    noise: Tensor
    wnids: list[str]  # of Lite1's classes, "" for the others

    def without(self, wnids: set[str]) -> Bank:
        """As if these classes were not known."""
        rest = torch.tensor([wnid not in wnids for wnid in self.wnids])
        kept = [wnid for wnid in self.wnids if wnid not in wnids]
        return replace(self, meanings=self.meanings[rest], places=self.places[rest], noise=self.noise[rest], wnids=kept)

    @cached_property
    def _weights(self) -> Tensor:
        """The regression's [n, 256]."""
        kernel = torch.exp(SHARPNESS * (self.meanings @ self.meanings.T - 1)) + RIDGE * torch.diag(self.noise)
        return torch.linalg.solve(kernel, self.places - self.places.mean(0))

    def look(self, meanings: Tensor) -> Tensor:
        """Where names of these meanings [n, 384] are expected [n, 257]: places, length 1, and their lift.

        What is known from afar, or shown by pictures that differ much, is the mean of many places, and its pictures are
        less near to it than a class's to its own. The lift makes up for it: `LIFT` times what the mean lacks in length
        beside that of a class.
        """
        expected = self._expected(meanings)
        lift = LIFT * (1 - expected.norm(dim=-1, keepdim=True) / self._length)
        return torch.cat([functional.normalize(expected, dim=-1), lift], dim=-1)

    @cached_property
    def _length(self) -> Tensor:
        """Of the places of Lite1's classes."""
        return self._expected(self.meanings[torch.tensor([bool(wnid) for wnid in self.wnids])]).norm(dim=-1).mean()

    def _expected(self, meanings: Tensor) -> Tensor:
        """[n, 256], the shorter the less is known."""
        parts = [torch.exp(SHARPNESS * (part @ self.meanings.T - 1)) @ self._weights for part in meanings.split(4096)]
        return self.places.mean(0) + torch.cat(parts)


def make_bank(
    space: Space, pictures: list[Picture], places: Tensor, train: Tensor, names: dict[str, str], meanings: Meanings
) -> Bank:
    """Lite1's classes, corrected by their pictures, and names of drawings and captions by theirs.

    places [pictures, 256]. What all drawings of a source share, its style, is taken off.
    """
    centered = places.clone()
    for source in {picture.source for picture in pictures if not picture.photograph}:
        rows = [index for index in train.tolist() if pictures[index].source == source]
        centered[[i for i, p in enumerate(pictures) if p.source == source]] -= places[rows].mean(0)
    by_class, by_drawn, by_said = (defaultdict[str, list[int]](list) for _ in range(3))
    for index in train.tolist():
        picture = pictures[index]
        if picture.wnid:
            by_class[picture.wnid].append(index)
        else:
            by_name, names_of = (by_said, picture.names) if picture.photograph else (by_drawn, picture.names[:2])
            for name in names_of:
                by_name[name].append(index)
    classes, scale = space.classes.clone(), _scale(space, names, by_class, centered)
    for row, wnid in enumerate(names):
        count = len(by_class[wnid])
        if count:
            classes[row] += scale * count / (count + FEW) * centered[by_class[wnid]].mean(0)
    others = [
        (name, centered[rows].mean(0), noise + more / len(rows))
        for by_name, least, (noise, more) in ((by_drawn, DRAWINGS, DRAWN_NOISE), (by_said, MENTIONS, MENTIONED_NOISE))
        for name, rows in sorted(by_name.items())
        if len(rows) >= least
    ]
    told = [name for name, _, _ in others]
    return Bank(
        meanings.of([*names.values(), *told], [*names, *map(meanings.wordnet.sense, told)]),
        torch.cat([classes, scale * torch.stack([place for _, place, _ in others])]),
        torch.tensor([*[1.0] * len(names), *[noise for _, _, noise in others]]),
        [*names, *[""] * len(others)],
    )


def _scale(space: Space, names: dict[str, str], by_class: dict[str, list[int]], places: Tensor) -> float:
    """The factor from the mean of a class's pictures to the classifier's place for it, by least squares."""
    pairs = [
        (places[by_class[wnid]].mean(0), place)
        for wnid, place in zip(names, space.classes, strict=True)
        if len(by_class[wnid]) >= FEW
    ]
    means, known = (torch.stack(side) for side in zip(*pairs, strict=True))
    return ((means * known).sum() / (means * means).sum()).item()


def captions_to_places(captions: Tensor, places: Tensor, ridge: float = 1e-3) -> Tensor:
    """Where the pictures of captions are expected, by linear regression [n, 257]: places, length 1, and half the lift.

    captions [n, 384]: their meanings; places [n, 256]: those of their pictures.
    """
    from_mean = captions - captions.mean(0)
    products = from_mean.T @ from_mean / len(captions) + ridge * torch.eye(captions.shape[1])
    weights = torch.linalg.solve(products, from_mean.T @ (places - places.mean(0)) / len(captions))
    expected = functional.normalize(from_mean @ weights, dim=-1)
    return torch.cat([expected, torch.full((len(expected), 1), LIFT / 2)], dim=-1)
