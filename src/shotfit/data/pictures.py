"""Pictures: everything that shotfit reads as an image, and what each is called.

    Picture.of("photos/cat/1.jpg")
    Picture.of("shard-0003.tar::0001.jpg#xywh=10,20,50,60")     # a box of a member of an archive
    Picture.of(array)                                           # [height, width, 3] of uint8

| kind | written as | read by |
|---|---|---|
| file | `photos/cat/1.jpg` | this file |
| box of a picture | `street.jpg#xywh=40,30,200,180`: left, top, width, height in stored pixels | `images.py` |
| member of an archive | `shard-0003.tar::0001.jpg`, likewise of a .zip | `containers.py` |
| row of a table | `labels.parquet::17`, rows from 0, likewise of a .arrow file | `containers.py` |
| moment of a clip | `run.mp4#t=1.5`: the frame that is shown after 1.5 seconds | `video.py` |
| in memory | bytes, a PIL image, an array | this file |

**An existing path wins over every other reading of a name**, and a member's own name over a box of another member.

What has bytes has the digest of its bytes, wherever they lie, so that a file and the same file in an archive are one
image to the store, to shots and to test parts. A box, a moment and a rule (`rules.py`) add their numbers. A PIL image
or an array has the digest of its mode, size and pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from shotfit.data.containers import MAX_BYTES, PartError, is_container, is_member, is_table, open_member
from shotfit.data.rules import AS_STORED, Rule, part_digest
from shotfit.data.video import MAX_CLIP_BYTES, VIDEO_SUFFIXES
from shotfit.errors import UsageError
from shotfit.files import open_regular

__all__ = ["Crop", "Frame", "Picture", "PictureLike", "crop_in", "moment_in", "pictures_of"]

_ORIENTATION = 0x0112
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BOX = re.compile(r"#xywh=(?:pixel:)?(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})")

_MOMENT = re.compile(r"#t=(?:npt:)?(\d{1,7}(?:\.\d{1,3})?)")

# PIL decodes on the first access to the pixels of an opened file, and two threads may have the same image.
_loading = threading.Lock()


@dataclass(frozen=True)
class Crop:
    """A box of a picture in its stored pixels, before any rotation; printed as W3C media fragment."""

    left: int
    top: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.left, self.top) < 0 or min(self.width, self.height) < 1:
            raise UsageError(f"{self} is no box: left and top are 0 or more, width and height 1 or more.")

    def __str__(self) -> str:
        return f"#xywh={self.left},{self.top},{self.width},{self.height}"


@dataclass(frozen=True)
class Frame:
    """A place in a clip: what the clip is called, and which one of how many frames that are looked at, from 0."""

    clip: str
    number: int
    total: int


class Picture:
    """A file or a part of one, or an image in memory. Immutable; equal where file and part are.

    file: the path, absolute or not; None in memory. inside: the name of an archive's member or the number of a table's
    row. crop: a box of it. held: bytes or a PIL image; `name` is what it is called then. lenient: it is known to be cut
    off and may be read all the same, see `images.py`; its digest is another than without. moment: of a clip, in seconds
    from its beginning, to the millisecond. rule: how levels and bands become pixels. frame: its place in a clip that is
    one picture to whoever asked for it; it makes no other picture of it.
    """

    __slots__ = ("crop", "file", "frame", "held", "inside", "lenient", "moment", "name", "rule")

    def __init__(
        self,
        file: Path | None,
        inside: str | int | None = None,
        crop: Crop | None = None,
        *,
        held: bytes | Image.Image | None = None,
        name: str = "",
        lenient: bool = False,
        moment: float | None = None,
        rule: Rule = AS_STORED,
        frame: Frame | None = None,
    ) -> None:
        self.file, self.inside, self.crop, self.held, self.name = file, inside, crop, held, name
        self.lenient, self.moment, self.rule, self.frame = lenient, moment, rule, frame

    @classmethod
    def of(cls, source: PictureLike, name: str = "image") -> Picture:
        """The picture that is meant. name: what an image in memory is called.

        Raises UsageError for a value of another type, and for an array of another shape or type.

        >>> str(Picture.of("street.jpg#xywh=40,30,200,180"))
        'street.jpg#xywh=40,30,200,180'
        """
        if isinstance(source, Picture):
            return source
        if isinstance(source, (str, os.PathLike)):
            return _parsed(os.fspath(source))
        if hasattr(source, "read"):
            return cls(None, held=source.read(MAX_BYTES + 1), name=name)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls(None, held=bytes(source), name=name)
        if isinstance(source, Image.Image):
            return cls(None, held=source, name=name)
        if isinstance(source, dict) and source.keys() <= {"bytes", "path"} and any(source.values()):
            return cls.of(source.get("bytes") or source["path"], name)  # as `datasets` keeps images undecoded
        if hasattr(source, "__array__"):
            return cls(None, held=_from_array(np.asarray(source), name), name=name)
        raise UsageError(
            f"{name} is a {type(source).__name__}; expected a path, bytes, a PIL image or an array [height, width, 3]."
        )

    @property
    def whole(self) -> Picture:
        """The picture or clip that the box or moment is of, not lenient and under no rule; itself where it is that."""
        if self.crop is None and self.moment is None and not self.lenient and not self.rule:
            return self
        return self._with(crop=None, moment=None, lenient=False, rule=AS_STORED, frame=None)

    @property
    def clip(self) -> str:
        """The clip that it is a frame of and counts as a part of; "" for a picture by itself."""
        return "" if self.frame is None else self.frame.clip

    @property
    def source(self) -> str:
        """What it is a frame of, be it asked for as a whole or by this moment; "" for a picture by itself."""
        return self.clip or ("" if self.moment is None else str(self.whole))

    def of_crop(self, crop: Crop) -> Picture:
        """A box of this picture."""
        return self._with(crop=crop)

    def at(self, moment: float) -> Picture:
        """The frame of this clip that is shown after so many seconds."""
        return self._with(moment=round(moment, 3))

    def as_frame(self, frame: Frame) -> Picture:
        """The same picture as a frame of a clip."""
        return self._with(frame=frame)

    def as_lenient(self) -> Picture:
        """The same picture, which may be cut off."""
        return self._with(lenient=True)

    def under(self, rule: Rule) -> Picture:
        """The same picture under a rule. Raises UsageError where it is under another one already."""
        if self.rule and rule != self.rule:
            theirs = f"with {rule.flags()}" if rule else "without"
            raise UsageError(
                f"{self} was read with {self.rule.flags()}, and the model was fitted {theirs}: a model sees pictures "
                "as it learned them. Leave the flags out, or fit again."
            )
        return self if rule == self.rule else self._with(rule=rule)

    def _with(self, **changed: Any) -> Picture:
        """The same picture but for some fields."""
        fields = {name: getattr(self, name) for name in ("lenient", "moment", "rule", "frame")} | changed
        crop = fields.pop("crop", self.crop)
        return Picture(self.file, self.inside, crop, held=self.held, name=self.name, **fields)

    @property
    def suffix(self) -> str:
        """The ending of its name in lower case; "" where the name says nothing."""
        name = self.inside if isinstance(self.inside, str) else "" if self.inside is not None else self.file
        return "" if name is None else Path(name).suffix.lower()

    @property
    def path(self) -> Path:
        """The file, of a picture that is one or lies in one; UsageError in memory."""
        if self.file is None:
            raise UsageError(f"{self.name} is an image in memory; expected one that has a file.")
        return self.file

    def exists(self) -> bool:
        """Whether there is something under its name, be it a link that leads nowhere."""
        return self.held is not None if self.file is None else os.path.lexists(self.file)

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Its bytes, of the whole picture, as a file that can be read from anywhere.

        Raises OSError, ShotfitError and whatever a damaged archive or table makes its library raise; a PIL image has no
        bytes (TypeError).
        """
        if isinstance(self.held, Image.Image):
            raise TypeError(f"{self.name} has pixels, not bytes")
        if self.file is None:
            if self.held is None:
                raise PartError("is an address on the network, which is not fetched: download the picture.")
            yield io.BytesIO(self.held)
            return
        most = MAX_CLIP_BYTES if self.suffix in VIDEO_SUFFIXES else MAX_BYTES
        with (
            open_regular(self.file, most, "a picture")
            if self.inside is None
            else open_member(self.file, self.inside) as file
        ):
            yield file

    def pixels(self) -> Image.Image | None:
        """The PIL image that it holds, decoded; None where it has bytes."""
        if not isinstance(self.held, Image.Image):
            return None
        with _loading:
            self.held.load()
        return self.held

    def digest(self) -> str:
        """The sha256, as 64 hex digits, of what it shows; see above. Raises as `opened` does."""
        return self.digest_of(self._digest_of_whole())

    def digest_of(self, whole: str) -> str:
        """Its digest, from that of the whole picture, which `lenient` is not part of."""
        if self.lenient:  # what was read of it strictly, nothing, is never taken for this, nor this for that
            whole = part_digest(whole, "#lenient")
        for part in (self.crop, self._time or None, self.rule or None):
            whole = whole if part is None else part_digest(whole, part)
        return whole

    @property
    def _time(self) -> str:
        """The moment as a media fragment; "" without one."""
        return "" if self.moment is None else f"#t={f'{self.moment:.3f}'.rstrip('0').rstrip('.')}"

    def _digest_of_whole(self) -> str:
        found = hashlib.sha256()
        image = self.pixels()
        if image is not None:
            turned = image.getexif().get(_ORIENTATION, 1)
            found.update(f"{image.mode} {image.width} {image.height} {turned}\n".encode())
            if image.mode in ("P", "PA"):
                found.update(bytes(image.getpalette("RGB") or ()))
            found.update(repr(image.info.get("transparency")).encode())
            found.update(image.tobytes())
            return found.hexdigest()
        with self.opened() as file:
            while block := file.read(1024**2):
                found.update(block)
        return found.hexdigest()

    def __str__(self) -> str:
        where = self.name if self.file is None else str(self.file)
        inside = "" if self.inside is None else f"::{self.inside}"
        return f"{where}{inside}{'' if self.crop is None else self.crop}{self._time}"

    def __repr__(self) -> str:
        return f"Picture({str(self)!r})"

    def _key(self) -> tuple[object, ...]:
        held = None if self.held is None else id(self.held)
        return self.file, self.inside, self.crop, self.lenient, self.moment, self.rule, held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


