"""The doctor: looks at every image and class before anything long starts, and reports all problems together.

    report = examine(task, shots=16, cache=folder)
    report.raise_for_errors()           # one line
    for problem in report.warnings: print(problem.message)

Errors stop a fit: images that cannot be read or are too large to be decoded, links that loop, classes without images.
Warnings do not: what the rules of `images.py` change (modes, rotation, animations), small images, copies, few images,
names that look alike. What was found in a file is kept by its content, so that a second run reads no image.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import PIL

from shotfit.data.filecache import FileCache, in_threads
from shotfit.data.images import (
    BrokenImageError,
    Facts,
    TooLargeImageError,
    extras_for,
    inspect,
    is_truncated,
    is_unread,
    shown,
)
from shotfit.data.namecheck import naming_advice, without_meaning
from shotfit.data.pictures import Picture
from shotfit.data.tasks import Item, Task, plain_name
from shotfit.errors import ShotfitError, first_few
from shotfit.progress import track

__all__ = ["SMALL", "Problem", "Report", "examine"]

SMALL = 32
"""Images with a side below so many pixels are reported."""

_RULES = f"2, pillow {PIL.__version__}"  # verdicts are kept under this name; the number goes up when the rules change

_MODES = {
    "1": "black and white",
    "L": "gray",
    "LA": "gray with an alpha channel",
    "P": "in palette colors",
    "RGBA": "RGB with an alpha channel",
    "CMYK": "CMYK",
    "I;16": "16-bit gray",
    "I;16B": "16-bit gray",
    "I": "32-bit gray",
    "F": "floating-point gray",
}

_TRUNCATED = "truncated"
_FILE_ERRORS = ("unreadable", "too large", "loop")


@dataclass(frozen=True)
class Problem:
    """One problem: its kind (a short fixed word or two), a sentence, and the pictures it concerns."""

    kind: str
    message: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that the doctor found in a task."""

    source: Path
    images: int
    classes: int
    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

    def raise_for_errors(self, skip_broken: bool = False, flags: str = "") -> None:
        """Raise one sentence if there are errors; with `skip_broken`, those of single files do not count.

        flags: with which the source was read, for the command that shows all of them.

        Raises:
            ShotfitError: how many problems there are, the first of them, and what to do.
        """
        errors = [error for error in self.errors if not (skip_broken and error.kind in _FILE_ERRORS)]
        if not errors:
            return
        first = "; ".join(error.message.rstrip(".") for error in errors[:3])
        more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
        files_only = all(error.kind in _FILE_ERRORS for error in errors)
        if self.source == Path():  # images and labels from Python, which no command reads
            skip = " Pass skip_broken=True to leave these out." if files_only else ""
            raise ShotfitError(f"there is {_count(len(errors), 'problem')} with the images: {first}{more}.{skip}")
        skip = ", or pass --skip-broken to leave these files out" if files_only else ""
        raise ShotfitError(
            f"{shown(self.source)} has {_count(len(errors), 'problem')}: {first}{more}. Run "
            f"`shotfit doctor {shlex.quote(shown(self.source))}{flags}` to see all of them{skip}."
        )

    def without_broken(self, task: Task) -> Task:
        """The task without the files that cannot be read or are too large, and with those read leniently that may be.

        What is read leniently has a digest of its own, so that its features are not taken for those of another.
        """
        broken = {picture for error in self.errors if error.kind in _FILE_ERRORS for picture in error.pictures}
        cut_off = {picture for found in self.warnings if found.kind == _TRUNCATED for picture in found.pictures}

        def whole(items: Sequence[Item]) -> tuple[Item, ...]:
            kept = (item for item in items if item.picture not in broken)
            return tuple(item.as_lenient() if item.picture in cut_off else item for item in kept)

        held_out = None if task.is_sealed else whole(task.test)
        return replace(task, train=whole(task.train), val=whole(task.val), held_out=held_out)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data: problems as objects of kind, message and paths, which are the pictures' names."""

        def plain(problems: Sequence[Problem]) -> list[dict[str, Any]]:
            return [
                {"kind": found.kind, "message": found.message, "paths": [str(one) for one in found.pictures]}
                for found in problems
            ]

        return {
            "source": str(self.source),
            "images": self.images,
            "classes": self.classes,
            "errors": plain(self.errors),
            "warnings": plain(self.warnings),
        }


