"""Pairs of Flickr8k's images and captions, as `shotfit align` reads them: 4,000 boxes of 40 sheets.

python examples/encoders/flickr8k.py ../shared/data/train_images.tar pairs
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

TILE, ACROSS = 96, 10  # pixels of a side, and images in a row of a sheet


def main(archive: Path, out: Path) -> None:
    """Unpack the sheets, and write `pairs.jsonl` beside them."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if "flickr8k" in member.name]
        tar.extractall(out, members, filter="data")
    lines = []
    for row in map(json.loads, (out / "flickr8k.jsonl").read_text(encoding="utf-8").splitlines()):
        left, top = TILE * (row["tile"] % ACROSS), TILE * (row["tile"] // ACROSS)
        box = f"{row['sheet']}#xywh={left},{top},{TILE},{TILE}"
        lines.append(json.dumps({"image": box, "captions": row["captions"], "split": row["split"]}))
    (out / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines):,} images with their captions in {out / 'pairs.jsonl'}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
