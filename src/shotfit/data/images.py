"""Reading pictures: which formats, how large, and how each kind of pixel becomes 8-bit RGB.

    image = open_image(Picture.of("photos/cat/007.jpg"))     # a PIL image in mode RGB, upright

The rules, applied in this order:

    size            before anything is decoded, more bytes than MAX_BYTES, more pixels than MAX_PIXELS, a structure
                    beyond the bounds of `headers.py` and what takes more memory than MAX_DECODED are refused
    format          only FORMATS are tried, whatever the file's name says
    frames          the first frame of an animation, the first page of a TIFF, the moment of a clip (`video.py`)
    bands           those of a TIFF that the picture's rule names (`geotiff.py`)
    box             cut out of the stored pixels; what of it lies outside of the picture is left out
    rotation        the EXIF orientation is applied
    16 bit, float   scaled to 8 bit, see `levels.py` (Pillow alone clips at 255, which turns a 16-bit scan white), by
                    the window of the picture's rule if it has one; DICOM by its own rules (`dicom.py`)
    transparency    put on white (alpha channels, and transparent palette entries or gray levels)
    everything else Pillow's `convert("RGB")`: palettes, gray, black and white, CMYK (Adobe's inversion undone, no color
                    profile applied), YCbCr

`official=True` stops after the frames rule: the image in its own mode and as it lies in the file, for preprocessing
that follows the official readers, which ignore EXIF (but that of a TIFF) and leave everything to `convert("RGB")`.

`shorter=384` lets a JPEG be decoded at a half, a quarter or an eighth of its size, which costs a fraction of the time,
where its shorter side keeps so many pixels. Only sizes that divide evenly are reduced, so nothing shifts: each pixel
stands for a square of the picture's.

Threads share one budget of memory (`budget.py`). `opened_image` holds a picture's share of it while the image is worked
on, `open_image` only while it is made. Steps are such that never more than two whole copies of a picture exist.

A `lenient` picture may be cut off: what is missing of it is gray in a JPEG and black in other formats.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from traceback import clear_frames
from typing import Any

from PIL import Image, UnidentifiedImageError

from shotfit.data.budget import DECODING, Budget
from shotfit.data.containers import MAX_BYTES, PartError
from shotfit.data.decoded import AVIF, FORMATS, HEIF, MAX_PIXELS, Facts, check_size, cut_out, decoded, opened
from shotfit.data.dicom import DICOM, DICOM_SUFFIXES
from shotfit.data.headers import BombError
from shotfit.data.kinds import what_it_is
from shotfit.data.levels import banded, deep, eight_bits
from shotfit.data.pictures import Picture, PictureLike
from shotfit.data.remote.pictures import RemotePicture
from shotfit.data.video import VIDEO, VIDEO_SUFFIXES
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import UnreadableError
from shotfit.printing import cut, printable

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "BrokenImageError",
    "Facts",
    "TooLargeImageError",
    "as_jpeg",
    "as_stored",
    "digest",
    "extras_for",
    "image_size",
    "inspect",
    "is_truncated",
    "is_unread",
    "open_image",
    "opened_image",
    "shown",
    "stored_size",
    "unturned",
    "upright",
]

_LONGEST_NAME = 1000  # characters that are shown; systems allow some thousand

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"]
    + [".ppm", ".pgm", ".pbm", ".pnm"]
    + ([".avif"] if AVIF else [])
    + ([".heic", ".heif", ".hif"] if HEIF else [])
    + ([*VIDEO_SUFFIXES] if VIDEO else [])
    + ([*DICOM_SUFFIXES] if DICOM else [])
)
"""Names with these endings (in any case) count as images when a folder is read."""

UNREAD_SUFFIXES = (
    frozenset([".heic", ".heif", ".hif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".tga", ".ico"]).union(
        [".dng", ".cr2", ".cr3", ".nef", ".arw", *VIDEO_SUFFIXES, *DICOM_SUFFIXES]
    )
    - SUFFIXES
)
"""Endings of pictures that are not read, which people are told of."""

_EXTRAS = (
    ("heif", "HEIC", (".heic", ".heif", ".hif")),
    ("video", "clips", VIDEO_SUFFIXES),
    ("medical", "DICOM", DICOM_SUFFIXES),
)

_SIGNS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",
)  # fmt: skip
"""How the bytes of a picture begin, in formats that are hardly taken for others."""
_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # what stands behind "ftyp" in HEIC and AVIF

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(ShotfitError):
    """A picture that cannot be read as an image. `reason` is the sentence without its name: "is truncated (...)".

    A reason that ends with a full stop says itself what to do.
    """

    advice = "Replace or remove it."

    def __init__(self, picture: Picture, reason: str) -> None:
        super().__init__(f"{shown(picture)} {reason}" + ("" if reason.endswith(".") else f". {self.advice}"))
        self.picture, self.reason = picture, reason


class TooLargeImageError(BrokenImageError):
    """A picture above MAX_BYTES or MAX_PIXELS, or one that takes too much memory or time to decode."""

    advice = "Save it smaller or remove it."


def open_image(picture: PictureLike, *, official: bool = False, shorter: int | None = None) -> Image.Image:
    """The picture as 8-bit RGB by the rules above; with `official`, in its own mode and unrotated.

    shorter: a whole JPEG may be decoded at reduced size where its shorter side keeps so many pixels; None: never.

    Raises:
        BrokenImageError: missing, no image of FORMATS, truncated, damaged or not convertible.
        TooLargeImageError: above MAX_BYTES, MAX_PIXELS or another bound; nothing was decoded.
    """
    picture = Picture.of(picture)
    with ExitStack() as held, _told(picture):
        return cut_out(decoded(picture, held, shorter), picture) if official else _rgb(picture, held, shorter)[0]


@contextmanager
def opened_image(picture: PictureLike, *, shorter: int | None = None) -> Iterator[Image.Image]:
    """What `open_image` gives, and the memory that it takes is counted until the block is left, which closes it."""
    picture = Picture.of(picture)
    with ExitStack() as held:
        with _told(picture):
            image = _rgb(picture, held, shorter)[0]  # an image of its own, also where the picture holds one
        held.callback(image.close)  # before its share is given back: the caller's name for it lives on
        yield image


def as_jpeg(picture: Picture, side: int, quality: int) -> bytes:
    """A JPEG file of a picture, whatever its own file is, of `side` pixels at most; with the errors of `open_image`."""
    stream = io.BytesIO()
    with opened_image(picture, shorter=side) as image:
        image.thumbnail((side, side))
        image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def image_size(picture: Picture) -> tuple[int, int]:
    """Width and height of what `open_image` gives without `shorter`, from the header; with the same errors."""
    width, height, orientation = stored_size(picture)
    return (height, width) if orientation > 4 else (width, height)


def stored_size(picture: Picture) -> tuple[int, int, int]:
    """Width, height and EXIF orientation (1 to 8) as the picture lies in its file; with the errors of `image_size`."""
    with ExitStack() as held, _told(picture):
        found = opened(picture, held, budget=Budget(DECODING.total))  # nothing is decoded
        facts = found.shown(picture)
        return facts.width, facts.height, found.orientation


def inspect(picture: Picture) -> Facts:
    """Decode and convert the picture in full, as `open_image` does with the same errors, and say what it is."""
    with ExitStack() as held, _told(picture):
        return _rgb(picture, held)[1]


def as_stored(image: Image.Image, orientation: int) -> Image.Image:
    """An image as its picture lies in the file, from one that stands upright: the way back of the EXIF rotation."""
    turn = _TURNS.get({6: 8, 8: 6}.get(orientation, orientation))  # every other turn is its own way back
    return image if turn is None else image.transpose(turn)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The EXIF rotation, of an image that lies as its picture does in the file."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def unturned(sides: tuple[float, ...], width: float, height: float, orientation: int) -> tuple[float, ...]:
    """Left, top, right, bottom in stored pixels, from those in the upright picture of width and height."""
    left, top, right, bottom = sides
    if orientation in (2, 3, 6, 7):  # the stored picture runs the other way along the upright width
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)


def is_truncated(error: BrokenImageError) -> bool:
    """Whether a picture could not be read because its end is missing: a lenient one might be."""
    return error.reason.startswith("is truncated")


def digest(picture: Picture) -> str:
    """The picture's digest, see `Picture.digest`; with the errors of `open_image` for what cannot be read."""
    with _told(picture):
        check_size(picture)
        return picture.digest()


