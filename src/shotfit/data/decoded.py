"""From a picture's bytes to a decoded image in its own mode, within bounds of memory and time.

    with ExitStack() as held:
        found = decoded(picture, held)      # found.image, found.facts

Nothing is decoded before its header was looked at (`headers.py`) and its share of the memory is free (`budget.py`);
`held` gives the share back. What follows, the rules that make RGB of it, is in `images.py`.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import BinaryIO

from PIL import Image

from shotfit.data.budget import DECODING, Budget
from shotfit.data.containers import MAX_BYTES, PartError
from shotfit.data.dicom import is_dicom, read_scan
from shotfit.data.geotiff import bands_in
from shotfit.data.headers import BombError, Header, orientation_of, read_header
from shotfit.data.kinds import looks_like_heif
from shotfit.data.levels import RANGES, joined
from shotfit.data.pictures import Picture
from shotfit.data.video import MAX_CLIP_BYTES, SCRATCH, VIDEO_SUFFIXES, clip_in

__all__ = [
    "AVIF", "FORMATS", "HEIF", "MAX_PIXELS", "Facts", "Opened", "boxes_together", "check_size", "cut_out", "decoded",
    "opened",
]  # fmt: skip

MAX_PIXELS = 120_000_000  # a 108-megapixel photograph passes

# Pillow 11.3 and later decode AVIF where they were built with it; naming an unknown format would make Pillow raise.
AVIF = importlib.util.find_spec("PIL._avif") is not None
HEIF = importlib.util.find_spec("pillow_heif") is not None

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", *(("AVIF",) if AVIF else ()))
"""Pillow's names of the formats that are tried. JPEG stands also for MPO, several JPEGs in one, which phones write.

HEIC and HEIF are read too where pillow-heif is installed (extra `heif`).
"""

_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORIENTATIONS = range(2, 9)

_NATIVE = "B" if sys.byteorder == "little" else "L"  # the other order
_SWAPPED = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", _NATIVE))
}

_SOME = 32  # bytes of compressed pixels that a lenient JPEG has at least
_IN_MEMORY = 4 * 2**20  # files up to this size are read at once, which is faster than the decoders' many small reads
_KEPT = 256 * 2**20 // (os.cpu_count() or 1)  # bytes of a decoded image that a thread keeps for the boxes that follow

_NOTHING = Image.new("L", (1, 1))  # in the place of what is decoded later

_last = threading.local()

# Blocks above 32 MB go back to the system when they are freed; Pillow's of 16 MB stay with their thread.
with suppress(AttributeError):
    Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]

# Pillow warns of large pictures, for which there is a bound here, and of odd metadata, which is no news to the user.
# `catch_warnings` works on the whole process, so only one thread may be in it.
_header = threading.Lock()
if hasattr(os, "register_at_fork"):  # no child gets it locked by a thread that it does not have
    os.register_at_fork(before=_header.acquire, after_in_parent=_header.release, after_in_child=_header.release)


@dataclass(frozen=True)
class Facts:
    """What a decoded picture is, before any rule: Pillow's format ("" in memory) and mode, the size as stored, of the
    box if there is one, and its peculiarities.

    full: the level that became 255, of a picture of more than 8 bits (0: of 8 bits, in a window, or its own range was
    stretched). stretched: a DICOM file that names no window. bands: of a TIFF of which bands were asked for. plain: one
    level alone is left of it.
    """

    format: str
    mode: str
    width: int
    height: int
    rotated: bool
    transparent: bool
    animated: bool
    full: int = 0
    stretched: bool = False
    bands: int = 0
    plain: bool = False


@dataclass
class Opened:
    """An image, decoded or not, and what is known of it.

    turned: it already stands upright, as Pillow makes TIFFs while they are decoded. file: what it is decoded from.
    later: what decodes it, where Pillow does not; until then, `image` is nothing.
    """

    picture: Picture
    image: Image.Image
    facts: Facts
    header: Header
    orientation: int = 1
    turned: bool = False
    file: BinaryIO | None = None
    later: Callable[[], Image.Image] | None = None

    def shown(self, picture: Picture) -> Facts:
        """The facts about what the picture shows of it."""
        left, top, right, bottom = self.edges(picture)
        return replace(self.facts, width=right - left, height=bottom - top)

    def edges(self, picture: Picture) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what the picture shows of it, in stored pixels."""
        width, height, crop = self.facts.width, self.facts.height, picture.crop
        if crop is None:
            return 0, 0, width, height
        right, bottom = min(crop.left + crop.width, width), min(crop.top + crop.height, height)
        if right <= crop.left or bottom <= crop.top:
            raise PartError(f"is a box outside of its picture of {width} x {height} pixels")
        return crop.left, crop.top, right, bottom


