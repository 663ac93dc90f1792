"""Clips: pictures with time, whose frames stay together, and which count once."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.clipart_clips import make_clips, write_clip
from shotfit.commands.cli import main
from shotfit.data.clips import Sampling, frames_of, moments
from shotfit.data.doctor import examine
from shotfit.data.images import BrokenImageError, image_size, open_image
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.shots import cross_validation
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError, UsageError
from shotfit.evaluation.evaluate import answers, evaluate
from shotfit.fitting.asked import Asked
from shotfit.fitting.clips import check_alone
from shotfit.fitting.fit import fit
from shotfit.fitting.learned import count_learned
from shotfit.fitting.model import Model
from shotfit.light import load as load_export
from shotfit.testing.tiny import tiny_backbone

from .exports import by_hand

CLASSES = ("red", "green", "blue")
SHADES = 20  # levels from one frame to the next


def shades(channel: int, frames: int = 10, base: int = 20, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    """Frames of one color that becomes lighter, so that a frame tells which one it is."""
    found = []
    for number in range(frames):
        pixels = np.full((size[1], size[0], 3), base, np.uint8)
        pixels[..., channel] = (base + SHADES * number) % 256
        found.append(Image.fromarray(pixels))
    return found


def number_of(picture: Picture, channel: int = 0, base: int = 20) -> int:
    """Which frame of `shades` a picture is."""
    return round((float(np.asarray(open_image(picture))[..., channel].mean()) - base) / SHADES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """{train,test}/CLASS/NUMBER.mp4: of each class three clips to learn from and two to test on, a second long."""
    folder = tmp_path_factory.mktemp("clips")
    for part, count in (("train", 3), ("test", 2)):
        for channel, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                base = 20 + 7 * number + 3 * (part == "test")
                write_clip(folder / part / name / f"{number}.mp4", shades(channel, base=base))
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tower") / "backbone"
    tiny_backbone(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(clips: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = fit(read_task(clips, frames=4), "linear_probe", backbone=str(backbone), store=MemoryStore(), check=False)
    return model.save(tmp_path_factory.mktemp("fitted") / "model")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


# Moments


@pytest.mark.parametrize(("ending", "codec"), [(".mp4", "mpeg4"), (".webm", "libvpx-vp9"), (".mkv", "mpeg4")])
def test_moment_shows_the_frame_of_that_time(tmp_path: Path, ending: str, codec: str) -> None:
    path = write_clip(tmp_path / f"clip{ending}", shades(0), codec=codec, every=4)
    for seconds, number in ((0, 0), (0.05, 0), (0.1, 1), (0.45, 4), (0.95, 9), (1.5, 9)):
        picture = Picture.of(f"{path}#t={seconds}")
        assert number_of(picture) == number
        assert image_size(picture) == (48, 32)
    with pytest.raises(BrokenImageError, match="shows nothing after 7 seconds: it ends after 1"):
        open_image(Picture.of(path).at(7))


def test_moment_is_written_as_a_media_fragment_and_has_its_own_digest(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", shades(0))
    picture = Picture.of(f"{path}#t=0.50")
    assert str(picture) == f"{path}#t=0.5" and picture == Picture.of(path).at(0.5) and picture.whole == Picture.of(path)
    assert len({picture.digest(), Picture.of(path).digest(), Picture.of(path).at(0.6).digest()}) == 3
    for seconds in (0, 0.001, 0.25, 59.999, 12345.678):
        assert Picture.of(str(Picture.of(path).at(seconds))).moment == seconds
    (tmp_path / "odd.mp4#t=1").write_bytes(b"x")  # an existing path wins
    assert Picture.of(tmp_path / "odd.mp4#t=1").moment is None


def test_turned_clip_stands_upright(tmp_path: Path) -> None:
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:, 24:] = 255  # white on the right
    path = write_clip(tmp_path / "clip.mp4", [Image.fromarray(frame)] * 3, turned=90)
    picture = Picture.of(path).at(0.1)
    shown = np.asarray(open_image(picture)).mean(axis=2)
    assert image_size(picture) == (32, 48) == open_image(picture).size
    assert shown[:20].mean() > 200 and shown[-20:].mean() < 50  # counterclockwise: right became top


def test_moments_are_the_middles_of_equal_parts() -> None:
    assert moments(10, Sampling(frames=4)) == [1.25, 3.75, 6.25, 8.75]
    assert moments(10, Sampling(frames=8), frames=2) == [2.5, 7.5]
    assert moments(3, Sampling(fps=1)) == [0.5, 1.5, 2.5]
    assert moments(0.1, Sampling(fps=1)) == [0.1]
    wrongs: list[dict[str, Any]] = [{"frames": 0}, {"frames": 1001}, {"fps": 0}, {"frames": 2, "fps": 1}]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="--f"):
            Sampling(**wrong)


def test_gif_is_a_clip_where_frames_are_asked_for(tmp_path: Path) -> None:
    first, *others = shades(1, 4)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=others, duration=100)
    first.save(tmp_path / "still.gif")
    moving, still = Picture.of(tmp_path / "moving.gif"), Picture.of(tmp_path / "still.gif")
    assert [number_of(one, 1) for one in frames_of(moving, Sampling(frames=4))] == [0, 1, 2, 3]
    assert frames_of(still, Sampling(frames=4)) == [still]
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "moving.gif").rename(tmp_path / "data" / "a" / "moving.gif")
    assert [str(item.picture) for item in read_task(tmp_path / "data").train] == [f"{tmp_path}/data/a/moving.gif"]
    assert len(read_task(tmp_path / "data", frames=3).train) == 3


def test_clip_in_an_archive_is_read_there(clips: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as packed:
        for path in sorted(clips.rglob("*.mp4")):
            packed.write(path, path.relative_to(clips))
    inside, outside = read_task(tmp_path / "clips.zip", frames=2), read_task(clips, frames=2)
    assert [item.digest for item in inside.train] == [item.digest for item in outside.train]
    assert open_image(inside.test[0].picture).tobytes() == open_image(outside.test[0].picture).tobytes()


# Tasks


def test_frames_of_a_clip_stay_together(clips: Path) -> None:
    task = read_task(clips, frames=4)
    assert (len(task.train), len(task.test)) == (3 * 3 * 4, 3 * 2 * 4)
    assert {item.group for item in task.test} == {f"test/{name}/{n}.mp4" for name in CLASSES for n in range(2)}
    few = task.shots(2, seed=1)
    assert [len(few.train), len({item.group for item in few.train})] == [3 * 2 * 4, 3 * 2]
    labels, groups = [item.label for item in task.train], [item.group for item in task.train]
    for fold in cross_validation(labels, groups, most=3, seed=1):
        inside = {groups[place] for place in fold}
        assert not inside & {group for place, group in enumerate(groups) if place not in fold}


def test_split_by_clips_does_not_depend_on_their_frames(clips: Path) -> None:
    tested = [
        {item.group for item in read_task(clips / "train", **how).test}  # type: ignore[arg-type]
        for how in ({"frames": 2}, {"frames": 5}, {"fps": 10})
    ]
    assert tested[0] == tested[1] == tested[2] and len(tested[0]) == 3
    assert read_task(clips / "train").test_origin == "about a fifth of each class, in whole clips"


def test_manifest_names_clips_and_moments(clips: Path, tmp_path: Path) -> None:
    lines = ["path,label", "red/0.mp4,red", "red/1.mp4#t=0.5,red", "red/1.mp4#t=0.7,red", "blue/0.mp4,blue"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    task = read_task(tmp_path / "labels.csv", images=clips / "train", frames=3)
    every = [*task.train, *task.test]
    assert len(every) == 3 + 2 + 3
    named = [item for item in every if not item.picture.clip]
    assert len(named) == 2 and len({item.group for item in named}) == 1


def test_folders_of_frames_are_clips_where_asked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for run_ in ("one", "two"):
            (tmp_path / name / run_).mkdir(parents=True)
            for number, frame in enumerate(shades(0, base=20 + len(name + run_) + 9 * (name == "b"))):
                frame.save(tmp_path / name / run_ / f"{number}.png")
    with pytest.raises(ShotfitError, match="--read-as frames if the folders in it are clips"):
        read_task(tmp_path)
    assert not any(item.picture.clip for item in read_task(tmp_path, read_as="folders").train)
    task = read_task(tmp_path, read_as="frames", frames=3)
    every = [*task.train, *task.test]
    assert len(every) == 2 * 2 * 3 and {item.group for item in every} == {"a/one", "a/two", "b/one", "b/two"}
    with pytest.raises(UsageError, match="--fps needs clips with times"):
        read_task(tmp_path, read_as="frames", fps=2)


def test_no_frame_of_a_test_clip_is_seen_in_fit(clips: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shotfit.data import decoded

    seen, frame = set[Path](), decoded._frame

    def watched(picture: Picture, *others: object) -> decoded.Opened:
        seen.add(picture.path)
        return frame(picture, *others)  # type: ignore[arg-type]

    task = read_task(clips, frames=4)
    monkeypatch.setattr(decoded, "_frame", watched)
    model = fit(task, "linear_probe", backbone=str(backbone), store=MemoryStore())
    assert seen == {item.picture.path for item in task.train} and not seen & {item.picture.path for item in task.test}
    assert count_learned(model, task.test) == 0 and count_learned(model, task.train) == len(task.train)


# Predictions


def test_prediction_of_a_clip_is_the_mean_of_its_frames(clips: Path, fitted: Path, backbone: Path) -> None:
    model = Model.open(fitted, backbone=str(backbone))
    path = clips / "test" / "red" / "0.mp4"
    frames = [Picture.of(path).at(seconds) for seconds in moments(1, Sampling())]
    each, whole = model.predict_proba(frames), model.predict_proba([path])
    assert each.shape == (8, 3) and np.allclose(whole[0], each.mean(axis=0), atol=1e-6)
    (one,) = model.predict(path, top=3)
    assert one.source == str(path) and one.timeline is not None
    assert one.timeline.times == tuple(moments(1, Sampling())) and np.allclose(one.timeline.probabilities, each)
    with pytest.raises(UsageError, match="mean of its frames"):
        check_alone(Asked(coverage=0.9))


def test_clip_counts_once_in_evaluation(clips: Path, fitted: Path, backbone: Path) -> None:
    model, task = Model.open(fitted, backbone=str(backbone)), read_task(clips, frames=4)
    said = answers(model, list(task.test))
    assert said.probabilities.shape == (6, 3) and evaluate(model, list(task.test)).images == 6
    each = model.probabilities(list(task.test)).numpy()
    assert np.allclose(said.probabilities[0], each[:4].mean(axis=0), atol=1e-6)
    assert {item.picture.clip for item in said.items} == {str(path) for path in (clips / "test").rglob("*.mp4")}


def test_predict_writes_rows_and_timelines(
    clips: Path, fitted: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    towers = ("--backbone", backbone)
    code, out, _ = run(capsys, "predict", fitted, clips / "test", "--format", "csv", *towers)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and len(rows) == 6 and all(row["image"].endswith(".mp4") for row in rows)
    code, out, _ = run(capsys, "predict", fitted, clips / "test/red/0.mp4", "--each-frame", "--fps", "4", *towers)
    assert code == 0 and [line.split()[0][-8:] for line in out.splitlines()] == [
        f"4#t={seconds}"[-8:] for seconds in ("0.125", "0.375", "0.625", "0.875")
    ]
    for ending in (".csv", ".svg", ".png"):
        place = tmp_path / f"timeline{ending}"
        words = ("predict", fitted, clips / "test", "--frames", "3", "--timeline", place)
        code, out, err = run(capsys, *words, *towers)
        assert code == 0 and f"written: {place}" in err and place.stat().st_size > 100
    lines = list(csv.DictReader(io.StringIO((tmp_path / "timeline.csv").read_text())))
    assert len(lines) == 6 * 3 * 3 and set(lines[0]) == {"clip", "frame", "time", "label", "probability"}
    assert (lines[0]["frame"], float(lines[3]["time"])) == ("0", 0.5)
    assert image_size(Picture.of(tmp_path / "timeline.png"))[0] > 500
    assert run(capsys, "predict", fitted, clips / "test", "--timeline", tmp_path / "a.doc", *towers)[0] == 2


def test_pictures_of_a_folder_may_be_a_clip(
    fitted: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for number, frame in enumerate(shades(len(name) % 3)):
            frame.save(tmp_path / "runs" / name / f"{number}.png")
    words = ("predict", fitted, tmp_path / "runs", "--by-folder", "--frames", "4", "--format", "jsonl")
    code, out, _ = run(capsys, *words, "--backbone", backbone)
    assert code == 0
    named = [json.loads(line)["image"] for line in out.splitlines()]
    assert named == [f"{tmp_path}/runs/one", f"{tmp_path}/runs/two"]


def test_commands_go_the_whole_way(
    clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))
    towers, model = ("--backbone", backbone), tmp_path / "model"
    code, out, _ = run(capsys, "doctor", clips, "--frames", "4", "--shots", "4", *towers)
    assert code == 0 and "fewer train images than the 4 shots: blue (3), green (3), red (3)" in out
    words = ("fit", clips, "--frames", "4", "--shots", "2", "--method", "linear_probe", "--out", model)
    code, out, err = run(capsys, *words, *towers)
    assert code == 0 and "36 train" in out and "24 test images" in out, err
    code, out, err = run(capsys, "evaluate", model, clips, "--frames", "4", "--out", tmp_path / "rows.csv", *towers)
    assert code == 0 and "images                 6" in out and "24 frames of clips" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert len(rows) == 6 and all(row["image"].endswith(".mp4") for row in rows)
    code, _, err = run(capsys, "evaluate", model, clips, "--coverage", "0.9", *towers)
    assert code == 2 and "mean of its frames" in err
    compared = ("compare", clips, "--methods", "zero_shot", "--shots", "1", "--seeds", "1", "--frames", "2", "--json")
    more = ("--out", tmp_path / "runs.jsonl", "--keep-predictions", tmp_path / "said")
    code, out, _ = run(capsys, *compared, *more, *towers)
    assert code == 0 and json.loads(out.splitlines()[-1])["rows"]
    (kept,) = (tmp_path / "said").iterdir()
    assert len(kept.read_text().splitlines()) == 1 + 6


# What is no clip, or not all of one


def test_clip_that_is_cut_off_is_one_line_and_the_rest_is_done(
    clips: Path, fitted: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    whole = (clips / "test" / "red" / "0.mp4").read_bytes()
    (tmp_path / "in" / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "in" / "none.mp4").write_bytes(b"")
    (tmp_path / "in" / "text.mp4").write_text("a list of clips")
    (tmp_path / "in" / "whole.mp4").write_bytes(whole)
    code, out, _ = run(capsys, "predict", fitted, tmp_path / "in", "--format", "jsonl", "--backbone", backbone)
    rows = {Path(row["image"]).name: row for row in map(json.loads, out.splitlines())}
    assert code == 4 and "predictions" in rows["whole.mp4"]
    assert "is a clip that is cut off or damaged" in rows["cut.mp4"]["error"]
    assert "is empty (0 bytes)" in rows["none.mp4"]["error"]
    assert "is no clip of a format that is read" in rows["text.mp4"]["error"]


@pytest.mark.parametrize("ending", [".webm", ".mkv", ".avi"])
def test_clip_whose_second_half_is_missing_is_refused(tmp_path: Path, ending: str) -> None:
    codec = "libvpx-vp9" if ending == ".webm" else "mpeg4"
    whole = write_clip(tmp_path / f"whole{ending}", shades(0, 40, 0, (320, 240)), codec=codec).read_bytes()
    (tmp_path / f"cut{ending}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenImageError, match="cut off or damaged"):
        open_image(frames_of(Picture.of(tmp_path / f"cut{ending}"))[0])


def test_faststart_clip_that_is_cut_off_says_how_much_is_there(tmp_path: Path) -> None:
    import av

    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        track: Any = container.add_stream("mpeg4", rate=10)
        track.width, track.height, track.pix_fmt = 320, 240, "yuv420p"
        for number in range(50):
            noise = np.random.default_rng(number).integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(track.encode())
    (tmp_path / "a.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BrokenImageError, match=r"2\.\d of 5\.0 seconds are there"):
        open_image(Picture.of(tmp_path / "a.mp4"))


def test_clip_without_a_video_track_is_refused(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
        container.mux(track.encode())
    with pytest.raises(BrokenImageError, match="without a video track"):
        open_image(Picture.of(tmp_path / "sound.mp4"))


def test_clip_of_an_absurd_size_is_refused_before_it_is_decoded(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shotfit.data import video

    path = clips / "test" / "red" / "0.mp4"
    with monkeypatch.context() as patch:
        patch.setattr(video, "MAX_FRAME", 1000)
        with pytest.raises(BrokenImageError, match="frames of 48 x 32 pixels, more than 1,000"):
            open_image(Picture.of(path).at(0.5))
    with monkeypatch.context() as patch:
        patch.setattr(video, "MAX_SECONDS", 0.5)
        with pytest.raises(BrokenImageError, match="hours long"):
            open_image(Picture.of(path))
    monkeypatch.setattr(video, "MAX_DECODED", 3 * 48 * 32)
    still = write_clip(tmp_path / "still.mp4", shades(0)[:1] * 10)
    with pytest.raises(BrokenImageError, match="too few key frames"):
        open_image(Picture.of(still).at(0.9))


def test_damaged_clips_are_broken_pictures_and_nothing_else(clips: Path, tmp_path: Path) -> None:
    whole, generator = (clips / "test" / "red" / "0.mp4").read_bytes(), np.random.default_rng(0)
    path = tmp_path / "a.mp4"
    for _ in range(150):
        content = bytearray(whole)
        for place in generator.integers(0, len(whole), 4):
            content[place] = generator.integers(0, 256)
        path.write_bytes(content[: generator.integers(len(whole) // 2, len(whole) + 1)])
        for picture in (*frames_of(Picture.of(path), Sampling(frames=2)), Picture.of(path).at(0.5)):
            with suppress(BrokenImageError):
                open_image(picture)


def test_clip_in_the_place_of_a_picture_asks_for_a_moment(clips: Path) -> None:
    with pytest.raises(BrokenImageError, match=r"name a moment of it, if it lies here, as in CLIP\.mp4#t=1\.5"):
        open_image(clips / "test" / "red" / "0.mp4")
    content = (clips / "test" / "red" / "0.mp4").read_bytes()
    with pytest.raises(BrokenImageError, match=r"run\.mp4 is a video, not a picture\. Save a frame of it"):
        open_image(Picture.of(content, "run.mp4"))  # as a server gets it


def test_clip_in_a_folder_of_parts_is_one_line_and_the_pictures_are_predicted(
    clips: Path, fitted: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow.parquet import read_table

    clip = clips / "test" / "red" / "0.mp4"
    words = ("predict", fitted, clip, f"{clip}#t=0.5", "--out", tmp_path / "parts", "--backbone", backbone)
    code, _, err = run(capsys, *words)
    first, second = read_table(tmp_path / "parts" / "part-00000.parquet").to_pylist()
    assert code == 4 and "2 pictures, 1 not predicted" in err
    assert first["error"].startswith(f"{clip} is a clip, and a folder of parts takes pictures: write one file instead")
    assert second["label"] in CLASSES and second["error"] is None
    code, _, err = run(capsys, *words, "--frames", 4)
    assert code == 2 and "--frames does not go with a folder of parts" in err


def test_export_refuses_a_clip_in_a_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, clip = by_hand(tmp_path / "export"), clips / "test" / "red" / "0.mp4"
    code, _, err = run(capsys, "predict", export, clip)
    assert code == 2 and "is a clip, and an export predicts pictures: ask for each frame with --each-frame" in err
    code, out, _ = run(capsys, "predict", export, clip, "--each-frame", "--frames", 2, "--format", "csv")
    assert code == 0 and len(out.splitlines()) == 3
    with pytest.raises(ShotfitError, match="is a clip, not a picture"):
        load_export(export).predict(clip)


def test_features_and_labels_of_frames_as_many_as_are_asked_for(
    clips: Path, fitted: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, towers = tmp_path / "features.npz", ("--backbone", backbone)
    for source, count, labels in ((clips, 15, {*CLASSES}), (clips / "test" / "red" / "0.mp4", 1, {""})):
        code, _, err = run(capsys, "embed", source, "--frames", 3, "--out", out, *towers)
        found = np.load(out)
        assert code == 0 and len(found["image"]) == 3 * count and {*found["label"].tolist()} == labels, err
    code, out_, _ = run(capsys, "clean", clips, "--frames", 2, "--json", *towers)
    assert code == 0 and json.loads(out_)["images"] == 2 * 15
    code, out_, err = run(capsys, "analyze", "pairs", clips, "--frames", 2, "--seeds", 1, "--json", *towers)
    assert code == 0 and json.loads(out_)["overlaps"][0]["images"] == 2 * 9, err
    page = tmp_path / "page.html"
    code, _, err = run(capsys, "report", fitted, clips, "--frames", 2, "--no-images", "--out", page, *towers)
    assert code == 0 and "of the 12 images of the test part" in page.read_text(), err  # each frame by itself


def test_doctor_names_a_broken_clip_once(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(2):
        (tmp_path / "a" / f"{number}.mp4").write_bytes((clips / "test" / "red" / f"{number}.mp4").read_bytes())
    (tmp_path / "a" / "cut.mp4").write_bytes((clips / "test" / "red" / "0.mp4").read_bytes()[:-200])
    report = examine(read_task(tmp_path))
    assert len(report.errors) == 1 and "cut.mp4 is a clip that is cut off" in report.errors[0].message


def test_without_pyav_one_line_names_the_extra(clips: Path) -> None:
    program = (
        "import sys; sys.modules['av'] = None\n"
        "from shotfit.data.images import SUFFIXES, open_image\n"
        "from shotfit.data.doctor import examine\n"
        "from shotfit.data.readers import read_task\n"
        "assert '.mp4' not in SUFFIXES\n"
        "print(*[one.message for one in examine(read_task(sys.argv[1])).warnings], sep='\\n')\n"
        "from shotfit.data.finding import find_images\n"
        "try: find_images([sys.argv[1]])\n"
        "except Exception as error: print(error)\n"
        "open_image(sys.argv[1] + '/test/red/0.mp4')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(clips)], capture_output=True, text=True, check=False)
    assert "to use, or pip install 'shotfit[video]' for clips" in done.stdout
    assert "holds no images: pip install 'shotfit[video]' for clips." in done.stdout
    assert "0.mp4 is a clip, which is read with PyAV: pip install 'shotfit[video]'." in done.stderr


def test_moving_clip_art_is_told_apart(tmp_path: Path) -> None:
    make_clips(tmp_path, ["bird", "house"], train=3, test=2, frames=12)
    task = read_task(tmp_path, frames=4)
    model = fit(task, "zero_shot", store=MemoryStore(), check=False)
    assert len(model.predict([str(item.picture.path) for item in task.test[::4]])) == 4
    assert evaluate(model, list(task.test)).images == 4