def is_unread(path: Path) -> bool:
    """Whether a file is a picture that is passed over: of a format that is not read, or without an ending."""
    if path.suffix:
        return path.suffix.lower() in UNREAD_SUFFIXES
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            begin = file.read(12)
    except OSError:
        return False
    return (
        begin.startswith(_SIGNS)
        or (begin[:4] == b"RIFF" and begin[8:] == b"WEBP")
        or (begin[4:8] == b"ftyp" and begin[8:] in _BRANDS)
    )


def extras_for(paths: Iterable[Path]) -> list[str]:
    """What to install so that those of these files are read that are not: "pip install 'shotfit[video]' for clips"."""
    found = {path.suffix.lower() for path in paths} - SUFFIXES
    return [f"pip install 'shotfit[{extra}]' for {what}" for extra, what, suffixes in _EXTRAS if found & set(suffixes)]


def shown(path: Path | Picture) -> str:
    """A name as people read it: relative to the working folder where it lies inside, of bounded length, printable."""
    text = str(path)
    with suppress(ValueError, OSError):  # elsewhere, or the working folder was removed
        here = str(Path.cwd())
        text = "." if text == here else text.removeprefix(here.rstrip(os.sep) + os.sep)
    return printable(cut(text, _LONGEST_NAME))


def _rgb(picture: Picture, held: ExitStack, shorter: int | None = None) -> tuple[Image.Image, Facts]:
    """What the picture shows, by all rules. Each step makes a new image of one that is dropped then."""
    found = decoded(picture, held, shorter)
    facts, declared = found.shown(picture), found.header.full
    orientation = 1 if found.turned else found.orientation
    image = cut_out(found, picture)
    del found
    image = upright(image, orientation)
    if deep(image):
        image, full = eight_bits(image, declared, picture.rule.window)
        facts = replace(facts, full=full)
    if picture.rule:
        facts = replace(facts, plain=all(low == high for low, high in _ranges(image)))
    if image.has_transparency_data:
        image = banded(image, "RGB", _on_white)
    elif image.mode != "RGB":
        image = banded(image, "RGB", lambda band: band.convert("RGB"))
    return (image.copy() if image is picture.held else image), facts


