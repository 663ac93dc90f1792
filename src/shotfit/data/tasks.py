"""What a task is: classes with their prompts, labeled images in parts, and a test part that can be sealed.

    task = read_task(Path("photos"))            # readers.py
    few = task.shots(16, seed=1).sealed()       # what a fit receives
    few.test                                    # ShotfitError

"Sealed" means that the test part is gone from the object, so that nothing that fits a model can reach it. The test part
itself may be any sequence; neither `sealed` nor `shots` looks at it.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shotfit.data.clips import together
from shotfit.data.images import SUFFIXES, is_unread
from shotfit.data.pictures import Picture, PictureLike
from shotfit.data.rules import Rule, part_digest
from shotfit.data.shots import draw, draw_sets
from shotfit.data.templates import DEFAULT_TEMPLATE, TEMPLATE_SETS
from shotfit.errors import ShotfitError, UsageError

__all__ = [
    "DEFAULT_TEMPLATE",
    "NO_LABEL",
    "TEMPLATE_SETS",
    "ClassList",
    "Item",
    "Task",
    "composed",
    "expand_templates",
    "joined",
    "plain_name",
]


NO_LABEL = -1
"""The label of a picture of none of the classes, in a task of several labels a picture."""


@dataclass(frozen=True)
class Item:
    """A labeled picture: label from 0, digest in hex ("" where it cannot be read).

    group: images of one group (a patient, a track, a shop) are never torn apart; "" is a group of its own. also: in a
    task of several labels a picture, the labels beside the first; `label` is NO_LABEL for a picture of none.
    """

    picture: Picture
    label: int
    digest: str
    group: str = ""
    also: tuple[int, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """All its labels; none for a picture of no class.

        >>> Item(Picture.of("a.png"), 0, "", also=(2,)).labels, Item(Picture.of("b.png"), NO_LABEL, "").labels
        ((0, 2), ())
        """
        return () if self.label == NO_LABEL else (self.label, *self.also)

    @property
    def strata(self) -> tuple[int, ...]:
        """What it counts for where a share of every class is taken: its labels, or having none."""
        return self.labels or (NO_LABEL,)

    def with_labels(self, labels: Sequence[int]) -> Item:
        """The same with other labels."""
        first, *others = labels or (NO_LABEL,)
        return replace(self, label=first, also=tuple(others))

    def under(self, rule: Rule) -> Item:
        """The same, whose picture is read under a rule. Raises UsageError where it was read under another one."""
        picture = self.picture.under(rule)
        return (
            self
            if picture is self.picture
            else replace(self, picture=picture, digest=self.digest and part_digest(self.digest, rule))
        )

    def as_lenient(self) -> Item:
        """The same, whose picture may be cut off. It has another digest, so that it is not taken for a whole one."""
        picture = self.picture.as_lenient()
        return replace(self, picture=picture, digest=picture.digest_of(self.digest))


@dataclass(frozen=True)
class ClassList:
    """The classes of a task in label order, and the templates that make prompts of their names.

    Names are kept as they were given, but in Unicode's form NFC (see `composed`); underscores become spaces in
    `readable` and `prompts`. Hyphens stay: they belong to words (jack-o'-lantern), and CLIP's own class names have
    them. Several names may be equal, as ImageNet's are. `parents`: the names above the task, the nearest first.
    `several_labels`: a picture may be of several classes, or of none, and each class is judged by itself.

    Raises:
        ShotfitError: no class, an empty name, no template, or a template without exactly one `{}`.
    """

    task: str
    names: tuple[str, ...]
    templates: tuple[str, ...] = (DEFAULT_TEMPLATE,)
    parents: tuple[str, ...] = ()
    several_labels: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", composed(self.task))
        object.__setattr__(self, "names", tuple(map(composed, self.names)))
        object.__setattr__(self, "templates", tuple(map(composed, self.templates)))
        object.__setattr__(self, "parents", tuple(map(composed, self.parents)))
        if not self.names:
            raise ShotfitError(f"task {self.task!r} has no classes; expected at least one.")
        for name in self.names:
            if not name.replace("_", " ").strip():
                raise ShotfitError(f"task {self.task!r} has a class with the empty name {name!r}; give it a name.")
            if not _is_text(name):
                raise ShotfitError(f"the class name {name!a} is not valid UTF-8; rename the class.")
        if not self.templates:
            raise ShotfitError(f"task {self.task!r} has no template; expected one such as {DEFAULT_TEMPLATE!r}.")
        for template in self.templates:
            _check_template(template)
        for name in self.parents:
            if not name.replace("_", " ").strip() or name == self.task or self.parents.count(name) > 1:
                raise ShotfitError(
                    f"task {self.task!r} has the parents {', '.join(map(repr, self.parents))}; expected other names "
                    "than its own, each once and none empty."
                )

    def as_json(self) -> dict[str, object]:
        """As plain data; a task without parents, or with one label a picture, as in versions that knew no other."""
        plain: dict[str, object] = {"task": self.task, "names": self.names, "templates": self.templates}
        plain |= {"parents": self.parents} if self.parents else {}
        return plain | ({"several_labels": True} if self.several_labels else {})

    @property
    def readable(self) -> tuple[str, ...]:
        """The names with spaces for underscores."""
        return tuple(name.replace("_", " ") for name in self.names)

    def prompts(self) -> list[list[str]]:
        """Each class in each template, [classes][templates].

        >>> ClassList("signs", ("no_passing",), ("a photo of a {} sign.",)).prompts()
        [['a photo of a no passing sign.']]
        """
        return [[template.replace("{}", name) for template in self.templates] for name in self.readable]


@dataclass(frozen=True, repr=False, eq=False)
class Task:
    """A classification task on images.

    `held_out` is the test part; None once the task is sealed; read it as `test`. `val` may be empty. `reader` and
    `test_origin` say in a few words how the images and the test part were found; `ignored` lists what lies in the
    source and is no image of a class, `loops` the links that lead back to a folder above them, `notes` what else there
    is to know of how it was read. `description` is for people. `padding` is what each box has around it, a share of its
    sides; None where images are whole pictures.
    """

    classes: ClassList
    train: tuple[Item, ...]
    val: tuple[Item, ...] = ()
    held_out: Sequence[Item] | None = ()
    source: Path = Path()
    reader: str = ""
    test_origin: str = ""
    ignored: tuple[Path, ...] = ()
    loops: tuple[Path, ...] = ()
    description: str = ""
    notes: tuple[str, ...] = ()
    padding: float | None = None

    def __repr__(self) -> str:
        test = "sealed" if self.is_sealed else f"{len(self.test):,}"
        counts = f"{len(self.train):,} train, {len(self.val):,} validation, {test} test images"
        return f"Task({self.name!r}, {len(self.classes.names):,} classes, {counts})"

    def passed_over(self) -> list[Path]:
        """The pictures among what was ignored, also in folders there: in no class, or not read."""
        files: list[Path] = []
        for path in self.ignored:
            walked = os.walk(path) if path.is_dir() else [(str(path.parent), [], [path.name])]
            files += [Path(parent) / name for parent, _, names in walked for name in sorted(names) if name[0] != "."]
        return [path for path in files if path.suffix.lower() in SUFFIXES or is_unread(path)]

    @classmethod
    def from_images(
        cls,
        images: Iterable[PictureLike],
        labels: Sequence[str] | Sequence[int] | Sequence[Sequence[str]] | Sequence[Sequence[int]],
        *,
        parts: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        name: str = "images",
        templates: Sequence[str] = (),
        classes: Sequence[str] = (),
        several_labels: bool = False,
    ) -> Task:
        """The task of images, each with its label or labels; see `given.from_images`, whose arguments these are.

        >>> parts = ["train", "train", "test"]
        >>> task = Task.from_images([b"...", b"....", b"....."], ["cat", "dog", "cat"], parts=parts)
        >>> task.classes.names, len(task.train), len(task.test)
        (('cat', 'dog'), 2, 1)
        """
        from shotfit.data.given import from_images  # which makes tasks
        from shotfit.data.listing import How

        return from_images(
            images, labels, parts=parts, groups=groups, name=name, templates=templates, classes=classes,
            how=How(several_labels=several_labels),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The task's name."""
        return self.classes.task

    @property
    def is_sealed(self) -> bool:
        """Whether the test part is out of reach."""
        return self.held_out is None

    @property
    def test(self) -> Sequence[Item]:
        """The test part.

        Raises:
            ShotfitError: the task is sealed.
        """
        if self.held_out is None:
            raise ShotfitError(
                f"the test part of task {self.name!r} is sealed while a model is fitted; "
                "evaluate the fitted model on the task as it was read."
            )
        return self.held_out

    def sealed(self) -> Task:
        """The task without its test part, which is not looked at."""
        return replace(self, held_out=None)

    def shots(self, shots: int, seed: int) -> Task:
        """The task with `shots` train images a class and at most 4 val images, by CoOp's rule (`shots.draw`).

        With several labels a picture, so many that each class has at least `shots` (`shots.draw_sets`). Of clips whole
        ones are drawn. The test part stays as it is. Raises UsageError for shots below 1 and negative seeds.
        """
        train, val = _units(self.train), _units(self.val)
        if self.classes.several_labels:
            drawn = draw_sets([unit[0].strata for unit in train], [unit[0].strata for unit in val], shots, seed)
        else:
            drawn = draw([unit[0].label for unit in train], [unit[0].label for unit in val], shots, seed)
        chosen = [tuple(item for place in places for item in units[place])
                  for units, places in zip((train, val), drawn, strict=True)]  # fmt: skip
        return replace(self, train=chosen[0], val=chosen[1])

    def support(self, shots: int | None, seed: int, validation: Literal["few", "full"] = "few") -> Task:
        """What a fit receives: the task sealed, with its shots (None: all images), and of the val part few or all.

        Raises UsageError for "full" of a task without a val part, and as `shots` does.
        """
        if validation not in ("few", "full"):
            raise UsageError(f"validation is {validation!r}; expected few or full.")
        drawn = self.sealed() if shots is None else self.sealed().shots(shots, seed)
        if validation == "few":
            return drawn
        if not self.val:
            raise UsageError(
                f"{self.name} has no validation part that could be used in full: leave the choice at few, which then "
                "takes cross-validation of the support images."
            )
        return replace(drawn, val=self.val)


def _units(items: Sequence[Item]) -> list[list[Item]]:
    """Images that are drawn as one: the frames of a clip, and each other one by itself."""
    clips = together(items, lambda item: item.picture.clip and f"{item.label} {item.picture.clip}")
    return [[items[place] for place in places] for places in clips]


def plain_name(name: str) -> str:
    """What class names of two tasks are compared by: case, underscores, further spaces and Unicode form do not count.

    >>> plain_name("Red__Fox ")
    'red fox'
    """
    return " ".join(composed(name).replace("_", " ").split()).casefold()


def composed(text: str) -> str:
    """The text in Unicode's form NFC: an accent and its letter are one character, however they were written.

    macOS and some archives write é in file names as e and an accent; keyboards and most programs write one character.

    >>> composed("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text)


def joined(parts: Sequence[tuple[ClassList, Sequence[Item]]]) -> tuple[Item, ...]:
    """The items of several tasks in task order, with labels that are numbered through the classes of all tasks.

    >>> items = [Item(Picture.of("a.png"), 1, "")]
    >>> pets, toys = ClassList("pets", ("cat", "dog")), ClassList("toys", ("ball", "doll"))
    >>> [item.label for item in joined([(pets, items), (toys, items)])]
    [1, 3]
    """
    found: list[Item] = []
    first = 0
    for classes, items in parts:
        found += [replace(item, label=first + item.label) for item in items] if first else items
        first += len(classes.names)
    return tuple(found)


def expand_templates(given: Sequence[str]) -> tuple[str, ...]:
    """The templates with the names of sets replaced by their templates.

    Raises:
        ShotfitError: neither a template (one `{}`) nor the name of a set.

    >>> len(expand_templates(["ensemble"]))
    8
    """
    templates = tuple(template for entry in given for template in TEMPLATE_SETS.get(entry, (entry,)))
    for template in templates:
        _check_template(template)
    return templates


def _check_template(template: str) -> None:
    if template.count("{}") != 1:
        raise ShotfitError(
            f"the template {template!r} holds {{}} {template.count('{}')} times; expected exactly once, for the class "
            f"name, as in {DEFAULT_TEMPLATE!r}, or the name of a set: {', '.join(TEMPLATE_SETS)}."
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