def opened(picture: Picture, held: ExitStack, shorter: int | None = None, budget: Budget = DECODING) -> Opened:
    """The first frame, not decoded yet where it has bytes; `held` closes its file and gives back its memory."""
    image = picture.pixels()
    if image is not None and picture.rule.bands:
        raise PartError("is an image in memory, and --bands names the bands of a TIFF")
    if image is not None:
        orientation = image.getexif().get(_ORIENTATION, 1)
        orientation = orientation if orientation in _ORIENTATIONS else 1
        _check_pixels(picture, *image.size)
        held.enter_context(budget.taken(8 * image.width * image.height))
        return Opened(picture, image, _facts(image, image.size, orientation), Header(), orientation)
    check_size(picture)
    file = held.enter_context(picture.opened())
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if picture.moment is not None or picture.suffix in VIDEO_SUFFIXES:
        return _frame(picture, file, held, budget)
    begin = file.read(132)
    file.seek(0)
    if is_dicom(begin):
        return _scan(picture, file, held, budget)
    if size <= _IN_MEMORY or picture.lenient:
        file = io.BytesIO(file.read())
    with _header:
        header = read_header(file)
    if picture.rule.bands:
        return _bands(picture, header, file, held, budget)
    if header.format == "RAW":
        raise PartError("is a camera's raw file. Save it as JPEG or PNG.")
    if header.format == "JPEG" and picture.lenient:
        if size < header.start + _SOME:
            raise PartError("is truncated (nothing of its pixels is there)")
        file = io.BytesIO(file.read() + b"\xff\xd9")  # where it ends, so that what is there gets decoded
    _check_pixels(picture, header.width, header.height)
    share = _share(header.width, header.height, shorter) if header.format == "JPEG" and picture.crop is None else 1
    in_memory = size if picture.file is None or picture.inside is not None else 0
    taken = held.enter_context(ExitStack())
    taken.enter_context(budget.taken(_memory(picture, header, share) + in_memory))
    with _header, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _pillow(file)
        _check_pixels(picture, *image.size)
        orientation, stored = _orientation(image), image.size
    if image.width * image.height > header.width * header.height:  # a header that was not understood
        taken.close()
        header = replace(header, width=image.width, height=image.height)
        taken.enter_context(budget.taken(_memory(picture, header, 1)))
    if image.format == "TIFF" and header.orientation > 4:
        stored = image.size[::-1]
    if share > 1:
        image.draft(None, (header.width // share, header.height // share))
    facts = _facts(image, stored, orientation)
    return Opened(picture, image, facts, header, orientation, image.format == "TIFF", file)


def _frame(picture: Picture, file: BinaryIO, held: ExitStack, budget: Budget) -> Opened:
    """The frame of a clip, decoded later. Raises PartError for a clip of which no moment is named."""
    clip = held.enter_context(clip_in(file))
    moment = picture.moment
    if moment is None:
        clip.check_whole()
        raise PartError("is a clip, not a picture: name a moment of it, if it lies here, as in CLIP.mp4#t=1.5.")
    width, height = clip.size
    held.enter_context(budget.taken(SCRATCH * width * height))
    facts = Facts(clip.codec.upper(), "RGB", width, height, rotated=False, transparent=False, animated=False)
    return Opened(picture, _NOTHING, facts, Header(), later=lambda: clip.at(moment))


def _scan(picture: Picture, file: BinaryIO, held: ExitStack, budget: Budget) -> Opened:
    """The first frame of a DICOM file, decoded later."""
    with _header:  # it silences warnings
        scan = read_scan(file)
    _check_pixels(picture, scan.width, scan.height)
    held.enter_context(budget.taken(24 * scan.width * scan.height))  # stored, as floats, in 8 bits
    mode = "RGB" if scan.samples == 3 else "L" if scan.bits <= 8 else "I;16"
    facts = Facts("DICOM", mode, scan.width, scan.height, rotated=False, transparent=False, animated=scan.frames > 1)
    window = picture.rule.window
    if scan.samples == 1 and window is None and scan.window is None:
        facts = replace(facts, stretched=True)

    def decode() -> Image.Image:
        with _header:
            return scan.decode(window)

    return Opened(picture, _NOTHING, facts, Header(), later=decode)


def _bands(picture: Picture, header: Header, file: BinaryIO, held: ExitStack, budget: Budget) -> Opened:
    """The bands that the picture's rule names, decoded later. Raises PartError for what is no TIFF."""
    if header.format != "TIFF":
        raise PartError("is no TIFF, and --bands names the bands of one")
    _check_pixels(picture, header.width, header.height)
    with _header:  # it silences warnings
        bands = held.enter_context(bands_in(file.read()))
    rule = picture.rule
    bands.check(rule.bands)
    width, height = bands.size
    most = (len(rule.bands) * (bands.bytes + 2) + 16) * width * height + header.scratch * bands.bytes
    if most > DECODING.total:
        raise BombError(f"takes {most / 1e9:,.1f} GB of memory to decode, more than there is for pictures")
    held.enter_context(budget.taken(most))
    mode = "RGB" if len(rule.bands) == 3 else "L"
    facts = Facts("TIFF", mode, width, height, False, False, False, bands=bands.count)
    return Opened(picture, _NOTHING, facts, Header(), later=lambda: bands.decode(rule.bands, rule.window))


def _pillow(file: BinaryIO) -> Image.Image:
    begin = file.read(16)
    file.seek(0)
    if HEIF and looks_like_heif(begin):
        from pillow_heif import HeifImageFile

        with suppress(SyntaxError):  # an AVIF may begin in the same way
            return HeifImageFile(file)  # type: ignore[no-untyped-call]
        file.seek(0)
    return Image.open(file, formats=FORMATS)


def check_size(picture: Picture) -> None:
    """Refuse a file that is too large before it is opened, as what it is: too large."""
    size = picture.file.stat().st_size if picture.file is not None and picture.inside is None else 0
    most = MAX_CLIP_BYTES if picture.suffix in VIDEO_SUFFIXES else MAX_BYTES
    if size > most:
        raise BombError(f"has {size:,} bytes, more than the {most:,} that are read")


def _check_pixels(picture: Picture, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width:,} x {height:,}"
        raise BombError(f"has {size} pixels, more than the {MAX_PIXELS:,} that are decoded")


def _memory(picture: Picture, header: Header, share: int) -> int:
    """Bytes that the picture takes at most: while it is decoded, then in two copies, one made from the other."""
    pixels, rows = header.width * header.height // share**2, 16 * header.height
    most = max(4 * pixels + header.scratch, 8 * pixels) + rows
    if most > DECODING.total:
        taken, total = (f"{number / 1e9:,.1f} GB" for number in (most, DECODING.total))
        raise BombError(f"takes {taken} of memory to decode, more than the {total} that there are for pictures")
    return most


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 where there is none; by hand, because Pillow's way reads all of EXIF first."""
    if image.format == "HEIF":  # its decoder turns it
        return 1
    found: int | None
    if image.format == "TIFF":
        found = image.getexif().get(_ORIENTATION, 1)
    else:
        info = image.info
        exif, raw = info.get("exif"), info.get("Raw profile type exif")
        if exif is None and isinstance(raw, str):
            with suppress(ValueError):
                exif = bytes.fromhex("".join(raw.split("\n")[3:]))
        found = orientation_of(exif) if isinstance(exif, bytes) else None
        if found is None:
            said = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
            written = _XMP_ORIENTATION.search(said.encode("utf-8", "replace") if isinstance(said, str) else said)
            found = int(written[1]) if written else 1
    return found if found in _ORIENTATIONS else 1


def _facts(image: Image.Image, stored: tuple[int, int], orientation: int) -> Facts:
    return Facts(
        format=image.format or "",
        mode=image.mode,
        width=stored[0],
        height=stored[1],
        rotated=orientation > 1,
        transparent=image.has_transparency_data,
        # the further pictures in an MPO are previews and depth maps, not frames
        animated=image.format != "MPO" and getattr(image, "is_animated", False),
    )


def decoded(picture: Picture, held: ExitStack, shorter: int | None = None) -> Opened:
    """The first frame, decoded; of a picture that boxes are cut from, a thread keeps the last one, if it is small.

    Within `boxes_together` it keeps a large one too.
    """
    if picture.crop is None or picture.file is None:
        found = opened(picture, held, shorter)
        _load(found)
        return found
    state = picture.file.stat()
    key = (picture.whole, picture.lenient, picture.rule, state.st_size, state.st_mtime_ns, state.st_ino)
    kept: tuple[object, Opened] | None = getattr(_last, "kept", None)
    if kept is not None and kept[0] == key:
        return kept[1]
    together: ExitStack | None = getattr(_last, "together", None)
    if together is not None:
        _last.kept = None  # a picture at a time: its memory goes before that of the next is waited for
        together.close()
    found = opened(picture, held if together is None else together)
    _load(found)
    small = 4 * found.image.width * found.image.height <= _KEPT
    _last.kept = (key, found) if small or together is not None else None
    return found


@contextmanager
def boxes_together() -> Iterator[None]:
    """Within the block, this thread decodes a picture once for the boxes that follow one another, however large it is.

    The picture holds its share of the memory meanwhile.
    """
    with ExitStack() as held:
        _last.together = held
        try:
            yield
        finally:
            _last.together = None
            kept: tuple[object, Opened] | None = getattr(_last, "kept", None)
            if kept is not None and 4 * kept[1].image.width * kept[1].image.height > _KEPT:
                _last.kept = None


def _load(found: Opened) -> None:
    """Decode what was opened. A lenient picture may be cut off, if anything of it is there."""
    if found.later is not None:
        found.image, found.later = found.later(), None
        return
    image, lenient = found.image, found.picture.lenient
    window = found.picture.rule.window
    deep_raw = _deep_raw(image) if (found.header.full < 65535 or window) and not lenient else ""
    try:
        with _quiet(image):
            image.load()
    except Exception:
        if not lenient or image.format in ("WEBP", "AVIF", "HEIF"):
            raise
        image.tile = []  # type: ignore[attr-defined]  # nothing more is decoded
        image.load()
    if lenient and _blank(image):
        raise PartError("is truncated (nothing of its pixels is there)")
    highest = max((high for _, high in image.getextrema()[:3]), default=255) if deep_raw else 255  # type: ignore[misc]
    if (highest < 64 or (deep_raw and window)) and found.file is not None:
        found.file.seek(0)
        with _header, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lower = _pillow(found.file)
        lower.tile = [(*tile[:3], _swapped(tile[3])) for tile in lower.tile]  # type: ignore[attr-defined]
        lower.load()
        full = 0 if window else next(full for full in RANGES if highest <= full >> 8)
        joined(image, lower, full, window)
        found.facts = replace(found.facts, full=full)
    found.file = None


@contextmanager
def _quiet(image: Image.Image) -> Iterator[None]:
    """Without Pillow's warning of large pictures, which it repeats while it decodes a TIFF."""
    if image.format != "TIFF" or image.width * image.height < (Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
        yield
        return
    with _header, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _blank(image: Image.Image) -> bool:
    ranges = image.getextrema()
    return all(low == high for low, high in (ranges if isinstance(ranges[0], tuple) else (ranges,)))


def _deep_raw(image: Image.Image) -> str:
    """The layout of 16 bits a channel that an image of 8 is read from, "RGB;16B"; "" if there is none."""
    raws = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in getattr(image, "tile", ()) if tile[3]}
    raw = raws.pop() if len(raws) == 1 else ""
    return raw if isinstance(raw, str) and raw in _SWAPPED else ""


def _swapped(args: object) -> object:
    """The same with the bytes of each channel in the other order, so that the lower ones are read."""
    return _SWAPPED[args] if isinstance(args, str) else (_SWAPPED[args[0]], *args[1:])  # type: ignore[index]


def cut_out(found: Opened, picture: Picture) -> Image.Image:
    """What the picture shows of the decoded image."""
    if picture.crop is None:
        return found.image
    left, top, right, bottom = found.edges(picture)
    if not found.turned or found.orientation == 1:
        return found.image.crop((left, top, right, bottom))
    width, height = found.facts.width, found.facts.height
    if found.orientation in (2, 3, 7, 8):  # what was left is right, or below
        left, right = width - right, width - left
    if found.orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return found.image.crop((left, top, right, bottom) if found.orientation < 5 else (top, left, bottom, right))


def _share(width: int, height: int, shorter: int | None) -> int:
    """The even share of its size that a JPEG is decoded at: the smallest whose shorter side has so many pixels."""
    for share in (8, 4, 2):
        if shorter is not None and width % share == height % share == 0 and min(width, height) // share >= shorter > 0:
            return share
    return 1
