"""What a reader of a format gets and gives: how to read, rows of pictures with labels, and the listing of classes.

Each format is a module in `formats/` with two functions, and `readers.py` has the table of them:

    def recognizes(source: Path) -> bool: ...                   # a quick look; never an error
    def read(source: Path, how: How) -> Listing: ...            # ShotfitError for what is malformed

Most readers make rows, and `listed` makes a listing of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from shotfit.data.clips import Sampling
from shotfit.data.pictures import Picture
from shotfit.data.rules import Rule
from shotfit.data.tasks import composed
from shotfit.errors import ShotfitError, UsageError, first_few

__all__ = [
    "AS_IT_IS", "PARTS", "How", "Listing", "Part", "Row", "check_padding", "listed", "named", "part_named",
    "parts_named", "without_picture",
]  # fmt: skip

Part = Literal["train", "val", "test"]

PARTS: tuple[Part, ...] = ("train", "val", "test")

_PART_WORDS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "trn": "train",
    "tst": "test",
    "holdout": "test",
}
_EVALUATION = ("eval", "evaluation")
_HOLDERS = ("set", "images", "imgs", "img", "data", "dataset", "split", "part", "shard", "shards")
"""What may stand behind a part: train_images, but not train_station."""
_JOINED = re.compile(rf"({'|'.join(_PART_WORDS)})(?:{'|'.join(_HOLDERS)})")
_SIZE = re.compile(r"\d+(?:x\d+)?")
_YEAR = re.compile(r"(?:19|20)\d\d$")

MOST_PADDING = 10.0  # a box in the middle of a picture 21 times as wide
_LONGEST_NUMBER = 100  # digits of a label that is sorted by number


def part_named(name: str) -> Part | None:
    """The part that a folder, file or entry is called, in its usual spellings; None for another word.

    >>> [part_named(name) for name in ("Training", "seg_valid", "train2017", "testset", "train_station")]
    ['train', 'val', 'train', 'test', None]
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _YEAR.sub("", name.strip()))  # TrainImages
    words = [word for word in re.split(r"[_\-. ]+", spaced.casefold()) if word]
    while len(words) > 1 and (words[-1].rstrip("0123456789") in _HOLDERS or _SIZE.fullmatch(words[-1])):
        del words[-1]  # train_split1, train_64x64
    if not words:
        return None
    joined = _JOINED.fullmatch(words[-1])  # trainset
    return _PART_WORDS.get(joined[1] if joined else words[-1].rstrip("0123456789"))  # test1


def parts_named(names: Iterable[str]) -> dict[str, Part]:
    """The parts among names that stand side by side: `eval` is for validation where there is a test part beside it.

    >>> parts_named(["train", "eval"]), parts_named(["train", "eval", "test", "birds"])
    ({'train': 'train', 'eval': 'test'}, {'train': 'train', 'eval': 'val', 'test': 'test'})
    """
    found = {name: part for name in names if (part := part_named(name)) is not None}
    tests = [name for name, part in found.items() if part == "test"]
    others = [name for name in tests if not any(word in name.casefold() for word in _EVALUATION)]
    return {name: "val" if others and name in tests and name not in others else part for name, part in found.items()}


@dataclass(frozen=True)
class How:
    """What the user says about a source.

    images: where its paths begin; None: beside it. path_column, label_column, group_column: names of columns, or keys;
    None: the usual ones, and no groups. read_as: the name of its format; None: the one that recognizes it. padding:
    what boxes get around them, a share of their sides (`annotated.py`); None: nothing. frames, fps: what is looked at
    of clips, as in `Sampling`. window, bands: how levels and bands become pixels, as in `Rule`. several_labels: a
    picture may have several labels, or none.
    """

    images: Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    read_as: str | None = None
    padding: float | None = None
    frames: int | None = None
    fps: float | None = None
    window: Sequence[float] | None = None
    bands: Sequence[int] | None = None
    several_labels: bool = False

    @property
    def sampling(self) -> Sampling:
        """What is looked at of clips. Raises UsageError."""
        return Sampling(self.frames, self.fps)

    @property
    def rule(self) -> Rule:
        """How levels and bands become pixels. Raises UsageError."""
        return Rule.of(self.window, self.bands or ())

    @property
    def sees(self) -> bool:
        """Whether anything was said of clips, levels or bands."""
        return self.sampling.asked or bool(self.rule)

    def under(self, rule: Rule, padding: float | None) -> How:
        """The same with the window and bands of a rule, and with that padding."""
        return replace(self, window=rule.window, bands=rule.bands or None, padding=padding)

    def flags(self) -> dict[str, object]:
        """What was said, by the flags of the command line that say it; None where nothing was."""
        said = {f"--{name.replace('_', '-')}": None if value is False else value for name, value in vars(self).items()}
        for flag in ("--window", "--bands"):
            value = said[flag]
            said[flag] = None if value is None else ",".join(f"{number:g}" for number in value)
        return said

    @property
    def has_columns(self) -> bool:
        """Whether any column was named."""
        return any(value is not None for flag, value in self.flags().items() if flag.endswith("-column"))

    def check_columns(self, source: Path, what: str) -> None:
        """Refuse names of columns for a source without columns; what: "class folders". Raises UsageError."""
        for flag, name in self.flags().items():
            if flag.endswith("-column") and name is not None:
                raise UsageError(
                    f"a {flag.removeprefix('--').replace('-', ' ')} ({name}) goes with a manifest or another table; "
                    f"{source.name} is read as {what}, which have no columns: name the file that has them, "
                    "or its format with --read-as."
                )