def _ranges(image: Image.Image) -> list[tuple[int, int]]:
    """The lowest and highest level of each channel."""
    found: Any = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")


def _missing(picture: Picture) -> str:
    dangling = picture.file is not None and picture.file.is_symlink()
    if dangling and picture.file is not None and ".git/annex/" in str(picture.file.readlink()):
        return "is a link of git-annex to a file that is not here: run `git annex get`."
    return "is a link to a file that does not exist" if dangling else "does not exist"


@contextmanager
def _told(picture: Picture) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged picture into one sentence, which keeps none of its pixels."""
    try:
        with _forgotten():
            yield
    except (BrokenImageError, UsageError, MemoryError):
        raise
    except (PartError, UnreadableError) as error:
        missing = isinstance(error, UnreadableError) and error.missing
        reason = _missing(picture) if missing else error.args[0] if isinstance(error, PartError) else error.reason
        if isinstance(error, UnreadableError) and isinstance(picture, RemotePicture) and not missing:
            reason += "."  # nothing is known against the picture itself
        raise BrokenImageError(picture, reason) from error
    except ShotfitError as error:
        raise BrokenImageError(picture, f"cannot be read ({str(error).rstrip('.')})") from error
    except BombError as error:
        raise TooLargeImageError(picture, error.args[0]) from error
    except Image.DecompressionBombError as error:
        raise TooLargeImageError(picture, f"has more than the {MAX_PIXELS:,} pixels that are decoded") from error
    except FileNotFoundError as error:
        raise BrokenImageError(picture, _missing(picture)) from error
    except UnidentifiedImageError as error:
        raise BrokenImageError(picture, _what_it_is(picture)) from error
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        said = " ".join(said.split())[:200] or type(error).__name__
        if "truncated" in said.lower():
            advice = "Replace it, or pass --lenient (lenient=True) to fill what is missing."
            raise BrokenImageError(picture, f"is truncated ({said}). {advice}") from error
        raise BrokenImageError(picture, f"cannot be read as an image ({said})") from error


@contextmanager
def _forgotten() -> Iterator[None]:
    """An error lives on, in a future or as a cause: drop what the functions that it ended had in their variables."""
    outer = sys.exc_info()[1]  # what a caller is handling is its own
    try:
        yield
    except Exception as error:
        seen: BaseException | None = error
        while seen is not None and seen is not outer:
            clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        raise


def _what_it_is(picture: Picture) -> str:
    with picture.opened() as file:
        begin = file.read(1024)
    if not begin:
        return "is empty (0 bytes)"
    return what_it_is(begin, heif=HEIF) or f"is no image of a format that is read ({', '.join(FORMATS)})"
