"""Every kind of image file becomes 8-bit RGB by stated rules, or is refused in a sentence."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from shotfit.data import decoded, images
from shotfit.data import levels as levels_module
from shotfit.data.images import (
    BrokenImageError,
    TooLargeImageError,
    digest,
    image_size,
    inspect,
    is_truncated,
    open_image,
    shown,
)
from shotfit.data.kinds import what_it_is
from shotfit.data.pictures import Picture

from .pictures import bomb, picture, save

LEFT_HAND_CORNER = 6  # EXIF orientation: turn by 90 degrees clockwise to look at it
ORIENTATION = 0x0112


def rotated(path: Path, image: Image.Image) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = LEFT_HAND_CORNER
    return save(path, image, exif=exif)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_lossless_formats_keep_their_pixels(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", picture(1))
    assert open_image(Picture(path)).tobytes() == picture(1).tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_lossy_formats_open_as_rgb(tmp_path: Path, suffix: str) -> None:
    image = open_image(Picture(save(tmp_path / f"a.{suffix}", picture(1))))
    assert (image.mode, image.size) == ("RGB", (40, 36))


def test_content_decides_the_format_not_the_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture(1))
    path = path.rename(tmp_path / "a.jpg")
    assert inspect(Picture(path)).format == "PNG"


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = rotated(tmp_path / "a.png", picture(1, width=40, height=30))
    turned = picture(1, width=40, height=30).transpose(Image.Transpose.ROTATE_270)
    assert open_image(Picture(path)).tobytes() == turned.tobytes()


def test_official_reading_leaves_rotation_and_mode(tmp_path: Path) -> None:
    path = rotated(tmp_path / "a.png", picture(1, width=40, height=30).convert("L"))
    image = open_image(Picture(path), official=True)
    assert (image.mode, image.size) == ("L", (40, 30))


@pytest.mark.parametrize(("shorter", "size"), [(None, (160, 96)), (49, (160, 96)), (48, (80, 48)), (12, (20, 12))])
def test_jpeg_is_reduced_while_its_shorter_side_suffices(
    tmp_path: Path, shorter: int | None, size: tuple[int, int]
) -> None:
    path = save(tmp_path / "a.jpg", picture(1, width=160, height=96))
    assert open_image(Picture(path), shorter=shorter).size == size


@pytest.mark.parametrize(("width", "height", "size"), [(164, 96, (41, 24)), (161, 96, (161, 96))])
def test_jpeg_is_reduced_by_even_shares_only(tmp_path: Path, width: int, height: int, size: tuple[int, int]) -> None:
    assert open_image(Picture(save(tmp_path / "a.jpg", picture(1, width=width, height=height))), shorter=1).size == size


def test_no_other_format_is_reduced(tmp_path: Path) -> None:
    assert open_image(Picture(save(tmp_path / "a.png", picture(1, width=160, height=96))), shorter=1).size == (160, 96)


def test_reduced_jpeg_stands_upright(tmp_path: Path) -> None:
    path = rotated(tmp_path / "a.jpg", picture(1, width=160, height=96))
    assert open_image(Picture(path), shorter=48).size == (48, 80)
    assert image_size(Picture(path)) == open_image(Picture(path)).size == (96, 160)


def test_transparency_goes_onto_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    opened = open_image(Picture(save(tmp_path / "a.png", image)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_half_transparency_is_blended_with_white(tmp_path: Path) -> None:
    opened = open_image(Picture(save(tmp_path / "a.png", Image.new("LA", (1, 1), (0, 128)))))
    assert opened.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_entries_go_onto_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    opened = open_image(Picture(save(tmp_path / "a.png", image, transparency=transparency)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 200, 0)]


def test_transparent_gray_level_goes_onto_white(tmp_path: Path) -> None:
    opened = open_image(Picture(save(tmp_path / "a.png", Image.new("L", (1, 1), 7), transparency=7)))
    assert opened.getpixel((0, 0)) == (255, 255, 255)


def test_palette_becomes_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([200, 100, 0])
    assert open_image(Picture(save(tmp_path / "a.png", image))).getpixel((0, 0)) == (200, 100, 0)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    opened = open_image(Picture(save(tmp_path / "a.tiff", Image.new("CMYK", (1, 1), (0, 255, 255, 0)))))
    assert opened.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_rather_than_clipped(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    opened = open_image(Picture(save(tmp_path / f"a.{suffix}", Image.fromarray(levels))))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (100,) * 3, (255,) * 3]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.4, 1.0], [0, 102, 255]),  # from 0 to 1
        ([0.0, 102.0, 255.0], [0, 102, 255]),  # 8-bit levels
        ([0.0, 26214.0, 65535.0], [0, 102, 255]),  # 16-bit levels
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # its own range
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_by_the_smallest_range_that_holds_them(
    tmp_path: Path, levels: list[float], expected: list[int]
) -> None:
    path = save(tmp_path / "a.tiff", Image.fromarray(np.array([levels], dtype=np.float32)))
    assert [open_image(Picture(path)).getpixel((x, 0)) for x in range(3)] == [(level,) * 3 for level in expected]


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_few_bits_in_16_become_the_full_range(tmp_path: Path, suffix: str, bits: int) -> None:
    highest = 2**bits - 1
    levels = np.array([[0, highest // 5, highest]], dtype=np.uint16)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(levels))
    assert [open_image(Picture(path)).getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (51,) * 3, (255,) * 3]
    assert inspect(Picture(path)).full == highest


def test_12_bit_level_above_10_bits_decides(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.array([[0, 1024]], dtype=np.uint16)))
    assert inspect(Picture(path)).full == 4095


def deep_png(path: Path, levels: np.ndarray, kind: int, significant: bytes = b"") -> Path:
    """A PNG of 16 bits a channel: [height, width, channels]; kind: 0 gray, 2 RGB, 6 RGBA."""
    height, width, _ = levels.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    more = chunk(b"sBIT", significant) if significant else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def deep_tiff(path: Path, levels: np.ndarray, order: str, more: tuple[int, int] | None = None) -> Path:
    """An uncompressed TIFF of 16 bits a channel; more: a further tag and its value."""
    height, width, channels = levels.shape
    data = levels.astype(f"{order}u2").tobytes()
    bits, color = struct.pack(f"{order}4H", *[16] * 4), 2 if channels > 1 else 1
    entries = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, color), (273, 4, 1, 16)]
    entries += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]
    entries += [(258, 3, channels, 8 if channels > 1 else 16), *([(more[0], 3, 1, more[1])] if more else [])]

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        held = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        return struct.pack(f"{order}HHI", tag, kind, count) + held

    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entry(*one) for one in sorted(entries)) + bytes(4)
    sign = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(sign + struct.pack(f"{order}I", 16 + len(data)) + bits + data + directory)
    return path


DEEP = np.array([[[0, 819, 4095], [4095, 0, 819]]], dtype=np.uint16)  # [1, 2, 3]
SHALLOW = [(0, 51, 255), (255, 0, 51)]


def test_12_bit_rgb_png_becomes_the_full_range(tmp_path: Path) -> None:
    opened = open_image(Picture(deep_png(tmp_path / "a.png", DEEP, 2)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == SHALLOW


def test_12_bit_rgba_png_becomes_the_full_range_on_white(tmp_path: Path) -> None:
    levels = np.dstack([DEEP, np.array([[[65535], [0]]], dtype=np.uint16)])
    opened = open_image(Picture(deep_png(tmp_path / "a.png", levels, 6)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [SHALLOW[0], (255, 255, 255)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bit_rgb_tiff_becomes_the_full_range(tmp_path: Path, order: str) -> None:
    opened = open_image(Picture(deep_tiff(tmp_path / "a.tiff", DEEP, order)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == SHALLOW


def test_16_bit_rgb_stays(tmp_path: Path) -> None:
    opened = open_image(Picture(deep_png(tmp_path / "a.png", DEEP * 16, 2)))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0, 51, 255), (255, 0, 51)]


@pytest.mark.parametrize("kind", [0, 2])
def test_dark_png_that_says_it_has_16_bits_stays_dark(tmp_path: Path, kind: int) -> None:
    levels = np.full((2, 2, kind + 1), 4000, dtype=np.uint16)
    significant = b"\x10" * (kind + 1)
    found = open_image(Picture(deep_png(tmp_path / "a.png", levels, kind, significant))).getpixel((0, 0))
    assert isinstance(found, tuple) and max(found) < 17


def test_highest_level_that_a_tiff_declares_is_white(tmp_path: Path) -> None:
    levels = np.array([[[0], [3000]]], dtype=np.uint16)
    opened = open_image(Picture(deep_tiff(tmp_path / "a.tiff", levels, "<", more=(281, 15_000))))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (51, 51, 51)]


def test_bands_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    made = {
        "gray": Image.fromarray(rng.integers(0, 4096, (40, 30)).astype(np.uint16)),
        "floats": Image.fromarray(rng.normal(size=(40, 30)).astype(np.float32)),
        "alpha": Image.fromarray(rng.integers(0, 256, (40, 30, 4), dtype=np.uint8)),
        "palette": picture(1, 30, 40).quantize(),
        "cmyk": picture(1, 30, 40).convert("CMYK"),
    }
    paths = [save(tmp_path / f"{name}.tiff", image) for name, image in made.items()]
    paths.append(deep_png(tmp_path / "deep.png", rng.integers(0, 4096, (40, 30, 3)).astype(np.uint16), 2))
    whole = [open_image(Picture(path)).tobytes() for path in paths]
    monkeypatch.setattr(levels_module, "BAND", 100)
    assert [open_image(Picture(path)).tobytes() for path in paths] == whole


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tiff", "png", "jpg"])
def test_boxes_are_of_stored_pixels_whatever_the_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """A box of a rotated picture is the box of the same picture without its orientation, rotated."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{suffix}", picture(1, 40, 30), exif=exif)
    flat = save(tmp_path / f"flat.{suffix}", picture(1, 40, 30))
    box = "#xywh=3,5,20,9"
    stored = open_image(Picture(flat)).crop((3, 5, 23, 14))
    found = open_image(Picture.of(f"{path}{box}"))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's numbers of Image.Transpose
    upright = stored.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else stored
    assert found.tobytes() == upright.tobytes()
    assert found.size == image_size(Picture.of(f"{path}{box}")) == ((9, 20) if orientation > 4 else (20, 9))
    facts = inspect(Picture(path))
    assert (facts.width, facts.height, facts.rotated) == (40, 30, orientation > 1)
    assert open_image(Picture(path)).size == image_size(Picture(path)) == ((30, 40) if orientation > 4 else (40, 30))


