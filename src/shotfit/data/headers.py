"""What a picture's file says of itself, read before anything is decoded.

    header = read_header(file)          # Header(format="TIFF", width=640, height=480, scratch=..., full=4095, ...)

A decoder believes the file: a TIFF of 312 bytes that claims a tile of 30,000 x 30,000 pixels, a JPEG of 20,000 scans, a
PNG of millions of chunks, or a directory whose 60,000 entries all point to the same megabyte take minutes or gigabytes.
Here a file is walked by its structure alone, in steps that are counted, and `BombError` is raised where it goes beyond
the bounds below. They are far above what honest files have. `scratch` is what decoding takes beside the picture itself,
for the budget of `images.py`.

A walk ends quietly where a file ends or makes no sense: the decoder says better than this what is wrong with it.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["BombError", "Header", "orientation_of", "read_header"]

MAX_SEGMENTS = 4096  # of a JPEG in front of its first scan; an ICC profile or a depth map takes some hundreds
MAX_SCANS = 200  # of a JPEG; a progressive one has about ten
MAX_SCANNED = 2_500_000_000  # pixels in all scans of a JPEG together: twenty scans of the largest picture
MAX_CHUNKS = 200_000  # of a PNG or a WebP
MAX_BLOCKS = 2_000_000  # of a GIF's first frame, of 255 bytes in honest files
MAX_METADATA = 64 * 2**20  # bytes beside the pixels
MAX_PARSED = 4 * 2**20  # bytes of metadata that the decoder parses: EXIF, comments, Photoshop's
MAX_TABLES = 2**16  # bytes of a JPEG's tables in front of its first scan; they have about 1,000
MAX_JUNK = 2**16  # bytes between the parts of a JPEG or a GIF
MAX_STRIPS = 200_000  # strips or tiles of a TIFF
MAX_VALUES = 1_000_000  # values of one entry of a TIFF's directory
MAX_SLOW = 8 * 2**20  # bytes of a format that is decoded byte by byte: run-length BMP, PPM as text or with odd ranges

_WINDOW = 2**16
_EXIF = b"Exif\0\0"
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x0112, 34665, 34853, 40965
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_CANVAS = 16  # bytes a pixel that decoders of WebP, AVIF and HEIF hold beside the picture: planes, canvas, a copy


class BombError(Exception):
    """A file that would take more than it is worth: the rest of a sentence about it ("has 20,000 scans, ...")."""


@dataclass(frozen=True)
class Header:
    """What was found: the format ("" where it is none of these) and the size in stored pixels (0 where not known).

    scratch: bytes that decoding takes beside the picture. full: what the file itself declares to be its highest level,
    of more than 8 bits (0: nothing). orientation: EXIF's, of a TIFF. start: where a JPEG's compressed pixels begin.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    scratch: int = 0
    full: int = 0
    orientation: int = 1
    start: int = 0


def read_header(file: BinaryIO) -> Header:
    """Walk the file and leave it at its beginning.

    Raises BombError, and what reading raises.
    """
    begin = file.read(32)
    file.seek(0)
    walk = next((walk for signs, walk in _WALKS if any(sign.match(begin) for sign in signs)), None)
    try:
        return Header() if walk is None else walk(file)
    except (struct.error, IndexError):  # the file ends
        return Header()
    finally:
        file.seek(0)


