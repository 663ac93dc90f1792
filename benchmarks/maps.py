"""Definitions of a map, judged by boxes: how often its maximum lies in a box of the class that was asked for.

    python -m benchmarks.maps --data cards --methods zero_shot,linear_probe,tip_adapter_f

`--data` is a set with boxes; fits see the boxes of its train part as images, and classes are asked for in the pictures
of its test part. A definition is what a place gives (u of `towers/places.py`, or something in its place), the share of
the image that is like it, and the reading of the logits. A share near 0 is the gradient of the logit at the image's
features times what the place adds to them. For towers with a class token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shotfit.checkpoints.weights import load_in
from shotfit.data.images import as_stored, stored_size
from shotfit.data.pictures import Crop, Picture
from shotfit.data.readers import read_task
from shotfit.engine.decoding import center_view
from shotfit.engine.frozen import Frozen, Images
from shotfit.engine.store import open_store
from shotfit.evaluation.points import pointed
from shotfit.fitting.fit import fit
from shotfit.fitting.maps import Map, seen_of
from shotfit.methods.base import Method
from shotfit.towers.layout import Savings
from shotfit.towers.places import SHARE, at_places, grid_of
from shotfit.towers.transformer import VisionTransformer

Readings = dict[str, Callable[[Tensor, Tensor], Tensor]]

READINGS: Readings = {
    "logit": lambda logits, _: logits,
    "less the classes' mean": lambda logits, _: logits - logits.mean(dim=-1, keepdim=True),
    "log probability": lambda logits, _: logits.log_softmax(dim=-1),
    "less the mean, times |g - f|": lambda logits, apart: apart * (logits - logits.mean(dim=-1, keepdim=True)),
}
SHARES = (1.0, 0.5, 0.25, 0.001)


@torch.no_grad()
def given(tower: VisionTransformer, pixels: Tensor) -> dict[str, Tensor]:
    """What places give by several definitions, [n, places, embed]."""
    assert tower.projection is not None
    first = tower.start(pixels, (), Savings.none())
    upper = tower.run(first, until=tower.last - 2)
    rows = [stream.hidden.unflatten(0, (len(pixels), -1)) for stream in (first, upper, tower.run(upper))]
    block: Any = tower.blocks[tower.last - 2]
    values = block.attention.out(block.attention.qkv(block.seen(rows[1])).chunk(3, dim=-1)[2])
    tokens = {"values of the last block": values, "tokens of the last block": rows[2], "tokens of step 0": rows[0]}
    read = {name: tower.projection(tower.post_norm(x))[:, 1:] for name, x in tokens.items()}
    whole = at_places(tower, pixels)
    mean = whole.mean(dim=1, keepdim=True)
    return {"attention of all blocks": mean + (whole - mean) / SHARE, **read}


def rates(
    method: Method, frozen: Frozen, asked: dict[Picture, dict[str, list[Crop]]]
) -> dict[tuple[str, float, str], float]:
    """The share of hits by definition, share and reading."""
    tower, names = frozen.backbone.image, method.class_names
    assert isinstance(tower, VisionTransformer)
    (side, patch), rule = grid_of(tower.config), frozen.backbone.config.preprocessing
    hits: dict[tuple[str, float, str], list[bool]] = {}
    for picture, boxes in asked.items():
        pixels = center_view(picture, rule, frozen.savings.reduced_images)
        shown = pixels.to(frozen.backbone.dtype)[None]
        image = tower.finish(tower.start(shown))[:, None]
        width, height, orientation = stored_size(picture)
        seen = seen_of(width, height, orientation, side * patch / rule.size, rule)
        for definition, places in given(tower, shown).items():
            for share in SHARES:
                features = (image + share * (places - image)).flatten(0, 1)
                with torch.no_grad(), mock.patch.object(frozen, "image", lambda *_, found=features: found):
                    logits = method.logits(Images.of(shown)).float()
                apart = (places - image)[0].norm(dim=-1, keepdim=True)
                for reading, read in READINGS.items():
                    grids = read(logits, apart).unflatten(0, (side, side)).numpy()
                    own = hits.setdefault((definition, share, reading), [])
                    for name, crops in boxes.items():
                        grid = as_stored(Image.fromarray(grids[..., names.index(name)]), orientation)
                        found = Map(picture, name, 0, np.asarray(grid), seen, width, height, orientation)
                        own.append(pointed(found, crops).hit)
    return {key: sum(own) / len(own) for key, own in hits.items()}


def main() -> None:
    """Print a table for each method: a row for each definition and share, a column for each reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", default="zero_shot,linear_probe,tip_adapter_f,clip_adapter,knn,gda,dualadapter")
    parser.add_argument("--shots", type=int, help="all images without it")
    asked = parser.parse_args()
    frozen, task = Frozen(load_in("mini", "float32", "cpu"), open_store()), read_task(asked.data)
    boxes: dict[Picture, dict[str, list[Crop]]] = {}
    for item in task.test:
        assert item.picture.crop is not None, "a set with boxes"
        of_picture = boxes.setdefault(item.picture.whole, {})
        of_picture.setdefault(task.classes.names[item.label], []).append(item.picture.crop)
    for name in asked.methods.split(","):
        model = fit(task, name, shots=asked.shots, backbone=frozen.backbone, store=frozen.store, check=False)
        found = rates(model.method, model.frozen, boxes)
        print(f"{name}: {' | '.join(READINGS)}")
        for definition, share in dict.fromkeys(key[:2] for key in found):
            shares = [f"{100 * found[definition, share, reading]:5.1f}" for reading in READINGS]
            print(f"  {definition:24} {share:<5g} {'  '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
