"""Copies of, or links to, predicted pictures in a folder for each class. Nothing is moved, and nothing overwritten.

sorter = Sorter(Path("sorted"), ("cat", "dog"), link=False)
for prediction in sorter.placed(predictions): ...
sorter.counts                                               # {"cat": 12, "dog": 28}

A picture that has a file is copied as it is. A member of an archive or a row of a table becomes a file of its own
bytes, a box a PNG of what is in it. Where a file of the name is there with the same content, nothing is done; where it
has other content, the name gets a number.
"""

from __future__ import annotations

import filecmp
import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from shotfit.data.images import FORMATS, open_image
from shotfit.data.pictures import Picture
from shotfit.data.remote.pictures import RemotePicture
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import can_hold, write_new
from shotfit.fitting.predictions import Prediction

__all__ = ["UNKNOWN", "Sorter", "check_apart", "check_folder", "folder_names", "numbered", "safe_name"]

UNKNOWN = "_unknown"
"""The folder of images that belong to no class."""

LONGEST = 255  # bytes of a name, on nearly all file systems
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)  # Windows has devices there
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}  # of formats whose names are no endings
_BLOCK = 2**20


def safe_name(text: str) -> str:
    """A name that every file system takes for one file or folder: no slashes, no dots in front or at the end.

    >>> safe_name("cats/dogs"), safe_name(".."), safe_name("AUX"), safe_name("a?")
    ('cats_dogs', '_', 'AUX_', 'a_')
    """
    plain = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode()
    name = _UNSAFE.sub("_", plain).strip().lstrip(".").rstrip(". ")
    if _RESERVED.fullmatch(name):
        stem, dot, rest = name.partition(".")
        name = f"{stem}_{dot}{rest}"
    return _cut(name, LONGEST) or "_"


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """A folder for each class, all different, also where upper and lower case are the same.

    >>> folder_names(["cat", "CAT", "_unknown"])
    {'cat': 'cat', 'CAT': 'CAT-2', '_unknown': '_unknown-2'}
    """
    taken, found = {UNKNOWN}, dict[str, str]()
    for name in classes:
        safe = safe_name(name)
        found[name] = next(one for one in numbered(safe, "") if one.casefold() not in taken)
        taken.add(found[name].casefold())
    return found


def check_apart(folder: Path, sources: Sequence[str]) -> None:
    """Refuse to write into a folder what is made of the pictures in it.

    Raises UsageError.
    """
    place = folder.resolve()
    for source in sources:
        named = Path(source).resolve()
        if source != "-" and (named == place or place in named.parents):
            raise UsageError(f"{source} lies in {folder}, where files are to be written: name another folder.")


def check_folder(folder: Path) -> None:
    """Refuse what is no folder that files can be put into, nor can become one.

    Raises UsageError.
    """
    if (folder.exists() and not folder.is_dir()) or not can_hold(folder / "_"):
        raise UsageError(f"{folder} is no folder that files can be put into: name another one.")


