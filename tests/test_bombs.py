"""Files that are small and want gigabytes or minutes are refused, or read within bounds of memory and time."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shotfit.data import containers, decoded
from shotfit.data.budget import Budget, thread_pool
from shotfit.data.headers import BombError, orientation_of, read_header
from shotfit.data.images import BrokenImageError, TooLargeImageError, image_size, inspect, open_image
from shotfit.data.lists import paths_in
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.errors import ShotfitError
from shotfit.evaluation.costs import PeakMemory

from .pictures import picture, save

SECONDS = 10

STATUS = Path("/proc/self/status")

# The pixels may not outlive their share of the memory, although a name of the image and an error live on: each of them
# is kept. VmHWM is the process's own peak, while `ru_maxrss` begins at that of the process which started it.
MEASURE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from shotfit.data.images import BrokenImageError, opened_image
from shotfit.data.pictures import Picture

kept = []

def read(path):
    try:
        with opened_image(Picture.of(path)) as image:
            said = f"{image.size}"
        kept.append(image)
        return said
    except BrokenImageError as error:
        kept.append(error)
        return error.reason

with ThreadPoolExecutor(2) as threads:
    print(*set(threads.map(read, [sys.argv[1]] * 4)))
print(*(row.split()[1] for row in open("/proc/self/status") if row.startswith("VmHWM:")))
"""


def measured(path: Path) -> tuple[str, float]:
    """What is said of a picture that two threads read, and the peak of the memory in MiB."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    said, peak = done.stdout.splitlines()
    return said, int(peak) / 1024


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, depth: int = 8, color: int = 2, between: bytes = b"") -> bytes:
    """One color in a square, which compresses to a thousandth."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(side * channels * depth // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), between, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(*entries: tuple[int, int, int, int], more: bytes = b"") -> bytes:
    """A TIFF of one directory: (tag, type, count, value), and what follows after it."""
    listed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + listed + b"\0\0\0\0" + more


GRAY = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]


def huge_tile() -> bytes:
    tiles = [(259, 3, 1, 5), (322, 4, 1, 65536), (323, 4, 1, 65536), (324, 4, 1, 8), (325, 4, 1, 100)]
    return tiff(*GRAY, *tiles, more=bytes(100))


def many_strips() -> bytes:
    strips = [(259, 3, 1, 1), (273, 1, 300_000, 200), (278, 3, 1, 1), (279, 1, 300_000, 200)]
    return tiff(*GRAY, *strips, more=bytes(800_000))


def same_values(entries: int = 20_000) -> bytes:
    """Each entry of a directory points to the same megabyte."""
    listed = [(1000 + number, 7, 2**20, 8) for number in range(entries)]
    return tiff(*listed, more=bytes(2**20))


def jpeg(side: int = 64, **options: object) -> bytes:
    file = io.BytesIO()
    picture(1, width=side, height=side).save(file, "JPEG", **options)
    return file.getvalue()


def many_scans(scans: int = 20_000) -> bytes:
    """The last scan of a progressive JPEG over and over."""
    whole = jpeg(progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


def after_start(segment: bytes, times: int) -> bytes:
    whole = jpeg()
    return whole[:2] + segment * times + whole[2:]


def same_exif() -> bytes:
    entries = b"".join(struct.pack("<HHII", 1000 + i, 7, 30_000, 8) for i in range(2500))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2500) + entries
    return after_start(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif, 1)


def gif(between: bytes) -> bytes:
    file = io.BytesIO()
    picture(1).convert("P").save(file, "GIF")
    whole = file.getvalue()
    start = 13 + (3 << (whole[10] & 7) + 1)
    return whole[:start] + between + whole[start:]


