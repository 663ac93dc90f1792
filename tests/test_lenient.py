"""--lenient: pictures that are cut off are read as far as they are there, by every command, and never otherwise."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shotfit.commands.cli import main
from shotfit.data.pictures import Picture, PictureLike
from shotfit.errors import ShotfitError
from shotfit.fitting.embedding import embed
from shotfit.fitting.fit import fit
from shotfit.fitting.model import Model

from .pictures import picture, save, tree

CUT = "cut.jpg"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of which one has a picture whose second half is missing, and one a picture without any pixels."""
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    folder = tree(tmp_path / "photos", cat=4, dog=4)
    whole = save(folder / "cat" / CUT, picture(7, 200, 200)).read_bytes()
    (folder / "cat" / CUT).write_bytes(whole[: len(whole) // 2])
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_doctor_warns_of_what_is_cut_off_in_place_of_an_error(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", photos)
    assert code == 3 and "cut.jpg is truncated" in out and "--lenient" in out
    for _ in range(2):  # the second time from what was kept
        code, out, _ = run(capsys, "doctor", photos, "--lenient")
        assert code == 0 and "1 image is truncated (what is missing was filled), e.g. " in out
    assert run(capsys, "doctor", photos)[0] == 3


def test_commands_take_what_is_there(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = ("--method", "zero_shot", "--backbone", "mini")
    assert run(capsys, "fit", photos, *fast, "--out", tmp_path / "model")[0] == 3
    assert run(capsys, "fit", photos, *fast, "--out", tmp_path / "model", "--lenient")[0] == 0
    assert run(capsys, "evaluate", tmp_path / "model", photos, "--all", "--lenient")[0] == 0
    assert run(capsys, "evaluate", tmp_path / "model", photos, "--all")[0] == 3
    cut = photos / "cat" / CUT
    for _ in range(2):  # features of a lenient reading are in the store, and no strict one takes them
        code, out, _ = run(capsys, "predict", tmp_path / "model", cut, "--lenient", "--format", "jsonl")
        assert code == 0 and json.loads(out)["predictions"]
        code, out, err = run(capsys, "predict", tmp_path / "model", cut, "--format", "jsonl")
        assert code == 4 and "truncated" in json.loads(out)["error"] and "truncated" in err


def test_python_takes_what_is_there(photos: Path) -> None:
    with pytest.raises(ShotfitError, match="is truncated"):
        fit(photos, "zero_shot")
    model: Model = fit(photos, "zero_shot", lenient=True)
    cut = photos / "cat" / CUT
    with pytest.raises(ShotfitError, match="is truncated"):
        model.predict([cut])
    images: list[PictureLike] = [photos / "dog" / "000.png", cut, cut.read_bytes()]
    assert len(model.predict(images, lenient=True)) == 3
    for strict, leniently in (
        (partial(model.predict_proba, images), partial(model.predict_proba, images, lenient=True)),
        (partial(model.embed, images), partial(model.embed, images, lenient=True)),
        (partial(embed, images), partial(embed, images, lenient=True)),
    ):
        with pytest.raises(ShotfitError, match="is truncated"):
            strict()
        rows = leniently()
        assert len(rows) == 3 and np.isfinite(rows).all() and np.array_equal(rows[1], rows[2])


def test_images_that_are_added_may_be_cut_off_where_that_is_asked(photos: Path) -> None:
    cut = photos / "cat" / CUT
    model = fit(photos, "zero_shot", lenient=True)
    with pytest.raises(ShotfitError, match="is truncated"):
        model.add([cut], ["bird"])
    again = model.add([cut], ["bird"], lenient=True)
    assert again.class_names == ("cat", "dog", "bird")
    assert again.predict([cut], lenient=True)[0].labels


def test_lenient_reading_does_not_read_what_is_broken_otherwise(photos: Path) -> None:
    (photos / "cat" / "text.png").write_text("nothing")
    (photos / "cat" / "header.jpg").write_bytes(save(photos / "dog" / "x.jpg", picture(8, 64, 64)).read_bytes()[:640])
    found = fit(photos, "zero_shot", lenient=True, skip_broken=True).predict(
        [photos / "cat" / "text.png", photos / "cat" / "header.jpg"], lenient=True, keep_broken=True
    )
    assert [bool(one.error) for one in found] == [True, True]


def test_whole_pictures_are_the_same_leniently(tmp_path: Path) -> None:
    from shotfit.data.images import open_image

    for suffix in ("jpg", "png", "webp", "tiff"):
        one = Picture(save(tmp_path / f"a.{suffix}", picture(1, 64, 64)))
        assert open_image(one).tobytes() == open_image(one.as_lenient()).tobytes()