def _jpeg(file: BinaryIO) -> Header:
    segments = parsed = tables = junk = width = height = scans = start = 0
    scratch, exif, progressive = 0, b"", False
    file.seek(2)
    while byte := file.read(1):
        marker = file.read(1)[0] if byte == b"\xff" else 0
        if marker in (0, 0xFF):
            junk += 1
            _bound(junk, MAX_JUNK, "bytes of nothing before its picture")
            if marker == 0xFF:
                file.seek(-1, 1)
            continue
        if 0xD0 <= marker <= 0xD8 or marker == 1:
            segments += 1
            _bound(segments, MAX_SEGMENTS, "segments before its picture")
            continue
        if marker in (0xDA, 0xD9):
            start = file.tell() + int.from_bytes(file.read(2), "big")
            scans = _scans(file, width * height) if marker == 0xDA else 0
            break
        length = struct.unpack(">H", file.read(2))[0] - 2
        segments += 1
        _bound(segments, MAX_SEGMENTS, "segments before its picture")
        if marker in (0xDB, 0xC4, 0xCC):
            tables += length
            _bound(tables, MAX_TABLES, "bytes of tables")
        body = file.read(max(length, 0)) if marker in (0xE1, 0xED) or 0xC0 <= marker <= 0xCF else b""
        if marker == 0xED or body.startswith(_EXIF):
            parsed += length
            _bound(parsed, MAX_PARSED, "bytes of metadata")
            exif += body[6:] if marker == 0xE1 else b""
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, count = struct.unpack(">xHHB", body[:6])
            shares = [body[7 + 3 * i] for i in range(count)]
            across, down = max(share >> 4 for share in shares), max(share & 15 for share in shares)
            parts = sum((share >> 4) * (share & 15) for share in shares)
            # all coefficients are kept, two bytes each, where more than one scan makes a pixel
            scratch = 2 * width * height * parts // max(across * down, 1)
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        if not body:
            file.seek(max(length, 0), 1)
    _check_exif(exif)
    return Header("JPEG", width, height, scratch if progressive or scans > 1 else 0, start=start)


_MARKS = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]", re.DOTALL)