class Sorter:
    """Puts predicted pictures into class folders below `folder`.

    classes: all that may be predicted. link: symbolic links to the files, in place of copies.
    counts: pictures by the name of their folder, those that were there already among them. there: how many of them
    were.

    Raises UsageError for a folder that cannot be one.
    """

    def __init__(self, folder: Path, classes: Sequence[str], link: bool = False) -> None:
        check_folder(folder)
        self.folder, self.link = folder, link
        self.names = folder_names(classes)
        self.counts, self.there = Counter[str](), 0

    def placed(self, found: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, each once its picture is in its folder; pictures that cannot be read are in none.

        Raises ShotfitError where a part of a file is to be linked, or a picture is no longer there; OSError, with the
        name of the file, where one cannot be written.
        """
        for one in found:
            if one.error is None and one.picture is not None:
                name = UNKNOWN if one.unknown else self.names[one.labels[0]]
                self.there += not self._place(one.picture, self.folder / name)
                self.counts[name] += 1
            yield one

    def _place(self, picture: Picture, folder: Path) -> bool:
        """Whether there is a new file; not if the same is there already."""
        file = (
            picture.path
            if picture.inside is None and picture.crop is None and not isinstance(picture, RemotePicture)
            else None
        )
        if self.link and file is None:
            what = "lies elsewhere" if isinstance(picture, RemotePicture) else "is a part of a file"
            raise ShotfitError(f"{picture} {what}, which no link can lead to: use --copy-to.")
        content = None if file is not None else _content(picture)
        folder.mkdir(parents=True, exist_ok=True)
        name = file.name if file is not None else _name(picture, content or b"")
        stem, ending = os.path.splitext(name)  # noqa: PTH122  (a name that is no text too)
        for one in numbered(stem, ending):
            target = folder / one
            if os.path.lexists(target):
                if _is_same(target, file, content):
                    return False
                continue
            try:
                if self.link:
                    _link(target, picture.path)
                else:
                    write_new(target, _blocks(picture) if content is None else [content], beside=self.folder)
                return True
            except FileExistsError:  # somebody else was faster
                if _is_same(target, file, content):
                    return False
        raise AssertionError("numbers have an end")


def _link(target: Path, file: Path) -> None:
    try:
        os.symlink(os.path.abspath(file), target)  # noqa: PTH100, PTH211  (what the user named, not what it leads to)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or error
        raise ShotfitError(f"{target} cannot be made a link ({said}): use --copy-to.") from error


def _blocks(picture: Picture) -> Iterator[bytes]:
    with picture.opened() as file:
        while block := file.read(_BLOCK):
            yield block


def _content(picture: Picture) -> bytes:
    """The bytes of a part of a file; those of a box are a PNG's."""
    if picture.crop is None:
        return b"".join(_blocks(picture))
    written = io.BytesIO()
    open_image(picture).save(written, "PNG")
    return written.getvalue()


def _name(picture: Picture, content: bytes) -> str:
    """What the file of a part of a file is called: as the member, or as the table and the number of the row."""
    elsewhere = picture.address.path if isinstance(picture, RemotePicture) else None
    if isinstance(picture.inside, str):
        name = PurePosixPath(picture.inside.replace("\\", "/")).name
    elif elsewhere is not None and picture.inside is None and picture.crop is None:
        name = elsewhere.name if elsewhere.suffix else elsewhere.name + _ending(content)
    else:
        row = "" if picture.inside is None else f"-{picture.inside}"
        name = f"{(elsewhere or picture.path).stem}{row}"
        if picture.crop is None:
            name += _ending(content)
    if picture.crop is not None:
        box = picture.crop
        stem = Path(name).stem if isinstance(picture.inside, str) else name
        name = f"{stem}-{box.left}_{box.top}_{box.width}_{box.height}.png"
    return safe_name(name)


def _ending(content: bytes) -> str:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        form = image.format or ""
    return _ENDINGS.get(form, f".{form.lower()}")


def numbered(stem: str, ending: str) -> Iterator[str]:
    """The name, then with 2, 3, ..., none of them too long."""
    for number in itertools.count(1):
        behind = f"{'' if number == 1 else f'-{number}'}{ending}"
        yield f"{_cut(stem, LONGEST - len(os.fsencode(behind)))}{behind}"


def _cut(name: str, size: int) -> str:
    """The name in at most so many bytes."""
    if len(os.fsencode(name)) <= size:
        return name
    while len(os.fsencode(name)) > size:
        name = name[: len(name) - max((len(os.fsencode(name)) - size) // 4, 1)]  # no letter has more than four bytes
    return name.rstrip(". ")


def _is_same(target: Path, file: Path | None, content: bytes | None) -> bool:
    """Whether what is there shows the same; a link that leads nowhere shows nothing."""
    if not target.is_file():
        return False
    if file is not None:
        return target.samefile(file) or filecmp.cmp(target, file, shallow=False)
    assert content is not None
    return target.stat().st_size == len(content) and target.read_bytes() == content