AS_IT_IS = How()


def check_padding(padding: float | None) -> None:
    """Refuse what is no padding of boxes. Raises UsageError."""
    if padding is not None and not 0 <= padding <= MOST_PADDING:
        raise UsageError(
            f"padding is {padding:g}; expected a share of a box's sides from 0 to {MOST_PADDING:g}, such as 0.1."
        )


@dataclass(frozen=True)
class Row:
    """A picture as a source lists it.

    group: images that belong together; "" is one by itself. known: the classes that the source names, where a picture
    may have several of them.
    """

    picture: Picture
    label: str
    part: Part = "train"
    group: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Classes under the names they have in the source, in label order, and the pictures of each part with their labels.

    reader: what it was read as, in a few words. numbered: whether a number before every class name is its order (see
    `classnames.py`). groups: the group of each picture of a part, where the source names groups. notes: what the user
    should know about how it was read, a sentence each. padding: what each box has around it; None where pictures are
    whole. known: the classes that the source names, as in `Row`.
    """

    reader: str
    classes: tuple[str, ...]
    parts: dict[Part, list[tuple[Picture, int]]]
    numbered: bool
    test_origin: str = ""
    ignored: tuple[Path, ...] = field(default=())
    loops: tuple[Path, ...] = field(default=())
    groups: dict[Part, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    padding: float | None = None
    known: tuple[str, ...] = ()

    def groups_of(self, part: Part) -> list[str]:
        """The group of each picture of a part, "" for one by itself."""
        return self.groups.get(part) or [""] * len(self.parts[part])


def _composed(row: Row) -> Row:
    return replace(row, label=composed(row.label), group=composed(row.group))


def listed(
    rows: Iterable[Row],
    reader: str,
    test_origin: str = "",
    *,
    classes: Iterable[str] = (),
    ignored: Iterable[Path] = (),
    loops: Iterable[Path] = (),
    notes: Iterable[str] = (),
) -> Listing:
    """The listing of rows, in their order.

    classes: the class names in label order, where the source has an order; labels beyond them, or all, are sorted, by
    number if all are numbers. test_origin: said where rows of the test part are among them.
    """
    rows = [row if row.label.isascii() and row.group.isascii() else _composed(row) for row in rows]
    known = list(dict.fromkeys(map(composed, classes)))
    others = sorted({row.label for row in rows} - set(known))
    if all(label.isdecimal() and len(label) < _LONGEST_NUMBER for label in others):
        others.sort(key=int)
    position = {label: i for i, label in enumerate([*known, *others])}
    parts: dict[Part, list[tuple[Picture, int]]] = {part: [] for part in PARTS}
    groups: dict[Part, list[str]] = {part: [] for part in PARTS}
    for row in rows:
        parts[row.part].append((row.picture, position[row.label]))
        groups[row.part].append(row.group)
    told = {id(row.known): row.known for row in rows}  # mostly one for all
    return Listing(
        reader=reader,
        classes=tuple(position),
        parts=parts,
        numbered=not known,
        test_origin=test_origin if parts["test"] else "",
        ignored=tuple(sorted(ignored)),
        loops=tuple(sorted(loops)),
        groups=groups if any(row.group for row in rows) else {},
        notes=tuple(notes),
        known=tuple(dict.fromkeys(composed(name) for names in told.values() for name in names)),
    )


def named(listing: Listing, names: Sequence[str], where: str) -> Listing:
    """The listing with the names of classes that were numbers from 0; those without a picture are left out and noted.

    where: what holds the names, as an error says it. Raises ShotfitError for a number without a name.
    """

    def is_known(label: str) -> bool:
        return label.isdecimal() and len(label) < 10 and int(label) < len(names)

    wrong = [label for label in listing.classes if not is_known(label)]
    if wrong:
        raise ShotfitError(f"the label {wrong[0][:80]!r} is not among the {len(names):,} class names of {where}.")
    kept = [int(label) for label in listing.classes]
    called = tuple(names[number] for number in kept)
    return replace(listing, classes=called, numbered=False, notes=(*listing.notes, *without_picture(names, called)))


def without_picture(names: Sequence[str], used: Iterable[str]) -> list[str]:
    """The note of class names that no picture has; none where all are used.

    >>> without_picture(["cat", "dog"], ["cat"])
    ['1 of 2 class names have no picture: dog']
    """
    found = set(used)
    missing = [name for name in names if name not in found]
    return [f"{len(missing):,} of {len(names):,} class names have no picture: {first_few(missing)}"] if missing else []
