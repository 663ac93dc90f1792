"""What a file is that is no picture of a format that is read, by how it begins.

    what_it_is(b"version https://git-lfs...", ".jpg")   # "is a Git LFS pointer, not the picture: run `git lfs pull`."

Most broken pictures are something else: a download that was an error page, a pointer to a file that was never fetched.
A sentence that says so ends with what to do, and with a full stop.
"""

from __future__ import annotations

import re

__all__ = ["HEIF_BRANDS", "looks_like_heif", "what_it_is"]

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

_AGAIN = "Download it again."
_CONVERT = "Save it as JPEG or PNG."
_VIDEO = "is a video, not a picture. Save a frame of it, or name a file of it as the clip that it is (.mp4, .webm)."

_SIGNS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the picture: run `git lfs pull`."),
    (rb"version https://hawser", "is a Git LFS pointer, not the picture: run `git lfs pull`."),
    (rb"/annex/objects/|(\.\./)*\.git/annex/", "is a pointer of git-annex, not the picture: run `git annex get`."),
    (rb"outs:\s|md5: [0-9a-f]{32}", "is a pointer of DVC, not the picture: run `dvc pull`."),
    (rb"(<!doctype svg[^>]*>\s*)?<svg\b", f"is an SVG drawing. {_CONVERT}"),
    (rb"<!doctype html|<(html|head|body|title|script)\b", f"is a web page (HTML), not the picture. {_AGAIN}"),
    (rb"<[a-z][\w:]*[\s>/]", f"is a message in XML, not the picture. {_AGAIN}"),
    (rb"\s*[{\[]\s*[\"{\[\d}\]]", f"is data in JSON, not the picture. {_AGAIN}"),
    (rb"%PDF-", f"is a PDF document. {_CONVERT}"),
    (rb"%!PS", f"is a PostScript document. {_CONVERT}"),
    (rb"8BPS", f"is a Photoshop file (PSD). {_CONVERT}"),
    (rb"gimp xcf", f"is a GIMP file (XCF). {_CONVERT}"),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n", f"is a JPEG XL picture, which is not read. {_CONVERT}"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", f"is a JPEG 2000 picture, which is not read. {_CONVERT}"),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIU\0|II\x1a\0\0\0HEAPCCDR|MMOR|\0MRM",
     f"is a camera's raw file. {_CONVERT}"),
    (rb"....ftyp(?!avi[fs])", _VIDEO),
    (rb"\x1a\x45\xdf\xa3|RIFF....AVI ", _VIDEO),
    (rb"\0\0[\1\2]\0[^\0]\0", f"is an icon or a cursor, which is not read. {_CONVERT}"),
    (rb"DDS |\x76\x2f\x31\x01|qoif|SIMPLE  =", f"is a picture of a format that is not read. {_CONVERT}"),
    (rb"PK\x03\x04", "is a ZIP archive, not a picture. Unpack it."),
    (rb"\x1f\x8b", "is compressed with gzip. Unpack it."),
    (rb"BZh[1-9]|\xfd7zXZ\0|7z\xbc\xaf\x27\x1c|Rar!|\x28\xb5\x2f\xfd",
     "is a compressed archive, not a picture. Unpack it."),
    (rb"\x93NUMPY", "is an array of NumPy, not a picture. Save it as PNG."),
    (rb"\x89HDF\r\n", "is an HDF5 file, not a picture. Save its pictures as PNG."),
    (rb"PAR1", "is a Parquet file, not a picture. Name its rows as FILE.parquet::ROW."),
    (rb"\x00\x05\x16\x07", "is what macOS keeps beside a file (._NAME), not the picture. Remove it."),
    (rb"bplist00", f"is a placeholder or setting of macOS, not the picture. {_AGAIN}"),
    (rb"\xd0\xcf\x11\xe0", "is a document of Windows (Office, Thumbs.db), not a picture. Remove it."),
    (rb"\x89PNG", "is a PNG picture that is damaged where it begins. Replace or remove it."),
    (rb"\xff\xd8\xff", "is a JPEG picture that is damaged or cut off where it begins. Replace or remove it."),
    (rb"HTTP/\d", f"is a web server's answer, not the picture alone. {_AGAIN}"),
    (rb".{1,16}(\x89PNG\r\n|\xff\xd8\xff[\xdb\xe0-\xe2])",
     f"is a PNG or JPEG picture with something else in front of it. {_AGAIN}"),
    (rb"SQLite format 3|\x7fELF|MZ|#!|\x80[\2-\5]", "is a program's file, not a picture. Replace or remove it."),
)  # fmt: skip

_PROLOG = re.compile(rb"\s+|<\?xml[^>]*>|<!--.*?-->", re.DOTALL)
_PATTERNS = [(re.compile(pattern, re.DOTALL | re.IGNORECASE), said) for pattern, said in _SIGNS]


def looks_like_heif(begin: bytes) -> bool:
    """Whether a file that begins so is a HEIC or HEIF picture (of an iPhone)."""
    return begin[4:8] == b"ftyp" and begin[8:12].lower() in HEIF_BRANDS


def what_it_is(begin: bytes, heif: bool) -> str | None:
    """The rest of a sentence about a file whose first bytes are these; None where they tell nothing.

    begin: 1,024 bytes are enough. heif: whether HEIF pictures are read here.
    """
    if looks_like_heif(begin):
        missing = "is a HEIC picture, which is read with pillow-heif: pip install 'shotfit[heif]'."
        return "is a HEIC picture that is damaged. Replace or remove it." if heif else missing
    text = begin.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] == b"<":  # what stands in front of the first element
        place = 0
        while prolog := _PROLOG.match(text, place):
            place = prolog.end()
        text = text[place:] or text.lstrip()
    found = next((said for pattern, said in _PATTERNS if pattern.match(text)), None)
    if found is not None:
        return found
    if not begin.strip(b"\0"):
        return f"has only zeros where a picture should begin, as a download that stopped. {_AGAIN}"
    if _is_text(text):
        return f"is no image but text: it begins with {_quoted(text)}. Replace or remove it."
    return None


def _is_text(begin: bytes) -> bool:
    try:
        said = begin[:512].decode("utf-8", "strict" if len(begin) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return len(said) * 2 > len(begin[:512]) and all(sign.isprintable() or sign in "\t\r\n" for sign in said)


def _quoted(begin: bytes) -> str:
    words = " ".join(begin[:200].decode("utf-8", "ignore").split())
    return f'"{words[:40]}..."' if len(words) > 40 else f'"{words}"'
