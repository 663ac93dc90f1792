"""Reading pictures: which formats, how large, and how each kind of pixel becomes 8-bit RGB.

    image = open_image(Picture.of("photos/cat/007.jpg"))     # a PIL image in mode RGB, upright

The rules, applied in this order:

    size            bytes above MAX_BYTES or a picture above MAX_PIXELS are refused before anything is decoded
    format          only FORMATS are tried, whatever the file's name says
    frames          the first frame of an animation, the first page of a TIFF
    box             cut out of the stored pixels; what of it lies outside of the picture is left out
    rotation        the EXIF orientation is applied
    16 bit, float   scaled to 8 bit, see `_eight_bits` (Pillow alone clips at 255, which turns a 16-bit scan white)
    transparency    put on white (alpha channels, and transparent palette entries or gray levels)
    everything else Pillow's `convert("RGB")`: palettes, gray, black and white, CMYK (Adobe's inversion undone, no color
                    profile applied), YCbCr

`official=True` stops after the frames rule: the image in its own mode and as it lies in the file, for preprocessing
that follows the official readers, which ignore EXIF and leave everything to `convert("RGB")`.

`shorter=384` lets a JPEG be decoded at a half, a quarter or an eighth of its size, which costs a fraction of the time,
where its shorter side keeps so many pixels. Only sizes that divide evenly are reduced, so nothing shifts: each pixel
stands for a square of the picture's.
"""

from __future__ import annotations

import importlib.util
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shotfit.data.containers import MAX_BYTES, PartError
from shotfit.data.pictures import Picture
from shotfit.errors import ShotfitError, UsageError
from shotfit.files import UnreadableError
from shotfit.printing import printable

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "BrokenImageError",
    "Facts",
    "TooLargeImageError",
    "digest",
    "image_size",
    "inspect",
    "is_unread",
    "open_image",
    "shown",
    "stored_size",
]

MAX_PIXELS = 120_000_000  # a 108-megapixel photograph passes

# Pillow 11.3 and later decode AVIF where they were built with it; naming an unknown format would make Pillow raise.
_AVIF = importlib.util.find_spec("PIL._avif") is not None

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", *(("AVIF",) if _AVIF else ()))
"""Pillow's names of the formats that are tried. JPEG stands also for MPO, several JPEGs in one, which phones write."""

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"]
    + [".ppm", ".pgm", ".pbm", ".pnm"]
    + ([".avif"] if _AVIF else [])
)
"""Names with these endings (in any case) count as images when a folder is read."""

UNREAD_SUFFIXES = frozenset(
    [".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".tga", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw"]
).difference(SUFFIXES)
"""Endings of pictures that are not read, which people are told of."""

_SIGNS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",
)  # fmt: skip
"""How the bytes of a picture begin, in formats that are hardly taken for others."""
_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif")  # what stands behind "ftyp" in HEIC and AVIF

_ORIENTATION = 0x0112

# Pillow warns of large pictures, for which there is a bound here, and of odd metadata, which is no news to the user.
# `catch_warnings` works on the whole process, so only one thread may be in it.
_header = threading.Lock()
if hasattr(os, "register_at_fork"):  # no child gets it locked by a thread that it does not have
    os.register_at_fork(before=_header.acquire, after_in_parent=_header.release, after_in_child=_header.release)


class BrokenImageError(ShotfitError):
    """A picture that cannot be read as an image. `reason` is the sentence without its name: "is truncated (...)"."""

    advice = "Replace or remove it."

    def __init__(self, picture: Picture, reason: str) -> None:
        super().__init__(f"{shown(picture)} {reason}. {self.advice}")
        self.picture, self.reason = picture, reason


class TooLargeImageError(BrokenImageError):
    """A picture above MAX_BYTES or MAX_PIXELS."""

    advice = "Save it smaller or remove it."


@dataclass(frozen=True)
class Facts:
    """What a decoded picture is, before any rule: Pillow's format ("" in memory) and mode, the size as stored, of the
    box if there is one, and its peculiarities.
    """

    format: str
    mode: str
    width: int
    height: int
    rotated: bool
    transparent: bool
    animated: bool


def open_image(picture: Picture, *, official: bool = False, shorter: int | None = None) -> Image.Image:
    """The picture as 8-bit RGB by the rules above; with `official`, in its own mode and unrotated.

    shorter: a whole JPEG may be decoded at reduced size where its shorter side keeps so many pixels; None: never.

    Raises:
        BrokenImageError: missing, no image of FORMATS, truncated, damaged or not convertible.
        TooLargeImageError: above MAX_BYTES or MAX_PIXELS; nothing was decoded.
    """
    with _told(picture):
        image, facts = _decode(picture, shorter)
        return image if official else _rgb(image, facts.rotated)


def image_size(picture: Picture) -> tuple[int, int]:
    """Width and height of what `open_image` gives without `shorter`, from the header; with the same errors."""
    with _told(picture), _opened(picture) as (image, facts):
        sideways = image.getexif().get(_ORIENTATION, 1) in range(5, 9)
        return (facts.height, facts.width) if sideways else (facts.width, facts.height)


def stored_size(picture: Picture) -> tuple[int, int, int]:
    """Width, height and EXIF orientation (1 to 8) as the picture lies in its file; with the errors of `image_size`."""
    with _told(picture), _opened(picture) as (image, facts):
        turned = image.getexif().get(_ORIENTATION, 1)
        return facts.width, facts.height, turned if turned in range(1, 9) else 1


def inspect(picture: Picture) -> Facts:
    """Decode and convert the picture in full, as `open_image` does with the same errors, and say what it is."""
    with _told(picture):
        image, facts = _decode(picture)
        _rgb(image, facts.rotated)
        return facts