def test_first_page_of_a_turned_tiff_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = LEFT_HAND_CORNER
    path = tmp_path / "a.tiff"
    picture(1, 40, 30).save(path, save_all=True, append_images=[picture(2, 10, 10)], exif=exif)
    assert inspect(Picture(path)).animated
    found = open_image(Picture.of(f"{path}#xywh=3,5,20,9"))
    assert found.tobytes() == picture(1, 40, 30).crop((3, 5, 23, 14)).transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("mode", ["P", "LA", "I;16", "CMYK", "1", "F"])
def test_box_is_the_box_of_the_converted_picture(tmp_path: Path, mode: str) -> None:
    image = picture(1, 40, 30)
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(np.random.default_rng(0).random((30, 40), dtype=np.float32))
    else:
        image = image.convert(mode)
    if mode == "CMYK":
        path = save(tmp_path / "a.jpg", image)
    else:
        path = save(tmp_path / f"a.{'png' if mode in ('P', 'LA') else 'tiff'}", image)
    whole = open_image(Picture(path)).crop((3, 5, 23, 14))
    assert open_image(Picture.of(f"{path}#xywh=3,5,20,9")).tobytes() == whole.tobytes()


def truncated(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "ppm"])
def test_lenient_picture_is_read_as_far_as_it_is_there(tmp_path: Path, suffix: str) -> None:
    options = {"interlace": False} if suffix == "gif" else {}
    path = save(tmp_path / f"a.{suffix}", picture(1, 128, 128), **options)
    upwards = slice(None, None, -1 if suffix == "bmp" else 1)  # rows in the order of the file
    whole = np.asarray(open_image(Picture(path)))[upwards]
    with pytest.raises(BrokenImageError, match=r"is truncated.*--lenient") as error:
        open_image(Picture(truncated(path)))
    assert is_truncated(error.value)
    found = np.asarray(open_image(Picture(path).as_lenient()))[upwards]
    assert found.shape == whole.shape
    assert (found[:16] == whole[:16]).all() and (found[-8:] != whole[-8:]).any()