BOMBS = {
    "tile of 4 gigapixels": (huge_tile, r"takes 4\.3 GB of memory"),
    "300,000 strips": (many_strips, "more than 200,000 strips or tiles"),
    "directory of 20 GB": (same_values, "bytes in the values of its directory"),
    "20,000 scans": (many_scans, "more than 200 scans"),
    "a million comments": (lambda: after_start(b"\xff\xfe\0\2", 1_000_000), "more than 4,096 segments"),
    "a million empty bytes": (lambda: after_start(b"\xff", 1_000_000), "more than 65,536 bytes of nothing"),
    "tables": (lambda: after_start(b"\xff\xdb" + b"\0\x43" + bytes(65), 2000), "more than 65,536 bytes of tables"),
    "EXIF of 75 MB": (same_exif, "bytes in the values of its directory"),
    "a million chunks": (lambda: png(8, between=chunk(b"teSt", b"") * 1_000_000), "more than 200,000 chunks"),
    "comments": (lambda: gif(b"!\xfe" + b"\1a" * 100_000 + b"\0"), "more than 65,536 bytes of comments"),
    "extensions": (lambda: gif(b"!\xff" + (b"\xff" + bytes(255)) * 20_000 + b"\0"), "bytes beside its pixels"),
    "junk": (lambda: gif(b"\1" * 1_000_000), "more than 65,536 bytes of nothing"),
    "text of numbers": (lambda: b"P2 3000 3000 255\n" + b"1 " * 5_000_000, "bytes of numbers as text"),
    "a comment": (lambda: b"P5 #" + b"c" * 1_000_000, "more than 65,535 bytes in front of its size"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_before_it_is_decoded(tmp_path: Path, name: str) -> None:
    make, said = BOMBS[name]
    (tmp_path / "a.png").write_bytes(make())
    started = time.process_time()
    with pytest.raises(TooLargeImageError, match=said):
        inspect(Picture(tmp_path / "a.png"))
    assert time.process_time() - started < SECONDS


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not tell a process's peak")
@pytest.mark.parametrize(("depth", "color"), [(8, 6), (16, 0), (16, 6)])
def test_largest_pictures_in_two_threads_stay_within_the_memory(tmp_path: Path, depth: int, color: int) -> None:
    (tmp_path / "a.png").write_bytes(png(10_000, depth, color))
    said, peak = measured(tmp_path / "a.png")
    assert said == "(10000, 10000)"
    assert peak < 1100


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not tell a process's peak")
def test_errors_of_large_pictures_keep_no_pixels(tmp_path: Path) -> None:
    whole = png(10_000, 8, 6)
    (tmp_path / "a.png").write_bytes(whole[: len(whole) * 9 // 10])
    said, peak = measured(tmp_path / "a.png")
    assert "is truncated" in said
    assert peak < 1100


def test_more_memory_than_there_is_for_pictures_is_refused(tmp_path: Path) -> None:
    Image.new("L", (10_000, 8_000)).save(tmp_path / "a.webp", lossless=True, method=0)
    with pytest.raises(TooLargeImageError, match=r"takes 1\.6 GB of memory to decode, more than the 1\.0 GB"):
        open_image(Picture(tmp_path / "a.webp"))


def test_size_of_a_large_picture_is_known_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(10_000))
    started = time.process_time()
    assert image_size(Picture(tmp_path / "a.png")) == (10_000, 10_000)
    assert time.process_time() - started < 1


def test_progressive_jpeg_in_few_scans_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(many_scans(50))
    assert open_image(Picture(tmp_path / "a.jpg")).size == (64, 64)


def test_what_follows_a_jpeg_is_not_counted_as_its_scans(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg() + b"\xff\xda" * 10_000)  # as in the clip behind a motion photo
    assert open_image(Picture(tmp_path / "a.jpg")).size == (64, 64)


def test_scans_of_a_large_jpeg_are_counted_by_their_pixels(tmp_path: Path) -> None:
    whole = many_scans(60)
    frame = whole.index(b"\xff\xc2") + 5
    whole = whole[:frame] + struct.pack(">HH", 10_000, 10_000) + whole[frame + 4 :]
    with pytest.raises(BombError, match="more than 25 scans"):
        read_header(io.BytesIO(whole))


def test_animation_of_many_frames_is_not_walked(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (1, 2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "a.gif").read_bytes()
    second = whole[whole.rindex(b"!\xf9") : -1]
    (tmp_path / "a.gif").write_bytes(whole[:-1] + second * 100_000 + b";")
    started = time.process_time()
    assert inspect(Picture(tmp_path / "a.gif")).animated
    assert time.process_time() - started < 1


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_that_unpack_to_far_more_than_their_file_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dictionary: bool
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(containers, "MAX_UNPACKED", 100_000)
    table = pa.table({"image": [bytes(50_000)] * 100, "label": ["cat"] * 100})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=dictionary)
    with pytest.raises(BrokenImageError, match="lies in a row group that unpacks to more than 100,000 bytes"):
        open_image(Picture.of(tmp_path / "a.parquet::7"))


def test_long_text_that_many_rows_have_counts_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(containers, "MAX_COLUMN_BYTES", 100_000)
    columns = {"path": ["x" * 1000 + ".png"] * 200, "label": ["cat"] * 200}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ShotfitError, match="more than 100,000 bytes of long texts in its rows"):
        read_task(tmp_path / "a.parquet")


@pytest.mark.parametrize("form", ["file", "stream"])
def test_compressed_arrow_is_refused_and_other_is_read(tmp_path: Path, form: str) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {"image": [save(tmp_path / "a.png").read_bytes()] * 3, "label": pa.array(["cat"] * 3).dictionary_encode()}
    table = pa.table(columns)
    for compression in (None, "zstd"):
        path = tmp_path / f"{compression}.arrow"
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with (
            pa.OSFile(str(path), "wb") as sink,
            getattr(pa.ipc, f"new_{form}")(sink, table.schema, options=options) as to,
        ):
            to.write_table(table)
    assert open_image(Picture.of(tmp_path / "None.arrow::2")).size == (40, 36)
    with pytest.raises(
        ShotfitError, match="its batches are compressed, or damaged: save it without compression, or as Parquet"
    ):
        read_task(tmp_path / "zstd.arrow")


@pytest.mark.parametrize("labels", [["x" * 2**21], [["cat", "x" * 2**21]]])
def test_long_text_of_a_table_is_refused(tmp_path: Path, labels: list[object]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": ["a.png"], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(ShotfitError, match="has a text of more than 1,048,576 bytes in the column label"):
        read_task(tmp_path / "a.parquet", several_labels=True)
    pq.write_table(pa.table({"path": ["x" * 2**21] * 9}), tmp_path / "list.parquet")
    with pytest.raises(ShotfitError, match="more than 1,048,576 bytes in the column path"):
        list(paths_in(tmp_path / "list.parquet"))


def test_orientation_is_read_from_exif_by_either_byte_order() -> None:
    for order, sign in (("<", b"II*\0"), (">", b"MM\0*")):
        exif = sign + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
        assert orientation_of(b"Exif\0\0" + exif) == 6
    assert orientation_of(b"Exif\0\0") is None


def test_budget_lets_wait_what_does_not_fit() -> None:
    budget, order = Budget(10), list[str]()

    def second() -> None:
        with budget.taken(6):
            order.append("second")

    with budget.taken(5):
        waiting = threading.Thread(target=second)
        waiting.start()
        with budget.taken(5):
            order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]


@pytest.mark.skipif(not STATUS.is_file(), reason="the system does not tell a process's peak")
def test_pool_of_threads_touches_no_memory() -> None:
    peaks = []
    for pools in (0, 2):
        with PeakMemory(torch.device("cpu")) as peak:
            for _ in range(pools):
                thread_pool(4).shutdown()
        assert peak.bytes is not None
        peaks.append(peak.bytes)
    assert peaks[1] < peaks[0] + 2**24, "each core's share alone is twice as much"


def test_more_than_the_budget_waits_for_all_of_it() -> None:
    budget = Budget(10)
    with budget.taken(25):
        pass
    with budget.taken(10):
        pass


def test_thread_decodes_a_picture_once_for_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = save(tmp_path / "a.png", picture(1)), list[Picture]()

    def counted(*args: object, **named: object) -> decoded.Opened:
        opened.append(args[0])  # type: ignore[arg-type]
        return original(*args, **named)  # type: ignore[arg-type]

    original = decoded.opened
    monkeypatch.setattr(decoded, "opened", counted)
    boxes = [Picture.of(f"{path}#xywh={left},3,5,7") for left in range(20)]
    found = [open_image(box) for box in boxes]
    assert len(opened) == 1
    assert [image.tobytes() for image in found] == [
        picture(1).crop((left, 3, left + 5, 10)).tobytes() for left in range(20)
    ]
    save(path, picture(2, width=41))  # another file of that name
    assert open_image(boxes[0]).tobytes() == picture(2, width=41).crop((0, 3, 5, 10)).tobytes()


def samples() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {}
    for name, options in {
        "JPEG": {"exif": exif},
        "PNG": {"exif": exif},
        "GIF": {},
        "WEBP": {"exif": exif},
        "BMP": {},
        "TIFF": {"compression": "tiff_lzw"},
        "PPM": {},
        "AVIF": {"speed": 10},
    }.items():
        if name in decoded.FORMATS:
            file = io.BytesIO()
            pixels.save(file, name, **options)  # type: ignore[arg-type]
            made[name] = file.getvalue()
    made["progressive"] = jpeg(24, progressive=True)
    return made


SAMPLES = samples()


@given(
    name=st.sampled_from(sorted(SAMPLES)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.floats(0, 1),
    lenient=st.booleans(),
)
@settings(max_examples=300, deadline=SECONDS * 1000)
def test_damaged_files_become_an_image_or_an_error(
    name: str, changes: list[tuple[float, int]], kept: float, lenient: bool
) -> None:
    content = bytearray(SAMPLES[name])
    for place, value in changes:
        content[int(place * len(content))] = value
    shown = Picture(None, held=bytes(content[: max(1, round(kept * len(content)))]), lenient=lenient)
    try:
        image = open_image(shown)
    except BrokenImageError:
        return
    assert image.mode == "RGB"
    assert image.size == image_size(shown)