@dataclass(frozen=True)
class _Verdict:
    """What decoding a file gave: facts, or an error of a kind. `lasting`: it follows from the content alone.

    cut_off: the facts are those of a file that is truncated and was read leniently.
    """

    facts: Facts | None = None
    kind: str = ""
    reason: str = ""
    lasting: bool = True
    cut_off: bool = False


def examine(
    task: Task, shots: int | None = None, cache: Path | None = None, to_fit: bool = True, lenient: bool = False
) -> Report:
    """Look at all images and classes of a task; in a sealed task at all but the test part.

    Args:
        shots: also report classes with fewer train images than this.
        cache: the folder in which verdicts are kept; without it every image is decoded.
        to_fit: a class without a train image is an error, unless no class has one; else any image of it will do.
        lenient: a truncated file is a warning if anything of its pixels is there.
    """
    held_out: Sequence[Item] = () if task.is_sealed else task.test
    items = [*task.train, *task.val, *held_out]
    verdicts = _verdicts(items, FileCache(cache), lenient)

    def readable(part: Sequence[Item]) -> list[Item]:
        return [item for item in part if verdicts[item.picture].facts]

    usable = [(item, facts) for item in items if (facts := verdicts[item.picture].facts)]
    learned = to_fit and bool(task.train)
    train = _counted(item for item in task.train if verdicts[item.picture].facts)
    errors = [
        *(
            Problem("loop", f"{shown(path)} is a link that leads back to itself. Remove it.", (Picture(path),))
            for path in task.loops
        ),
        *_broken(items, verdicts),
        *_empty_classes(task, train if learned else _counted(item for item, _ in usable), learned),
        *(_nothing_without(task) if learned else ()),
    ]
    warnings = [
        *(_few_images(task, train, shots) if to_fit else ()),
        *(_one_class(task) if to_fit else ()),
        *_similar_names(task),
        *_meaningless_names(task),
        *_copies(readable([*task.train, *task.val]), readable(held_out)),
        *_torn_groups(readable([*task.train, *task.val]), readable(held_out)),
        *_truncated(items, verdicts),
        *_peculiar(usable),
        *_rules(usable),
        *_unread_formats(task),
    ]
    return Report(task.source, len(items), len(task.classes.names), tuple(errors), tuple(warnings))


def _counted(items: Iterable[Item]) -> Counter[int]:
    """The images of each class; a clip counts once."""
    once = {(label, item.picture.clip or place) for place, item in enumerate(items) for label in item.labels}
    return Counter(label for label, _ in once)


def _verdicts(items: Sequence[Item], cache: FileCache, lenient: bool) -> dict[Picture, _Verdict]:
    """The verdict on each picture: kept ones by content, the others by decoding, once for all copies."""
    rules = f"{_RULES}, lenient" if lenient else _RULES
    kept = cache.verdicts((item.digest for item in items if item.digest), rules)
    found = {digest: _from_json(text) for digest, text in kept.items()}
    first: dict[str, Item] = {}
    for item in items:
        if _key(item) not in found:
            first.setdefault(_key(item), item)
    done = in_threads(partial(_verdict, lenient=lenient), [item.picture for item in first.values()])
    new: dict[str, str] = {}
    try:
        for (key, item), verdict in zip(first.items(), track(done, "checking images", total=len(first)), strict=True):
            found[key] = verdict
            if item.digest and verdict.lasting:
                new[item.digest] = json.dumps(asdict(verdict))
    finally:
        cache.keep_verdicts(new, rules)  # an interrupted run goes on where it was
    return {item.picture: found[_key(item)] for item in items}


def _key(item: Item) -> str:
    return item.digest or str(item.picture)


def _verdict(picture: Picture, lenient: bool) -> _Verdict:
    try:
        return _Verdict(facts=inspect(picture), cut_off=picture.lenient)
    except BrokenImageError as error:
        if lenient and not picture.lenient and is_truncated(error):
            return _verdict(picture.as_lenient(), lenient)
        kind = "too large" if isinstance(error, TooLargeImageError) else "unreadable"
        from_system = isinstance(error.__cause__, OSError) and error.__cause__.errno is not None
        return _Verdict(kind=kind, reason=error.reason, lasting=not from_system)


def _from_json(text: str) -> _Verdict:
    fields = json.loads(text)
    return _Verdict(**{**fields, "facts": Facts(**fields["facts"]) if fields["facts"] else None})


