"""A data set of clips for which nobody is asked: clip art that moves over a plain ground.

    python -m benchmarks.clipart_clips /tmp/clips --classes bird,fruit,tool,vehicle --train 2 --test 2
    shotfit fit /tmp/clips --out moving

Writes FOLDER/{train,test}/CLASS/DRAWING.mp4 (MPEG-4, 160 x 120, 3 seconds at 10 frames a second). A drawing comes in
from one side, goes out on the other, and turns meanwhile; in the first and the last tenth nothing but the ground is to
be seen. No drawing is in two clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

__all__ = ["make_clips", "write_clip"]

CLIPART = Path(__file__).resolve().parent.parent / "examples" / "clipart"
SIZE = (160, 120)
FRAMES, RATE = 30, 10


def make_clips(
    folder: Path, classes: Sequence[str], train: int, test: int, *, seed: int = 1, frames: int = FRAMES
) -> None:
    """Write so many clips of each class of the clip art."""
    generator = np.random.default_rng(seed)
    for name in classes:
        drawings = sorted((CLIPART / name).glob("*.png"))
        chosen = [drawings[place] for place in generator.permutation(len(drawings))[: train + test]]
        for number, drawing in enumerate(chosen):
            part = folder / ("train" if number < train else "test") / name
            part.mkdir(parents=True, exist_ok=True)
            write_clip(part / f"{drawing.stem}.mp4", moving(Image.open(drawing), frames, generator), RATE)


def moving(drawing: Image.Image, frames: int, generator: np.random.Generator) -> list[Image.Image]:
    """The frames of a drawing that crosses the picture."""
    shape = drawing.convert("RGBA")
    shape.thumbnail((90, 90))
    ground = tuple(int(level) for level in generator.integers(120, 230, 3))
    back, turn, height = generator.random() < 0.5, generator.uniform(-40, 40), generator.uniform(0.3, 0.7)
    found = []
    for number in range(frames):
        share = (number + 0.5) / frames
        image, turned = Image.new("RGB", SIZE, ground), shape.rotate(turn * (share - 0.5), expand=True)
        across = (1 - share if back else share) * 1.25 - 0.125
        left = round(across * (SIZE[0] + turned.width)) - turned.width
        image.paste(turned, (left, round(height * SIZE[1] - turned.height / 2)), turned)
        found.append(image)
    return found


def write_clip(
    path: Path, frames: Sequence[Image.Image], rate: int = RATE, codec: str = "mpeg4", every: int = 10, turned: int = 0
) -> Path:
    """Write frames as a clip. every: frames from key frame to key frame. turned: degrees that players turn it by."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = every
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame.convert("RGB")), format="rgb24")))
        container.mux(stream.encode())
    return path


def main() -> None:
    """Make the clips that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", default="bird,drink,fruit,house,musical_instrument,vehicle")
    parser.add_argument("--train", type=int, default=4)
    parser.add_argument("--test", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    make_clips(asked.folder, asked.classes.split(","), asked.train, asked.test, seed=asked.seed)


if __name__ == "__main__":
    main()