def test_progressive_jpeg_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(1, 64, 64), progressive=True, quality=95)
    whole = np.asarray(open_image(Picture(path))).astype(int)
    found = np.asarray(open_image(Picture(truncated(path)).as_lenient()))
    assert abs(found - whole).mean() < abs(128 - whole).mean()


def test_lenient_picture_without_any_pixels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", picture(1, 64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\xff\xda") + 14])
    with pytest.raises(BrokenImageError, match=r"is truncated \(nothing of its pixels is there\)"):
        open_image(Picture(path).as_lenient())


def test_lenient_picture_has_a_digest_of_its_own(tmp_path: Path) -> None:
    shown_, box = Picture(save(tmp_path / "a.png")), Picture.of(f"{tmp_path}/a.png#xywh=1,1,2,2")
    assert len({one.digest() for one in (shown_, shown_.as_lenient(), box, box.as_lenient())}) == 4
    assert shown_ != shown_.as_lenient()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", "Git LFS pointer.*run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--ab.jpg\n", "git-annex.*run `git annex get`"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"\n <!-- a --><!-- b -->\n<HTML>", "is a web page"),
        (b"<!---->" * 146, "is a message in XML|is no image but text"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a message in XML"),
        (b'<?xml version="1.0"?><!-- x --><svg xmlns="a">', "is an SVG drawing"),
        (b'{"error": "rate limited"}', "is data in JSON"),
        (b"%PDF-1.7", "is a PDF document"),
        (b"8BPS\0\1", "is a Photoshop file"),
        (b"PK\3\4\0", "is a ZIP archive"),
        (b"\x1f\x8b\x08", "is compressed with gzip"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(20), "is a camera's raw file"),
        (b"\0\0\0\x18ftypisom", "is a video"),
        (bytes(4096), "has only zeros"),
        ("plain text ü\n".encode(), "is no image but text: it begins with"),
        (b"\x01\x02\x03\x04\x05\xff", r"is no image of a format that is read \(JPEG, PNG"),
    ],
)
def test_broken_picture_is_called_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BrokenImageError, match=said):
        open_image(Picture(tmp_path / "a.jpg"))


