"""Windows and bands: 16-bit pictures, DICOM and TIFFs of bands, by a rule that the model keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from shotfit.commands.cli import main
from shotfit.data.doctor import examine
from shotfit.data.images import BrokenImageError, TooLargeImageError, image_size, open_image
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.rules import AS_STORED, Rule
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import evaluate
from shotfit.export.write import export_model
from shotfit.fitting.decoded import decoded
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model
from shotfit.testing.tiny import tiny_backbone

from .pictures import picture, save


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tower") / "backbone"
    tiny_backbone(folder)
    return str(folder)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def levels_of(path: Path, **said: Any) -> list[Any]:
    """The pixels of the first row as they are shown, under a rule."""
    shown = np.asarray(open_image(Picture.of(path).under(Rule(**said))))
    return list(shown[0].tolist())


def gray(row: list[Any]) -> list[int]:
    """One number for each pixel, which is gray."""
    assert all(len(set(pixel)) == 1 for pixel in row)
    return [pixel[0] for pixel in row]


def scan(path: Path, pixels: NDArray[Any], syntax: str = "", **fields: Any) -> Path:
    """Write a DICOM file."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian  # type: ignore[assignment]
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    found = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    colored = pixels.ndim == 3 and pixels.shape[-1] == 3
    found.Rows, found.Columns = pixels.shape[:2] if colored else pixels.shape[-2:]
    found.SamplesPerPixel = 3 if colored else 1
    found.PhotometricInterpretation = "RGB" if found.SamplesPerPixel == 3 else "MONOCHROME2"
    if found.SamplesPerPixel == 3:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = 8 * pixels.dtype.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    for name, value in fields.items():
        if value is None:
            delattr(found, name)
        else:
            setattr(found, name, value)
    found.save_as(str(path), enforce_file_format=True)
    return path


def bands(path: Path, values: NDArray[Any], **fields: Any) -> Path:
    """Write a TIFF of bands [bands, height, width]."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    kind = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype.name} | fields
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **kind) as file:
        file.write(values)
    return path


# Windows


def test_window_says_which_levels_are_black_and_white(tmp_path: Path) -> None:
    levels = np.array([[0, 100, 150, 200, 4000]], np.uint16)
    png = save(tmp_path / "a.png", Image.fromarray(levels))
    tiff = save(tmp_path / "a.tif", Image.fromarray(levels.astype(np.float32) - 1000))
    assert gray(levels_of(png, window=(100, 200))) == [0, 0, 128, 255, 255]
    assert gray(levels_of(tiff, window=(-900, -800))) == [0, 0, 128, 255, 255]
    assert gray(levels_of(png)) == [0, 6, 9, 12, 249]  # without, of 12 bits


def test_window_reaches_colors_of_16_bits(tmp_path: Path) -> None:
    import struct
    import zlib

    rows = np.array([[[1000, 2000, 3000], [60000, 0, 1500]]], np.uint16)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" + rows.astype(">u2").tobytes())
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    assert levels_of(path, window=(1000, 3000)) == [[0, 128, 255], [255, 0, 64]]


def test_window_leaves_8_bits_alone_and_the_doctor_says_so(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name / "8.png", picture(len(name)).convert("L"))
        save(tmp_path / name / "16.png", Image.fromarray(np.full((40, 40), 5000 + ord(name), np.uint16)))
        other = np.random.default_rng(ord(name)).integers(0, 900, (40, 40), np.uint16)
        save(tmp_path / name / "good.png", Image.fromarray(other))
    task = read_task(tmp_path, window=(0, 1000))
    plain = Picture.of(tmp_path / "a" / "8.png")
    assert open_image(plain).tobytes() == open_image(plain.under(Rule((0, 1000)))).tobytes()
    told = " ".join(one.message for one in examine(task).warnings)
    assert "2 images are of 8 bits, which --window leaves as they are" in told
    assert "2 images are of one level alone under this window" in told


def test_rule_is_part_of_the_digest(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10)))
    plain = Picture.of(path)
    rules = [Rule((0, 10)), Rule((0, 11)), Rule(bands=(1,)), Rule((0, 10), (1,))]
    assert len({plain.digest(), *(plain.under(rule).digest() for rule in rules)}) == 5
    assert plain.under(AS_STORED) is plain and plain.under(rules[0]).whole == plain
    with pytest.raises(UsageError, match=r"was read with --window 0,10, and the model was fitted with --window 0,11"):
        plain.under(rules[0]).under(rules[1])


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--window", "5", "expected two levels"),
        ("--window", "a,b", "expected two levels"),
        ("--window", "9,1", "then a higher one"),
        ("--window", "0,nan", "then a higher one"),
        ("--bands", "1,2", "one band, or three"),
        ("--bands", "0", "one band, or three"),
        ("--bands", "x,y,z", "expected one number of a band"),
        ("--bands", "1,2,99999999999", "one band, or three"),
    ],
)
def test_wrong_rules_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str, said: str
) -> None:
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "1.png")
    code, _, err = run(capsys, "doctor", tmp_path, f"{flag}={value}")
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1


# The model keeps it


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 16-bit pictures that differ within levels 1,000 to 1,200 alone; far away is the same noise."""
    folder, generator = tmp_path_factory.mktemp("deep"), np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name, level in (("dark", 1020), ("light", 1160)):
            for number in range(count):
                levels = generator.integers(level, level + 30, (40, 40)).astype(np.uint16)
                levels[:4] = 60000
                save(folder / part / name / f"{number}.png", Image.fromarray(levels))
    return folder


