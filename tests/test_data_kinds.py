"""Files that are no whole picture: what they are called, and what is read of those that are cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shotfit.data.images import BrokenImageError, image_size, inspect, is_truncated, open_image
from shotfit.data.kinds import what_it_is
from shotfit.data.pictures import Picture

from .pictures import picture, save


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
        (b"\x00\x05\x16\x07\0\2\0\0Mac OS X", "is what macOS keeps beside a file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a document of Windows"),
        (b"\x89PNG\r\r\n\x1a\r\n", "is a PNG picture that is damaged where it begins"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0", "is a JPEG picture that is damaged or cut off"),
        (b"\r\n\xff\xd8\xff\xe0\0\x10JFIF", "with something else in front of it"),
        (b"HTTP/1.1 200 OK\r\n\r\n\x89PNG", "is a web server's answer"),
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
