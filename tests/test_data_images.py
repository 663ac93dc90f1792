"""Every kind of image file becomes 8-bit RGB by stated rules, or is refused in a sentence."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from shotfit.data import decoded, images
from shotfit.data.images import (
    BrokenImageError,
    TooLargeImageError,
    digest,
    image_size,
    inspect,
    open_image,
    shown,
)
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


def test_large_tiff_leaves_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = save(tmp_path / "a.tiff", picture(1, 40, 36), compression="tiff_lzw")
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