def _broken(items: Sequence[Item], verdicts: Mapping[Picture, _Verdict]) -> Iterator[Problem]:
    for picture in dict.fromkeys(item.picture for item in items):
        verdict = verdicts[picture]
        if verdict.facts is None:
            error = TooLargeImageError if verdict.kind == "too large" else BrokenImageError
            yield Problem(verdict.kind, str(error(picture, verdict.reason)), (picture,))


def _truncated(items: Sequence[Item], verdicts: Mapping[Picture, _Verdict]) -> Iterator[Problem]:
    cut_off = tuple(dict.fromkeys(item.picture for item in items if verdicts[item.picture].cut_off))
    if cut_off:
        said = f"{_count(len(cut_off), 'image', 'is', 'are')} truncated (what is missing was filled)"
        yield Problem(_TRUNCATED, f"{said}, e.g. {shown(cut_off[0])}", cut_off)


def _empty_classes(task: Task, counts: Mapping[int, int], learned: bool) -> Iterator[Problem]:
    if task.classes.several_labels and not learned:  # each class is judged by itself
        return
    for label, name in enumerate(task.classes.names):
        if not counts.get(label):
            part = "train image" if learned else "image"
            yield Problem(
                "empty class", f"class {name!r} has no {part} that can be read. Add some or remove the class."
            )


def _nothing_without(task: Task) -> Iterator[Problem]:
    """Of several labels a picture."""
    if task.classes.several_labels and len(task.classes.names) == 1 and all(item.labels for item in task.train):
        yield Problem(
            "one class",
            f"there is one class, {task.classes.names[0]!r}, and every picture has it: add pictures without it, with "
            "an empty label, or other classes",
        )


def _few_images(task: Task, counts: Mapping[int, int], shots: int | None) -> Iterator[Problem]:
    names = task.classes.names
    single = [name for label, name in enumerate(names) if counts.get(label) == 1]
    if single:
        message = (
            f"{_count(len(single), 'class', 'has', 'have')} a single train image: {first_few(single, 5)} "
            "(learned from, and left out of the check)"
        )
        yield Problem("one image", message)
    few = [f"{name} ({counts[label]})" for label, name in enumerate(names) if 0 < counts.get(label, 0) < (shots or 0)]
    if few:
        message = (
            f"{_count(len(few), 'class', 'has', 'have')} fewer train images than the {shots} shots: {first_few(few, 5)}"
        )
        yield Problem("few images", message)


def _one_class(task: Task) -> Iterator[Problem]:
    if len(task.classes.names) == 1 and not task.classes.several_labels:
        name = task.classes.names[0]
        message = f"{name!r} is the only class, so every picture is predicted as it; expected a folder for each class"
        yield Problem("one class", message)


def _similar_names(task: Task) -> Iterator[Problem]:
    alike: dict[str, list[str]] = defaultdict(list)
    for name in task.classes.names:
        alike[plain_name(name)].append(name)
    for names in alike.values():
        if len(set(names)) > 1:
            listed = " and ".join(repr(name) for name in dict.fromkeys(names))
            yield Problem("similar names", f"the class names {listed} differ only in case or underscores")
        elif len(names) > 1:
            yield Problem("similar names", f"{len(names)} classes have the same name {names[0]!r}")


def _meaningless_names(task: Task) -> Iterator[Problem]:
    found = without_meaning(task.classes.names)
    if found:
        yield Problem("meaningless names", naming_advice(found, len(set(task.classes.names))))


def _copies(learned: Sequence[Item], held_out: Sequence[Item]) -> Iterator[Problem]:
    """Files of equal content: in the test part and another, under two classes, or twice in a class."""
    same: dict[str, list[tuple[Item, bool]]] = defaultdict(list)
    for items, tested in ((learned, False), (held_out, True)):
        for item in items:
            same[item.digest].append((item, tested))
    groups: dict[tuple[str, str], list[list[Item]]] = defaultdict(list)
    for digest, found in same.items():
        if not digest or len(found) == 1:
            continue
        group, apart = [item for item, _ in found], len({tested for _, tested in found}) > 1
        if apart:
            groups["train and test", "in the test part and in another"].append(group)
        if len({item.strata for item in group}) > 1:
            groups["two classes", "under more than one class"].append(group)
        elif not apart:
            groups["copies", "there more than once"].append(group)
    for (kind, said), several in groups.items():
        example = " and ".join(shown(item.picture) for item in several[0][:2])
        message = f"{_count(len(several), 'image', 'is', 'are')} {said}, e.g. {example}"
        yield Problem(kind, message, tuple(item.picture for group in several for item in group))


