"""Pictures: what a name means, what each kind shows, and that the same bytes are the same image wherever they lie."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from shotfit.data.filecache import FileCache
from shotfit.data.images import BrokenImageError, image_size, inspect, open_image
from shotfit.data.pictures import Crop, Picture, pictures_of
from shotfit.errors import UsageError

from .pictures import picture, save


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Picture]:
    """The same PNG in every place that has bytes."""
    path = save(tmp_path / "a.png", picture(1, width=40, height=30))
    content = path.read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(path, "in/a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.write(path, "in/a.png")
    table = pa.table({"label": ["x", "y"], "image": [{"bytes": b"", "path": "0"}, {"bytes": content, "path": "a.png"}]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    names = {
        "file": f"{path}",
        "tar": f"{tmp_path / 'a.tar'}::in/a.png",
        "zip": f"{tmp_path / 'a.zip'}::in/a.png",
        "parquet": f"{tmp_path / 'a.parquet'}::1",
        "arrow": f"{tmp_path / 'a.arrow'}::1",
    }
    return {kind: Picture.of(name) for kind, name in names.items()} | {"bytes": Picture.of(content)}


def test_same_bytes_are_the_same_image_wherever_they_lie(places: dict[str, Picture]) -> None:
    assert len({one.digest() for one in places.values()}) == 1
    assert len({open_image(one).tobytes() for one in places.values()}) == 1
    assert {image_size(one) for one in places.values()} == {(40, 30)}


def test_box_of_any_of_them_shows_the_same_and_has_a_digest_of_its_own(places: dict[str, Picture]) -> None:
    named = [Picture.of(f"{one}#xywh=10,5,20,15") for one in places.values() if one.file]
    boxes = [*named, places["bytes"].of_crop(Crop(10, 5, 20, 15))]
    expected = open_image(places["file"]).crop((10, 5, 30, 20))
    assert all(open_image(box).tobytes() == expected.tobytes() for box in boxes)
    assert len({box.digest() for box in boxes}) == 1
    assert boxes[0].digest() not in (places["file"].digest(), boxes[0].whole.of_crop(Crop(10, 5, 20, 14)).digest())
    assert FileCache(None).digests(boxes) == [box.digest() for box in boxes]


def test_pixels_in_memory_are_one_image_as_array_and_as_pil(places: dict[str, Picture]) -> None:
    image = open_image(places["file"])
    array = np.asarray(image)
    pictures = [Picture.of(image), Picture.of(array)]
    assert pictures[0].digest() == pictures[1].digest() != places["file"].digest()
    assert all(open_image(one).tobytes() == image.tobytes() for one in pictures)
    assert Picture.of(array[:, ::-1]).digest() != pictures[0].digest()


def test_array_that_changes_later_changes_no_picture() -> None:
    array = np.zeros((8, 8, 3), dtype=np.uint8)
    black = Picture.of(array)
    array[:] = 255
    assert open_image(black).getextrema() == ((0, 0),) * 3


def test_existing_path_wins_over_every_other_reading(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png")
    for name in ("a.png#xywh=1,1,2,2", "a.tar::b.png"):
        (tmp_path / name).write_bytes(whole.read_bytes())
        assert Picture.of(tmp_path / name).file == tmp_path / name
    assert Picture.of(f"{whole}#xywh=2,1,2,2").crop == Crop(2, 1, 2, 2)


def test_name_of_a_member_wins_over_a_box_of_another(tmp_path: Path) -> None:
    content = save(tmp_path / "a.png").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("1.jpg", "1.jpg#xywh=0,0,2,2"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert Picture.of(f"{tmp_path}/a.tar::1.jpg#xywh=0,0,2,2").crop is None
    assert Picture.of(f"{tmp_path}/a.tar::1.jpg#xywh=0,0,3,3").crop == Crop(0, 0, 3, 3)


def test_box_refers_to_stored_pixels_and_is_turned_with_exif(tmp_path: Path) -> None:
    stored, exif = picture(3, width=40, height=30), Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    box = Picture.of(f"{tmp_path / 'a.png'}#xywh=10,5,20,8")
    expected = stored.crop((10, 5, 30, 13)).transpose(Image.Transpose.ROTATE_270)
    assert image_size(box) == (8, 20)
    assert open_image(box).tobytes() == expected.tobytes()
    assert (inspect(box).width, inspect(box).height, inspect(box).rotated) == (20, 8, True)


def test_box_that_sticks_out_is_cut_and_one_outside_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", picture(1, width=40, height=30))
    assert image_size(Picture.of(f"{path}#xywh=30,20,50,50")) == (10, 10)
    with pytest.raises(BrokenImageError, match="is a box outside of its picture of 40 x 30 pixels"):
        open_image(Picture.of(f"{path}#xywh=40,0,5,5"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.tar::b.png", "does not exist"),
        ("a.parquet::9", "is not in a.parquet, which has 2 rows"),
        ("a.parquet::0", "is empty"),
    ],
)
def test_part_that_is_not_there_is_a_sentence(tmp_path: Path, places: dict[str, Picture], name: str, said: str) -> None:
    with pytest.raises(BrokenImageError, match=said):
        open_image(Picture.of(f"{tmp_path}/{name}"))


def test_archive_that_was_cut_off_is_a_sentence(tmp_path: Path, places: dict[str, Picture]) -> None:
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:700])
    with pytest.raises(BrokenImageError, match=r"a\.tar"):
        open_image(places["tar"])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros((8, 8, 3)), r"an array \[8, 8, 3\] of float64; expected \[height, width, 3\] of uint8"),
        (torch.zeros(3, 8, 8), r"an array \[3, 8, 8\] of float32"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"an array \[3, 8, 8\] of uint8"),
        (3, "is a int; expected a path, bytes"),
        (None, "is a NoneType"),
    ],
)
def test_value_that_is_no_picture_is_a_sentence(value: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pictures_of(value)  # type: ignore[arg-type]


def test_open_file_is_read_and_an_address_is_told_apart(tmp_path: Path) -> None:
    content = save(tmp_path / "a.png").read_bytes()
    (one,) = pictures_of(io.BytesIO(content))
    assert one.digest() == Picture.of(content).digest()
    address = Picture.of("https://example.com/x.png")
    assert not address.exists() and str(address) == "https://example.com/x.png"
    with pytest.raises(BrokenImageError, match=r"^https://example.com/x.png is an address on the network"):
        open_image(address)


def test_batch_of_arrays_is_several_pictures() -> None:
    assert [str(one) for one in pictures_of(np.zeros((2, 8, 8, 3), dtype=np.uint8))] == ["image 0", "image 1"]


def test_column_of_paths_is_several_pictures() -> None:
    assert [str(one) for one in pictures_of(np.array(["a.png", "b.png"]))] == ["a.png", "b.png"]


def test_pictures_go_to_other_processes(places: dict[str, Picture]) -> None:
    for one in places.values():
        assert pickle.loads(pickle.dumps(one)).digest() == one.digest()