@pytest.fixture(scope="module")
def windowed_model(deep: Path, backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = fit(deep, "linear_probe", backbone=backbone, store=MemoryStore(), window=(1000, 1200), check=False)
    return model.save(tmp_path_factory.mktemp("fitted") / "model")


def test_model_keeps_its_window_and_sees_every_picture_under_it(
    deep: Path, backbone: str, windowed_model: Path
) -> None:
    assert json.loads((windowed_model / "adapter.json").read_text())["pictures"] == {"window": [1000.0, 1200.0]}
    model = Model.open(windowed_model, backbone=backbone)
    assert model.rule == Rule((1000, 1200)) and "read with `--window 1000,1200`" in model.card()
    path = deep / "test" / "light" / "0.png"
    ready = open_image(Picture.of(path).under(model.rule))  # in 8 bits, which a window leaves alone
    assert np.allclose(model.predict_proba([path]), model.predict_proba([ready]), atol=1e-6)
    assert np.allclose(model.embed([path]), model.embed([ready]), atol=1e-6)
    assert torch.equal(decoded(model, Picture.of(path)), decoded(model, Picture.of(ready)))
    asked, unasked = read_task(deep, window=(1000, 1200)), read_task(deep)
    assert evaluate(model, list(asked.test)).accuracy == evaluate(model, list(unasked.test)).accuracy == 1.0
    again = model.add([deep / "test" / "dark" / "0.png"], ["dark"], data=deep)
    assert again.rule == model.rule and again.record["support_images"] == 9
    assert evaluate(model, deep).log_loss == pytest.approx(evaluate(model, list(asked.test)).log_loss, abs=1e-6)
    with pytest.raises(UsageError, match="a model sees pictures as it learned them"):
        model.probabilities(read_task(deep, window=(0, 5)).test)


def test_commands_use_the_models_window(
    deep: Path, backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    towers, model = ("--backbone", backbone), tmp_path / "model"
    words = ("fit", deep, "--window", "1000,1200", "--method", "linear_probe", "--no-check", "--out", model)
    code, _, err = run(capsys, *words, *towers)
    assert code == 0, err
    code, out, _ = run(capsys, "evaluate", model, deep, *towers)
    assert code == 0 and "100.0 %" in out
    path = deep / "test" / "light" / "0.png"
    code, out, _ = run(capsys, "predict", model, path, "--format", "jsonl", *towers)
    one = json.loads(out)["predictions"][0]
    code, out, _ = run(capsys, "predict", model, path, "--out", tmp_path / "parts", *towers)
    import pyarrow.parquet

    (file,) = (tmp_path / "parts").glob("*.parquet")
    (row,) = pyarrow.parquet.read_table(file).to_pylist()
    assert code == 0 and row["label"] == one["label"] == "light"
    assert row["probability"] == pytest.approx(one["probability"], abs=1e-4)


def test_features_are_written_under_a_window(
    deep: Path, backbone: str, windowed_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, path = Model.open(windowed_model, backbone=backbone), deep / "test" / "light" / "0.png"
    words = ("--out", tmp_path / "features.npz", "--backbone", backbone)

    def found(source: Path, *more: str) -> NDArray[Any]:
        assert run(capsys, "embed", source, *more, *words)[0] == 0
        written = np.load(tmp_path / "features.npz")
        row = next(place for place, name in enumerate(written["image"].tolist()) if name.endswith("test/light/0.png"))
        kept: NDArray[Any] = written["features"][row]
        return kept

    asked = ("--window", "1000,1200")
    expected, plain = own.embed([path])[0], found(path)
    for source in (deep, path):  # with labels and without; rounding depends on the batch
        assert np.abs(found(source, *asked) - expected).max() < 0.01 < np.abs(plain - expected).max()


def test_export_of_a_model_with_a_window_is_refused_by_name(
    windowed_model: Path, backbone: str, tmp_path: Path
) -> None:
    model = Model.open(windowed_model, backbone=backbone)
    with pytest.raises(UsageError, match="was fitted with --window 1000,1200, and an export reads"):
        export_model(model, "classifier", tmp_path / "export")


def test_record_with_another_rule_than_a_fit_writes_is_refused(windowed_model: Path, backbone: str) -> None:
    place = windowed_model / "adapter.json"
    whole = place.read_text()
    try:
        for wrong in ({"window": [3, 1]}, {"window": "wide"}, {"bands": [0]}, {"gamma": 2}, {"window": [1, 2, 3]}):
            place.write_text(json.dumps(json.loads(whole) | {"pictures": wrong}))
            with pytest.raises(ShotfitError, match="its field pictures names no window and bands"):
                Model.open(windowed_model, backbone=backbone)
    finally:
        place.write_text(whole)


def test_images_of_two_rules_are_not_fitted_together(deep: Path, backbone: str) -> None:
    from dataclasses import replace

    one, other = read_task(deep, window=(0, 9)), read_task(deep)
    with pytest.raises(UsageError, match="read all in one way"):
        fit(replace(one, train=(*one.train[:2], *other.train[4:6])), "zero_shot", backbone=backbone, check=False)
    with pytest.raises(UsageError, match="give them to read_task"):
        fit(other, "zero_shot", backbone=backbone, window=(0, 9))


# DICOM


def test_dicom_levels_go_through_slope_intercept_and_window(tmp_path: Path) -> None:
    stored = np.array([[0, 924, 1024, 1124, 4000]], np.int16)
    path = scan(tmp_path / "a.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)
    assert gray(levels_of(path, window=(-100, 100))) == [0, 0, 128, 255, 255]
    named = scan(
        tmp_path / "b.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[0.5, 9], WindowWidth=[201, 9]
    )
    assert gray(levels_of(named)) == [0, 0, 128, 255, 255]  # the first; c - 0.5 and w - 1, as the standard has it
    assert gray(levels_of(path)) == [0, 59, 65, 72, 255]  # its own range
    assert image_size(Picture.of(path)) == (5, 1)


def test_dicom_of_low_white_levels_is_inverted(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", np.array([[0, 50, 100]], np.uint8), PhotometricInterpretation="MONOCHROME1")
    assert gray(levels_of(path, window=(0, 100))) == [255, 127, 0]


def test_first_frame_and_colors_of_dicom(tmp_path: Path) -> None:
    frames = scan(tmp_path / "a.dcm", np.arange(24, dtype=np.uint8).reshape(2, 3, 4), NumberOfFrames=2)
    assert gray(levels_of(frames)) == [0, 23, 46, 70]
    colors = scan(tmp_path / "b.dcm", np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8))
    assert levels_of(colors, window=(0, 5)) == [[10, 20, 30], [40, 50, 60]]
    name = tmp_path / "renamed.png"
    name.write_bytes(colors.read_bytes())  # the content decides
    assert levels_of(name) == [[10, 20, 30], [40, 50, 60]]


def test_dicom_folder_is_a_task(tmp_path: Path, backbone: str) -> None:
    for name, level in (("a", 0), ("b", 300)):
        for number in range(3):
            noise = np.random.default_rng(level + number).integers(level, level + 50, (40, 40)).astype(np.int16)
            fields: dict[str, Any] = {} if number else {"WindowCenter": 200, "WindowWidth": 400}
            scan(tmp_path / name / f"{number}.dcm", noise, **fields)
    task = read_task(tmp_path)
    assert len(task.train) + len(task.test) == 6
    told = " ".join(one.message for one in examine(task).warnings)
    assert "4 images are DICOM without a window" in told
    assert not any("without a window" in one.message for one in examine(read_task(tmp_path, window=(0, 400))).warnings)
    model = fit(tmp_path, "linear_probe", backbone=backbone, window=(0, 400), store=MemoryStore(), check=False)
    assert evaluate(model, tmp_path, everything=True).accuracy == 1.0


def test_dicom_that_is_not_read_is_one_line(tmp_path: Path) -> None:
    from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless

    pixels = np.zeros((4, 4), np.uint8)
    none = scan(tmp_path / "a.dcm", pixels, PixelData=None)
    report = scan(tmp_path / "b.dcm", pixels, PixelData=None, Rows=None, Columns=None)
    deflated = scan(tmp_path / "d.dcm", pixels, DeflatedExplicitVRLittleEndian)
    cut = tmp_path / "e.dcm"
    cut.write_bytes(scan(tmp_path / "f.dcm", np.zeros((40, 40), np.uint16)).read_bytes()[:-800])
    huge = scan(tmp_path / "g.dcm", pixels, Rows=60000, Columns=60000)
    early = tmp_path / "h.dcm"
    early.write_bytes(none.read_bytes()[:200])
    for path, said in (
        (none, "pixels cannot be decoded"),
        (report, "is a DICOM file without pixels"),
        (deflated, "packed as a whole"),
        (cut, "pixels cannot be decoded"),
        (early, "is a DICOM file"),
    ):
        with pytest.raises(BrokenImageError, match=said) as told:
            open_image(path)
        assert "\n" not in str(told.value)
    with pytest.raises(TooLargeImageError, match="60,000 x 60,000"):
        open_image(huge)
    syntax = cut.with_name("i.dcm")
    whole = (tmp_path / "f.dcm").read_bytes()
    syntax.write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", JPEGLSLossless.encode()[:20].ljust(20, b"\0"), 1))
    with pytest.raises(BrokenImageError, match="is a DICOM file"):
        open_image(syntax)


def test_without_its_libraries_one_line_names_the_extra(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8))
    field = bands(tmp_path / "a.tif", np.zeros((4, 4, 4), np.uint8))
    program = (
        "import sys; sys.modules['pydicom'] = sys.modules['rasterio'] = None\n"
        "from shotfit.data.images import open_image\n"
        "from shotfit.data.pictures import Picture\n"
        "from shotfit.data.rules import Rule\n"
        "for path, rule in ((sys.argv[1], Rule()), (sys.argv[2], Rule(bands=(4, 3, 2)))):\n"
        "    try: open_image(Picture.of(path).under(rule))\n"
        "    except Exception as error: print(error)\n"
    )
    words = [sys.executable, "-c", program, str(path), str(field)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.endswith("is a DICOM file, which is read with pydicom: pip install 'shotfit[medical]'.")
    assert second.endswith("is read band by band with rasterio: pip install 'shotfit[geo]'.")


# Bands


def test_bands_become_red_green_and_blue(tmp_path: Path) -> None:
    values = np.stack([np.full((2, 3), 10 * band, np.uint8) for band in range(1, 6)])
    path = bands(tmp_path / "a.tif", values)
    assert levels_of(path, bands=(4, 3, 2)) == [[40, 30, 20]] * 3
    assert gray(levels_of(path, bands=(5,))) == [50] * 3
    assert levels_of(path, bands=(4, 3, 2), window=(20, 40)) == [[255, 128, 0]] * 3


def test_bands_of_more_bits_share_one_range(tmp_path: Path) -> None:
    values = np.array([[[0, 1000]], [[2000, 3000]], [[100, 16383]]], np.uint16)
    path = bands(tmp_path / "a.tif", values)
    assert levels_of(path, bands=(1, 2, 3)) == [[0, 31, 2], [16, 47, 255]]
    assert levels_of(path, bands=(1, 2, 3), window=(0, 3000)) == [[0, 170, 8], [85, 255, 255]]
    floats = bands(tmp_path / "b.tif", np.array([[[0.0, 0.5]], [[np.nan, 1.0]], [[0.25, 0.75]]], np.float32))
    assert levels_of(floats, bands=(1, 2, 3)) == [[0, 0, 64], [128, 255, 191]]


def test_what_the_file_calls_no_data_is_black(tmp_path: Path) -> None:
    values = np.array([[[-9999, 0, 50, 100]]], np.int16)
    path = bands(tmp_path / "a.tif", values, nodata=-9999)
    assert gray(levels_of(path, bands=(1,))) == [0, 0, 50, 100]
    assert gray(levels_of(path, bands=(1,), window=(0, 100))) == [0, 0, 128, 255]


def test_bands_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    path = bands(tmp_path / "a.tif", np.zeros((3, 2, 2), np.uint8))
    with pytest.raises(BrokenImageError, match=r"has 3 bands, and band 4 is asked for\. Name others with --bands\."):
        levels_of(path, bands=(4, 3, 2))
    jpeg = save(tmp_path / "a.jpg")
    with pytest.raises(BrokenImageError, match="is no TIFF, and --bands names the bands of one"):
        levels_of(jpeg, bands=(1,))
    with pytest.raises(BrokenImageError, match="an image in memory"):
        open_image(Picture.of(picture()).under(Rule(bands=(1,))))
    (tmp_path / "cut.tif").write_bytes(path.read_bytes()[:150])
    with pytest.raises(BrokenImageError, match=r"cut\.tif"):
        levels_of(tmp_path / "cut.tif", bands=(1,))


def test_tiff_of_a_hostile_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    import rasterio

    huge = tmp_path / "huge.tif"
    kind = {"driver": "GTiff", "count": 4, "height": 10_000, "width": 11_000, "dtype": "float64", "sparse_ok": True}
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(huge, "w", **kind):
        pass
    assert huge.stat().st_size < 2**21
    with pytest.raises(TooLargeImageError, match="of memory to decode"):
        levels_of(huge, bands=(3, 2, 1))


def test_bands_go_the_whole_way(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(4):
        for name, level in (("water", 300), ("wheat", 2400)):
            noise = generator.integers(0, 3000, (6, 40, 40)).astype(np.uint16)
            noise[4] = generator.integers(level, level + 200, (40, 40))
            bands(tmp_path / "fields" / name / f"{number}.tif", noise[:5] if name == "water" and number == 3 else noise)
    towers, model = ("--backbone", backbone), tmp_path / "model"
    asked = ("--bands", "5", "--window", "0,3000")
    code, out, _ = run(capsys, "doctor", tmp_path / "fields", *asked, *towers)
    assert code == 0 and "different numbers of bands (5 and 6)" in out
    words = ("fit", tmp_path / "fields", "--method", "linear_probe", "--no-check", "--out", model, *asked)
    code, _, err = run(capsys, *words, *towers)
    assert code == 0, err
    code, out, err = run(capsys, "evaluate", model, tmp_path / "fields", "--all", *towers)
    assert code == 0 and "100.0 %" in out, err
    few = bands(tmp_path / "few.tif", np.zeros((3, 40, 40), np.uint16))
    code, out, err = run(capsys, "predict", model, few, tmp_path / "fields" / "wheat", *towers)
    assert code == 4 and "few.tif has 3 bands, and band 5 is asked for" in err and out.count("wheat ") == 4


def test_pixels_of_dicom_do_not_warn(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", np.zeros((4, 4), np.uint8), WindowCenter="1", WindowWidth="0")
    assert gray(levels_of(path)) == [0] * 4  # a window without width counts as none


@pytest.mark.parametrize("kind", ["dicom", "bands"])
def test_damaged_files_are_broken_pictures_and_nothing_else(tmp_path: Path, kind: str) -> None:
    if kind == "dicom":
        path = scan(tmp_path / "a.dcm", np.arange(64, dtype=np.int16).reshape(8, 8), WindowCenter="3", WindowWidth="9")
    else:
        path = bands(tmp_path / "a.tif", np.arange(256, dtype=np.uint16).reshape(4, 8, 8))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    target = Picture.of(path).under(Rule(bands=(3, 2, 1)) if kind == "bands" else AS_STORED)
    for _ in range(150):
        content = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content[: generator.integers(len(whole) // 2, len(whole) + 1)])
        with suppress(BrokenImageError):
            open_image(target)