def digest(picture: Picture) -> str:
    """The picture's digest, see `Picture.digest`; with the errors of `open_image` for what cannot be read."""
    with _told(picture):
        _check_size(picture)
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


def shown(path: Path | Picture) -> str:
    """A name as people read it: relative to the working folder where it lies inside, and always printable."""
    text = str(path)
    with suppress(ValueError, OSError):  # elsewhere, or the working folder was removed
        home = f"{Path.cwd()}{os.sep}"
        text = text.removeprefix(home) if len(home) > 2 else text
    return printable(text)


@contextmanager
def _opened(picture: Picture) -> Iterator[tuple[Image.Image, Facts]]:
    """The first frame, not decoded yet where it has bytes, and the facts about it."""
    image = picture.pixels()
    if image is not None:
        yield image, _facts(picture, image)
        return
    _check_size(picture)
    with picture.opened() as file:
        with _header, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=FORMATS)
            facts = _facts(picture, image)
        yield image, facts


def _check_size(picture: Picture) -> None:
    """Refuse a file that is too large before it is opened, as what it is: too large."""
    size = picture.file.stat().st_size if picture.file is not None and picture.inside is None else 0
    if size > MAX_BYTES:
        raise TooLargeImageError(picture, f"has {size:,} bytes, more than the {MAX_BYTES:,} that are read")


def _facts(picture: Picture, image: Image.Image) -> Facts:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width:,} x {image.height:,}"
        raise TooLargeImageError(picture, f"has {size} pixels, more than the {MAX_PIXELS:,} that are decoded")
    left, top, right, bottom = _inside(picture, image)
    return Facts(
        format=image.format or "",
        mode=image.mode,
        width=right - left,
        height=bottom - top,
        rotated=image.getexif().get(_ORIENTATION, 1) in range(2, 9),
        transparent=image.has_transparency_data,
        # the further pictures in an MPO are previews and depth maps, not frames
        animated=image.format != "MPO" and getattr(image, "is_animated", False),
    )


def _inside(picture: Picture, image: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what the picture shows of the image, in stored pixels."""
    crop = picture.crop
    if crop is None:
        return 0, 0, image.width, image.height
    right, bottom = min(crop.left + crop.width, image.width), min(crop.top + crop.height, image.height)
    if right <= crop.left or bottom <= crop.top:
        raise BrokenImageError(picture, f"is a box outside of its picture of {image.width} x {image.height} pixels")
    return crop.left, crop.top, right, bottom


def _decode(picture: Picture, shorter: int | None = None) -> tuple[Image.Image, Facts]:
    """What is shown of the first frame in its own mode, decoded, and the facts about it."""
    with _opened(picture) as (image, facts):
        box = _inside(picture, image)
        if picture.crop is None and shorter is not None and facts.format in ("JPEG", "MPO"):
            _reduce(image, shorter)
        image.load()
        return image.copy() if picture.crop is None else image.crop(box), facts  # either holds no file


def _reduce(image: Image.Image, shorter: int) -> None:
    """Have a JPEG decoded at the smallest even share of its size whose shorter side has so many pixels."""
    for share in (8, 4, 2):
        if image.width % share == image.height % share == 0 and min(image.size) // share >= shorter:
            image.draft(None, (image.width // share, image.height // share))
            return


def _rgb(image: Image.Image, rotated: bool) -> Image.Image:
    upright = image
    if rotated:
        with _header, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bits(upright)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, layer)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray levels of more than 8 bits, scaled so that full range becomes 0 to 255.

    Full range is 65,535 in 16-bit modes. In 32-bit integers and floats it is the first of 1 (floats only), 255 and
    65,535 that holds all values; where none does, or where values are negative, the picture's own range is stretched.
    """
    levels = np.nan_to_num(np.asarray(image).astype(np.float64))  # [height, width]
    ranges = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}.get(image.mode, (65535.0,))
    low, high = float(levels.min()), float(levels.max())
    full = next((full for full in ranges if high <= full), None)
    if low < 0 or full is None:
        levels, full = levels - low, max(high - low, 1e-300)
    return Image.fromarray(np.rint(levels * (255 / full)).astype(np.uint8))


def _missing(picture: Picture) -> str:
    dangling = picture.file is not None and picture.file.is_symlink()
    return "is a link to a file that does not exist" if dangling else "does not exist"


@contextmanager
def _told(picture: Picture) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged picture into one sentence."""
    try:
        yield
    except (BrokenImageError, UsageError, MemoryError):
        raise
    except (PartError, UnreadableError) as error:
        missing = isinstance(error, UnreadableError) and error.missing
        reason = _missing(picture) if missing else error.args[0] if isinstance(error, PartError) else error.reason
        raise BrokenImageError(picture, reason) from error
    except ShotfitError as error:
        raise BrokenImageError(picture, f"cannot be read ({str(error).rstrip('.')})") from error
    except Image.DecompressionBombError as error:
        raise TooLargeImageError(picture, f"has more than the {MAX_PIXELS:,} pixels that are decoded") from error
    except FileNotFoundError as error:
        raise BrokenImageError(picture, _missing(picture)) from error
    except UnidentifiedImageError as error:
        with picture.opened() as file:
            empty = not file.read(1)
        reason = "is empty (0 bytes)" if empty else f"is no image of a format that is read ({', '.join(FORMATS)})"
        raise BrokenImageError(picture, reason) from error
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        said = " ".join(said.split()) or type(error).__name__
        what = "is truncated" if "truncated" in said.lower() else "cannot be read as an image"
        raise BrokenImageError(picture, f"{what} ({said})") from error