def _torn_groups(learned: Sequence[Item], held_out: Sequence[Item]) -> Iterator[Problem]:
    """Groups that the source's own split puts into the test part and into another."""
    both = {item.group for item in learned} & {item.group for item in held_out} - {""}
    if both:
        said = f"{_count(len(both), 'group', 'has', 'have')} images in the test part and in another"
        torn = tuple(item.picture for item in (*learned, *held_out) if item.group in both)
        yield Problem("torn groups", f"{said}, e.g. {min(both)!r}; the accuracy there is too high", torn)


def _peculiar(usable: Sequence[tuple[Item, Facts]]) -> Iterator[Problem]:
    """What the rules of `images.py` change in the files, and small images; one problem for all files of a kind."""
    modes = Counter(facts.mode for _, facts in usable if facts.mode != "RGB")
    tests: list[tuple[str, str, Callable[[Facts], bool]]] = [
        ("mode", f"{_MODES.get(mode, 'not RGB')} (mode {mode}; converted to RGB)", partial(_has_mode, mode))
        for mode in sorted(modes)
    ]
    tests += [
        (
            "range",
            f"of {full.bit_length()} bits, stored in more (0 to {full:,} becomes 0 to 255)",
            partial(_has_full, full),
        )
        for full in sorted({facts.full for _, facts in usable} & {255, 1023, 4095, 16383})
    ]
    tests += [
        ("transparency", "transparent (put on white)", lambda facts: facts.transparent),
        ("rotation", "turned by EXIF (applied)", lambda facts: facts.rotated),
        (
            "animation",
            "of several frames or pages (the first is used; of a GIF, --frames 8 takes more)",
            lambda facts: facts.animated,
        ),
        ("small", f"smaller than {SMALL} pixels", lambda facts: min(facts.width, facts.height) < SMALL),
    ]
    for kind, said, test in tests:
        odd = tuple(dict.fromkeys(item.picture for item, facts in usable if test(facts)))
        if odd:
            yield Problem(kind, f"{_count(len(odd), 'image', 'is', 'are')} {said}, e.g. {shown(odd[0])}", odd)


def _rules(usable: Sequence[tuple[Item, Facts]]) -> Iterator[Problem]:
    """What a window or bands (`rules.py`) do to the files, or would."""
    windowed = [(item, facts) for item, facts in usable if item.picture.rule.window is not None]
    tests: list[tuple[str, str, Sequence[tuple[Item, Facts]], Callable[[Facts], bool]]] = [
        ("window", "of one level alone under this window or these bands", usable, lambda facts: facts.plain),
        (
            "window",
            "of 8 bits, which --window leaves as they are",
            windowed,
            lambda facts: facts.mode in ("L", "P", "1", "LA") and facts.format != "DICOM" and not facts.bands,
        ),
        (
            "window",
            "DICOM without a window (the levels of each are stretched by themselves; --window gives one to all)",
            usable,
            lambda facts: facts.stretched,
        ),
    ]
    for kind, said, among, test in tests:
        odd = tuple(dict.fromkeys(item.picture for item, facts in among if test(facts)))
        if odd:
            yield Problem(kind, f"{_count(len(odd), 'image', 'is', 'are')} {said}, e.g. {shown(odd[0])}", odd)
    counts = sorted({facts.bands for _, facts in usable if facts.bands})
    if len(counts) > 1:
        fewest = tuple(item.picture for item, facts in usable if facts.bands == counts[0])
        numbers = " and ".join(map(str, counts[:2])) + (", ..." if len(counts) > 2 else "")
        said = f"the images have different numbers of bands ({numbers}), so that one number may mean different bands"
        yield Problem("bands", f"{said}, e.g. {shown(fewest[0])}", fewest)


def _has_full(full: int, facts: Facts) -> bool:
    return facts.full == full and facts.mode != "F"


def _has_mode(mode: str, facts: Facts) -> bool:
    return facts.mode == mode


def _unread_formats(task: Task) -> Iterator[Problem]:
    unread = tuple(Picture(path) for path in task.ignored if is_unread(path))
    if unread:
        use = ", or ".join(["save as JPEG or PNG to use", *extras_for(picture.path for picture in unread)])
        said = f"{_count(len(unread), 'image', 'is', 'are')} of a format that is not read, or without an ending"
        yield Problem("format", f"{said}, e.g. {shown(unread[0])}; {use}", unread)


def _count(number: int, word: str, one: str = "", more: str = "") -> str:
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number:,} {word if number == 1 else plural} {one if number == 1 else more}".rstrip()