PictureLike: TypeAlias = Picture | str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any]
"""What `Picture.of` takes."""


def pictures_of(sources: PictureLike | Iterable[PictureLike]) -> list[Picture]:
    """The pictures of one source or of several, which are called image 0, image 1, ... where they have no name.

    An array [n, height, width, 3] is n pictures. Raises UsageError, as `Picture.of` does.

    >>> [str(picture) for picture in pictures_of(["a.jpg", b"..."])]
    ['a.jpg', 'image 1']
    """
    single = (Picture, str, os.PathLike, bytes, bytearray, memoryview, Image.Image, dict)
    listed: Any = sources
    if isinstance(sources, single) or hasattr(sources, "read") or 2 <= getattr(sources, "ndim", 0) < 4:
        return [Picture.of(listed)]
    if not isinstance(sources, Iterable):
        return [Picture.of(listed, "images")]
    return [Picture.of(source, f"image {number}") for number, source in enumerate(listed)]


def crop_in(name: str) -> tuple[str, Crop | None]:
    """A name without the box at its end, and the box.

    >>> crop_in("street.jpg#xywh=40,30,200,180")
    ('street.jpg', Crop(left=40, top=30, width=200, height=180))
    """
    found = _BOX.search(name)
    if found is None or found.end() != len(name):
        return name, None
    return name[: found.start()], Crop(*(int(number) for number in found.groups()))


