"""Clips as pictures: which moments of a clip are looked at, and which pictures are frames of the same one.

    sampling = Sampling(frames=8)                       # or Sampling(fps=2)
    frames_of(Picture.of("run.mp4"), sampling)          # run.mp4#t=0.625, run.mp4#t=1.875, ...
    framed(Stream(["clips/"]), sampling)                # clips become their frames, other pictures stay

Of N frames, each is the middle of one of N equal parts of the clip. At R frames a second they stand 1/R apart, the
first at 1/(2R). A folder of frames is thinned in the same way. A clip that cannot be read stays one picture, whose
error says why when it is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from shotfit.data.headers import BombError
from shotfit.data.pictures import Frame, Picture
from shotfit.data.video import VIDEO, VIDEO_SUFFIXES, clip_in
from shotfit.errors import UsageError

__all__ = ["FRAMES", "MOST_FRAMES", "Sampling", "framed", "frames_of", "in_clip", "is_clip", "moments", "together"]

FRAMES = 8
MOST_FRAMES = 1000  # of a clip

A = TypeVar("A")


@dataclass(frozen=True)
class Sampling:
    """How many frames of a clip are looked at: `frames` of each, or `fps` in each second; None: FRAMES of each.

    Where either is said, GIFs of several frames are clips too; else they are pictures, their first frame.

    Raises UsageError for both at once, and for numbers out of bounds.
    """

    frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise UsageError("--frames says how many frames of a clip, and --fps how many a second: give one of them.")
        if self.frames is not None and not 1 <= self.frames <= MOST_FRAMES:
            raise UsageError(f"--frames is {self.frames:,}; expected 1 to {MOST_FRAMES:,} frames of each clip.")
        if self.fps is not None and not 0.001 <= self.fps <= 240:
            raise UsageError(f"--fps is {self.fps:g}; expected 0.001 to 240 frames a second.")

    @property
    def asked(self) -> bool:
        """Whether anything was said."""
        return self.frames is not None or self.fps is not None

    def thinned(self, number: int) -> list[int]:
        """The places that are kept of so many frames of a folder. Raises UsageError for frames a second.

        >>> Sampling(frames=3).thinned(10)
        [1, 5, 8]
        """
        if self.fps is not None:
            raise UsageError("--fps needs clips with times, and a folder of frames has none: give --frames.")
        wanted = min(self.frames or FRAMES, number)
        return [(2 * place + 1) * number // (2 * wanted) for place in range(wanted)]


def moments(seconds: float, sampling: Sampling, frames: int = 0) -> list[float]:
    """The moments of a clip of this length that are looked at, to the millisecond. frames: that it has; 0: not known.

    Raises BombError for more than MOST_FRAMES.

    >>> moments(10, Sampling(frames=4)), moments(2, Sampling(fps=1))
    ([1.25, 3.75, 6.25, 8.75], [0.5, 1.5])
    """
    if sampling.fps is None:
        wanted = min(sampling.frames or FRAMES, frames or MOST_FRAMES)
        return [round((place + 0.5) * seconds / wanted, 3) for place in range(wanted)]
    wanted = max(round(seconds * sampling.fps), 1)
    if wanted > MOST_FRAMES:
        raise BombError(f"has {wanted:,} frames at {sampling.fps:g} a second, more than {MOST_FRAMES:,}: lower --fps")
    return [round(min((place + 0.5) / sampling.fps, seconds), 3) for place in range(wanted)]


def is_clip(picture: Picture, sampling: Sampling = Sampling()) -> bool:
    """Whether a picture is named as a clip as a whole; a GIF where frames are asked for."""
    if picture.moment is not None or picture.crop is not None:
        return False
    return picture.suffix in VIDEO_SUFFIXES or (sampling.asked and picture.suffix == ".gif" and not picture.clip)


def frames_of(picture: Picture, sampling: Sampling = Sampling(), apart: bool = False) -> list[Picture]:
    """The frames of a clip that are looked at; itself where it cannot be read, and of a GIF of one frame.

    apart: each frame is a picture by itself. Raises UsageError for a GIF where PyAV is missing.
    """
    if not VIDEO and picture.suffix == ".gif":
        raise UsageError("--frames and --fps read GIFs as clips, by PyAV: pip install 'shotfit[video]'.")
    try:
        with picture.opened() as file, clip_in(file) as clip:
            found = moments(clip.check_whole(), sampling, clip.frames)
    except Exception:  # as decoders raise anything; it is told when the picture is opened
        return [picture]
    if len(found) == 1 and picture.suffix == ".gif":
        return [picture]
    return in_clip(str(picture), [picture.at(moment) for moment in found], apart)


def framed(
    pictures: Iterable[Picture | None], sampling: Sampling = Sampling(), by_folder: bool = False, apart: bool = False
) -> Iterator[Picture | None]:
    """Pictures, of which clips become their frames. by_folder: those that lie in one folder are frames of one clip.

    apart: each frame is a picture by itself. None among them is passed on.
    """
    if not by_folder:
        for picture in pictures:
            if picture is not None and is_clip(picture, sampling):
                yield from frames_of(picture, sampling, apart)
            else:
                yield picture
        return
    for folder, group in groupby((one for one in pictures if one is not None), _folder):
        frames = list(group)
        kept = [frames[place] for place in sampling.thinned(len(frames))]
        yield from in_clip(folder, kept, apart)


def in_clip(name: str, frames: Sequence[Picture], apart: bool = False) -> list[Picture]:
    """The pictures as the frames of a clip of that name. apart: as they are."""
    if apart:
        return list(frames)
    return [one.as_frame(Frame(name, number, len(frames))) for number, one in enumerate(frames)]


def _folder(picture: Picture) -> str:
    """The folder that a picture lies in, on disk or in an archive."""
    return str(Path(str(picture)).parent)


def together(values: Sequence[A], clip_of: Callable[[A], str]) -> list[list[int]]:
    """The places of what belongs together: the frames of a clip, and each picture by itself, in order of the first.

    >>> together(["a1", "b", "a2"], lambda name: name[0] if name[0] == "a" else "")
    [[0, 2], [1]]
    """
    found: dict[str | int, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        found[clip_of(value) or place].append(place)
    return list(found.values())