def _scans(file: BinaryIO, pixels: int) -> int:
    """The number of scans from the first one's marker on; at most, where there are few."""
    start = file.tell()
    found, last = 1, b""
    while block := file.read(2**20):
        found += (last + block).count(b"\xff\xda")  # in compressed data 0 follows after 0xff
        last = block[-1:] if block.endswith(b"\xff") else b""
    if found <= min(MAX_SCANS, MAX_SCANNED // max(pixels, 1)):
        return found
    # Other data behind the picture may have such bytes: walk from marker to marker, to its end.
    scans, marks, place = 1, 0, start
    while True:
        file.seek(place)
        block = file.read(_WINDOW)
        mark = _MARKS.search(block)
        if mark is None:
            if len(block) < _WINDOW:
                return scans
            place += len(block) - 1
            continue
        kind, at = block[mark.start() + 1], place + mark.start()
        if kind == 0xD9:
            return scans
        scans, marks = scans + (kind == 0xDA), marks + 1
        _bound(marks, MAX_SEGMENTS, "segments in its picture")
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise BombError(f"has more than {scans - 1:,} scans, which take too long to decode")
        file.seek(at + 2)
        length = file.read(2)
        place = at + 2 + (max(int.from_bytes(length, "big"), 2) if len(length) == 2 else 2)


def _png(file: BinaryIO) -> Header:
    width = height = chunks = beside = full = 0
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        chunks += 1
        _bound(chunks, MAX_CHUNKS, "chunks")
        body = b""
        if kind == b"IEND":
            break
        if kind not in (b"IDAT", b"fdAT"):
            beside += length
            _bound(beside, MAX_METADATA, "bytes beside its pixels")
        if kind == b"eXIf":
            _bound(length, MAX_PARSED, "bytes of metadata")
        if kind in (b"IHDR", b"sBIT", b"eXIf"):
            body = file.read(length)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        elif kind == b"sBIT" and min(body, default=0) == 16:
            full = 65535
        elif kind == b"eXIf":
            _check_exif(body)
        file.seek(length - len(body) + 4, 1)
    return Header("PNG", width, height, full=full)


def _gif(file: BinaryIO) -> Header:
    width, height, flags = struct.unpack("<6xHHB2x", file.read(13))
    file.seek(3 << (flags & 7) + 1 if flags & 128 else 0, 1)
    blocks = beside = comments = junk = frames = 0
    while (mark := file.read(1)) and mark != b";":
        if mark == b",":
            frames += 1
            if frames > 1:  # Pillow looks for a second one, to know whether it is an animation
                break
            left, top, across, down, flags = struct.unpack("<HHHHB", file.read(9))
            width, height = max(width, left + across), max(height, top + down)
            file.seek((3 << (flags & 7) + 1 if flags & 128 else 0) + 1, 1)
        elif mark == b"!":
            kind = file.read(1)
        else:
            junk += 1
            _bound(junk, MAX_JUNK, "bytes of nothing between its parts")
            continue
        while (length := file.read(1)) and length[0]:
            file.seek(length[0], 1)
            blocks += 1
            beside += length[0] if mark == b"!" else 0
            comments += length[0] if mark == b"!" and kind == b"\xfe" else 0
            _bound(blocks, MAX_BLOCKS, "blocks")
            _bound(beside, MAX_PARSED, "bytes beside its pixels")
            _bound(comments, MAX_TABLES, "bytes of comments")
    return Header("GIF", width, height)


def _webp(file: BinaryIO) -> Header:
    begin = file.read(30)
    kind = begin[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(begin[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(begin[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", begin[26:30]))
    file.seek(12)
    chunks = 0
    while len(head := file.read(8)) == 8:
        chunks += 1
        _bound(chunks, MAX_CHUNKS, "chunks")
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            _bound(length, MAX_PARSED, "bytes of metadata")
        file.seek(length + (length & 1), 1)
    return Header("WEBP", width, height, _CANVAS * width * height)


def _boxes(file: BinaryIO) -> Header:
    """AVIF and HEIF: the largest picture that is declared, be it a tile or an alpha channel."""
    begin = file.read(_WINDOW * 16)
    brands = begin[8 : min(int.from_bytes(begin[:4], "big"), 1024)]
    width = height = 0
    for mark in re.finditer(b"ispe\0{4}", begin):
        sides = struct.unpack(">II", begin[mark.end() : mark.end() + 8])
        width, height = max(width, sides[0]), max(height, sides[1])
    for count, mark in enumerate(re.finditer(rb"II\*\0|MM\0\*", begin)):
        _bound(count, 1000, "directories of metadata")
        _check_exif(begin[mark.start() : mark.start() + MAX_PARSED])
    return Header("AVIF" if b"avi" in brands else "HEIF", width, height, _CANVAS * width * height)


def _bmp(file: BinaryIO) -> Header:
    begin = file.read(54)
    width, height, _, bits, packing = struct.unpack("<iiHHI", begin[18:34])
    if packing in (1, 2):
        _bound(file.seek(0, 2), MAX_SLOW, "bytes of run-length encoding; save it as PNG")
    # rows are read whole, and bits become bytes
    return Header("BMP", max(width, 0), abs(height), width * abs(height) if bits < 8 or packing in (1, 2) else 0)


_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"P(\w{1,5})" + _GAP + rb"(\d{1,10})" + _GAP + rb"(\d{1,10})(?:" + _GAP + rb"(\d{1,5}))?")


def _ppm(file: BinaryIO) -> Header:
    begin = file.read(_WINDOW)
    found = _PPM.match(begin)
    if found is None:
        _bound(len(begin), _WINDOW - 1, "bytes in front of its size")
        return Header()
    kind, width, height = found[1], int(found[2]), int(found[3])
    highest = int(found[4] or 255)
    if kind in (b"1", b"2", b"3"):
        _bound(file.seek(0, 2), MAX_SLOW, "bytes of numbers as text; save it as PNG")
    elif kind in (b"5", b"6") and highest not in (255, 65535):
        _bound(file.seek(0, 2), MAX_SLOW * 2, f"bytes with levels up to {highest:,}; save it as PNG")
    slow = kind in (b"1", b"2", b"3") or highest != 255
    return Header("PPM", width, height, 12 * width * height if slow else 0, full=65535)


Entries = dict[int, tuple[int, int, int]]  # type, number of values, and the first of them or where they lie


def _tiff(file: BinaryIO) -> Header:
    begin = file.read(16)
    order, big = "<" if begin[:2] == b"II" else ">", begin[2:4] in (b"+\0", b"\0+")
    size = file.seek(0, 2)
    first = struct.unpack(f"{order}Q", begin[8:16])[0] if big else struct.unpack(f"{order}I", begin[4:8])[0]
    entries = _directory(file, first, order, big, size)
    for pointer in (_EXIF_IFD, _GPS_IFD, _INTEROP_IFD):
        if pointer in entries:
            _directory(file, entries[pointer][2], order, big, size)

    def value(tag: int, otherwise: int) -> int:
        kind, count, held = entries.get(tag, (0, 0, 0))
        if count == 0:
            return otherwise
        width = _SIZES[kind]
        if count * width <= (8 if big else 4):  # the values stand in the entry, the first of them first
            shift = 8 * ((8 if big else 4) - width) if order == ">" else 0
            return held >> shift & (1 << 8 * width) - 1
        file.seek(min(held, size))
        return int.from_bytes(file.read(width), "little" if order == "<" else "big")

    if 50706 in entries or begin[8:10] == b"CR":  # DNG's version; Canon's mark: its first picture is a preview
        return Header("RAW")
    width, height = value(256, 0), value(257, 0)
    samples, bits, packing = value(277, 1), value(258, 1), value(259, 1)
    if 322 in entries:
        across, down = value(322, 0), value(323, 0)
    else:
        across, down = width, min(value(278, height) or height, height)
    _bound(max(entries.get(tag, (0, 0, 0))[1] for tag in (273, 324)), MAX_STRIPS, "strips or tiles")
    planes = 1 if value(284, 1) == 2 else samples
    strip = across * down * planes * max(bits, 8) // 8
    full = value(281, 0) if 8 < bits <= 16 and 281 in entries else 0
    kept = strip + min(size, strip) if packing != 1 else 0
    return Header("TIFF", width, height, kept, full, value(_ORIENTATION, 1))


def _directory(file: BinaryIO, place: int, order: str, big: bool, size: int) -> Entries:
    """The entries of a directory, whose values together are no larger than the file."""
    file.seek(min(place, size))
    form, head = (f"{order}HHQQ", f"{order}Q") if big else (f"{order}HHII", f"{order}H")
    count = struct.unpack(head, file.read(struct.calcsize(head)))[0]
    entries: Entries = {}
    total, length = 0, struct.calcsize(form)
    for _ in range(min(count, 65535)):
        block = file.read(length)
        if len(block) < length:
            break
        tag, kind, values, held = struct.unpack(form, block)
        taken = _SIZES.get(kind, 0) * values
        if taken and tag not in entries:
            entries[tag] = kind, values, held
            total += taken if taken > (8 if big else 4) else 0
            _bound(total, size, "bytes in the values of its directory, which is more than the file has", than=False)
            if kind not in (1, 2, 6, 7):
                _bound(values, MAX_VALUES, "values in an entry of its directory")
    return entries


def _check_exif(exif: bytes) -> Entries:
    """The entries of EXIF's first directory; none where it makes no sense."""
    exif = exif.removeprefix(_EXIF)
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    order = "<" if exif[:2] == b"II" else ">"
    try:
        place = struct.unpack(f"{order}I", exif[4:8])[0]
        return _directory(io.BytesIO(exif), place, order, False, len(exif))
    except struct.error:
        return {}


def orientation_of(exif: bytes) -> int | None:
    """The orientation, from 1 to 8, that EXIF's bytes declare; None where they do not. Raises BombError."""
    kind, count, held = _check_exif(exif).get(_ORIENTATION, (0, 0, 0))
    if kind not in (3, 4) or count != 1:
        return None
    short_first = kind == 3 and exif.removeprefix(_EXIF)[:2] == b"MM"
    return (held >> 16 if short_first else held) & 0xFFFF


def _bound(value: int, most: int, what: str, than: bool = True) -> None:
    if value > most:
        more = f"more than {most:,} {what}" if than else f"{value:,} {what}"
        raise BombError(f"has {more}")


def _signs(*patterns: bytes) -> list[re.Pattern[bytes]]:
    return [re.compile(pattern, re.DOTALL) for pattern in patterns]


_WALKS: list[tuple[list[re.Pattern[bytes]], Callable[[BinaryIO], Header]]] = [
    (_signs(rb"\xff\xd8\xff"), _jpeg),
    (_signs(rb"\x89PNG\r\n\x1a\n"), _png),
    (_signs(rb"GIF8[79]a"), _gif),
    (_signs(rb"RIFF....WEBPVP8[ LX]"), _webp),
    (_signs(rb"....ftyp"), _boxes),
    (_signs(rb"BM"), _bmp),
    (_signs(rb"P[0-6fy]"), _ppm),
    (_signs(rb"II[*+]\0", rb"MM\0[*+]", rb"II\0\*", rb"MM\*\0"), _tiff),
]