def test_link_of_git_annex_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("../.git/annex/objects/x/y/SHA256E-s1--ab.png")
    with pytest.raises(BrokenImageError, match="run `git annex get`"):
        open_image(Picture(tmp_path / "a.png"))


def test_heic_names_the_extra_where_it_is_missing() -> None:
    said = what_it_is(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", heif=False)
    assert said == "is a HEIC picture, which is read with pillow-heif: pip install 'shotfit[heif]'."


def test_heic_is_read_under_any_name(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(picture(1, 64, 48).resize((64, 48))).save(tmp_path / "a.jpg", quality=90)
    found = open_image(Picture(tmp_path / "a.jpg"))
    assert (found.mode, found.size) == ("RGB", (64, 48))
    assert inspect(Picture(tmp_path / "a.jpg")).format == "HEIF"
    assert image_size(Picture.of(f"{tmp_path}/a.jpg#xywh=1,2,3,4")) == (3, 4)


def test_first_frame_of_an_animation_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((250, 0, 0), (0, 250, 0))]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert inspect(Picture(path)).animated
    assert open_image(Picture(path)).getpixel((0, 0)) == (250, 0, 0)


def test_one_pixel_opens(tmp_path: Path) -> None:
    assert open_image(Picture(save(tmp_path / "a.png", picture(width=1, height=1)))).size == (1, 1)


def test_non_ascii_names_open(tmp_path: Path) -> None:
    assert open_image(Picture(save(tmp_path / "猫 č.png", picture()))).size == (40, 36)


def test_opening_leaves_no_warning(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    path = save(tmp_path / "a.png", image, transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_image(Picture(path))


def test_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BrokenImageError, match=r"a\.jpg is empty \(0 bytes\)\. Replace or remove it\."):
        open_image(Picture(tmp_path / "a.jpg"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_truncated_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", picture())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenImageError, match=rf"a\.{suffix} (is truncated|cannot be read as an image)"):
        open_image(Picture(path))


def test_text_in_an_image_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(BrokenImageError, match=r'a\.png is no image but text: it begins with "not a picture"'):
        open_image(Picture(tmp_path / "a.png"))


def test_formats_beyond_the_list_are_not_tried(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tga", picture())
    with pytest.raises(BrokenImageError, match=r"is no image of a format that is read \(JPEG, PNG"):
        open_image(Picture(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match=r"a\.png does not exist"):
        open_image(Picture(tmp_path / "a.png"))


def test_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BrokenImageError, match="is a link to a file that does not exist"):
        open_image(Picture(tmp_path / "a.png"))


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BrokenImageError, match="is a pipe"):
        open_image(Picture(tmp_path / "a.png"))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", picture())
    monkeypatch.setattr(decoded, "MAX_PIXELS", 40 * 36 - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(TooLargeImageError, match=r"a\.jpg has 40 x 36 pixels, more than the 1,439 that are decoded"):
        open_image(Picture(path))


@pytest.mark.parametrize("side", [13_000, 50_000])  # Pillow warns of the first and refuses the second
def test_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    with pytest.raises(TooLargeImageError, match="more than the 120,000,000"):
        open_image(Picture(bomb(tmp_path / "a.png", side, side)))


def test_too_many_bytes_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(TooLargeImageError, match=r"a\.png has 268,435,457 bytes, more than the 268,435,456"):
        open_image(Picture(path))
    with pytest.raises(TooLargeImageError):
        digest(Picture(path))


def test_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(Picture(tmp_path / "a")) == hashlib.sha256(b"abc").hexdigest()


def test_facts_describe_the_file_as_it_lies(tmp_path: Path) -> None:
    facts = inspect(Picture(rotated(tmp_path / "a.png", Image.new("RGBA", (5, 3)))))
    assert facts == images.Facts("PNG", "RGBA", 5, 3, rotated=True, transparent=True, animated=False)


def test_paths_are_shown_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "cat" / "a.png") == "cat/a.png"


def test_paths_that_are_no_text_can_be_shown() -> None:
    assert shown(Path(os.fsdecode(b"/\xff.png"))) == "/\\udcff.png"