def moment_in(name: str) -> tuple[str, float | None]:
    """A name without the moment at its end, and the moment in seconds.

    >>> moment_in("run.mp4#t=1.5")
    ('run.mp4', 1.5)
    """
    found = _MOMENT.search(name)
    return (name, None) if found is None or found.end() != len(name) else (name[: found.start()], float(found[1]))


def _parsed(text: str) -> Picture:
    """The picture of a name: what exists as it stands, else the part of something that exists, else the name itself."""
    name, crop = crop_in(text)
    clip, moment = moment_in(text)
    readings: list[tuple[str, Crop | None, float | None]] = [(text, None, None)]
    readings += [] if crop is None else [(name, crop, None)]
    readings += [] if moment is None else [(clip, None, moment)]
    for one, cut, shown in readings:
        place = _placed(one)
        if place is not None:
            return Picture(*place, cut, moment=shown)
    return Picture(None, name=text) if _ADDRESS.match(text) else Picture(Path(text))


def _placed(name: str) -> tuple[Path, str | int | None] | None:
    """The file of a name, and what inside of it is meant; None where there is no such thing."""
    if os.path.lexists(name):
        return Path(name), None
    start = name.find("::")
    while start >= 0:
        container, inside = Path(name[:start]), name[start + 2 :]
        if is_container(container):
            if is_table(container):
                return (container, int(inside)) if re.fullmatch(r"\d{1,18}", inside) else None
            return (container, inside) if is_member(container, inside) else None
        start = name.find("::", start + 1)
    return None


def _from_array(array: np.ndarray[Any, Any], name: str) -> Image.Image:
    """An image of its own, which a change of the array does not reach."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    fits = (channels in (1, 3, 4) and array.dtype == np.uint8) or (channels == 1 and array.dtype == np.uint16)
    if not fits or 0 in array.shape:
        shape = ", ".join(map(str, array.shape))
        raise UsageError(
            f"{name} is an array [{shape}] of {array.dtype}; expected [height, width, 3] of uint8 with values from 0 "
            "to 255 (or gray [height, width], or 4 channels with alpha)."
        )
    return Image.fromarray(np.ascontiguousarray(array)).copy()
