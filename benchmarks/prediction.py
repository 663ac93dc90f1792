"""Prediction against transformers' pipeline, and feature extraction from JPEG files against plain decoding."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.clip_folder import write_clip
from benchmarks.measure import Line, Target, alternate, check_same, line, long
from benchmarks.names import CALTECH101
from benchmarks.sizes import Size
from shotfit.checkpoints.weights import load_backbone
from shotfit.data.pictures import Picture
from shotfit.data.tasks import ClassList, Item
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore
from shotfit.errors import ShotfitError
from shotfit.fitting.fitter import zero_shot
from shotfit.fitting.model import Model, Prediction
from shotfit.fitting.record import record_of
from shotfit.towers.backbone import Backbone
from shotfit.towers.preprocess import preprocess

__all__ = ["features_jpeg", "jpegs", "mini_images", "predict_pipeline", "zero_shot_model"]

TEMPLATE = "a photo of a {}."
BATCH = 8  # images of a prediction in batches
DISTINCT = 20  # generated pictures, of which the files are copies


def predict_pipeline(size: Size, repeats: int) -> Line:
    """Prediction against transformers' pipeline, 100 classes: the lower ratio of images one by one and in batches."""
    import transformers

    quiet: Any = transformers.utils.logging
    quiet.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(folder / "clip", size)
        images = jpegs(folder, BATCH, (320, 240), BATCH)
        classes = size.classes_of(ClassList("caltech101", CALTECH101, (TEMPLATE,)))
        model = zero_shot_model(load_backbone(folder / "clip").to(size.device), classes)
        pipeline: Any = transformers.pipeline(
            "zero-shot-image-classification", model=str(folder / "clip"), device=size.device
        )
        asked = {"candidate_labels": list(classes.names), "hypothesis_template": TEMPLATE}
        names = [str(path) for path in images]

        def one_by_one() -> list[Prediction]:
            return [model.predict(path, top=len(classes.names))[0] for path in images]

        def pipeline_one_by_one() -> Any:
            return [pipeline(name, **asked) for name in names]

        def pipeline_in_batches() -> Any:
            return pipeline(names, batch_size=BATCH, **asked)

        def in_batches() -> list[Prediction]:
            return model.predict(images, top=len(classes.names))

        same = 0.0
        for ours, theirs in ((one_by_one, pipeline_one_by_one), (in_batches, pipeline_in_batches)):
            same = max(same, check_same(_table(ours(), classes), _pipeline_table(theirs(), classes), 1e-3))
        single = alternate(one_by_one, pipeline_one_by_one, repeats).fields()
        batch = alternate(in_batches, pipeline_in_batches, repeats).fields()
    sizes = {"backbone": size.name, "classes": len(classes.names), "images": BATCH, "batch": BATCH}
    more = {f"batch_{key}": batch[key] for key in ("ours_s", "reference_s", "ratio")}
    value, target = min(single["ratio"], batch["ratio"]), Target(2.5, "times faster")
    more["probability_difference"] = same
    return line("predict_pipeline", value, target, torch.float32, sizes, **single, **more)


def features_jpeg(size: Size, repeats: int) -> Line:
    """Features of 200 JPEG files of 12 megapixels through `mini`, against decoding in full size in one process."""
    count, large = (200, (4000, 3000)) if size.layers > 3 else (4, (400, 300))
    backbone = load_backbone("mini")
    with tempfile.TemporaryDirectory() as folder:
        found, closeness = _features(backbone, jpegs(Path(folder), count, large, DISTINCT), repeats)
    with tempfile.TemporaryDirectory() as folder:
        small, _ = _features(backbone, jpegs(Path(folder), count, (128, 96), DISTINCT), repeats)
    more = {f"small_{key}": small[key] for key in ("ours_s", "reference_s", "ratio")}
    more |= {"images_per_second": count / found["ours_s"], "small_images_per_second": count / small["ours_s"]}
    sizes = {"backbone": "mini", "images": count, "pixels": large[0] * large[1], "small_pixels": 128 * 96}
    target = Target(3, "times faster")
    return line(
        "features_jpeg", found["ratio"], target, backbone.dtype, sizes, **found, **more, lowest_cosine=closeness
    )


def mini_images(size: Size, repeats: int) -> Line:
    """The image tower of `mini` in batches of 32, against a ViT-B/16 of random weights on images of its own size."""
    mini, vit = load_backbone("mini").to(size.device), size.backbone()
    batch = 32 if size.layers > 3 else 2

    @torch.no_grad()
    def reads(backbone: Backbone) -> Tensor:
        pixels = backbone.config.preprocessing.size
        return backbone.image.finish(backbone.image.start(torch.zeros(batch, 3, pixels, pixels, device=size.device)))

    reads(mini)  # allocates what later runs use again
    timing = alternate(lambda: reads(mini), lambda: reads(vit), repeats).fields()
    sizes = {"backbone": "mini", "reference": size.name, "batch": batch}
    more = {"images_per_second": batch / timing["ours_s"]}
    return line("mini_images", timing["ratio"], Target(6, "times faster"), mini.dtype, sizes, **timing, **more)


def _features(backbone: Backbone, paths: Sequence[Path], repeats: int) -> tuple[Line, float]:
    """Timings of both, and the lowest cosine between a feature of ours and the reference's."""
    items = [Item(Picture(path), 0, f"{index:064x}") for index, path in enumerate(paths)]

    def ours() -> Tensor:
        return Frozen(backbone, MemoryStore()).image(ImagePool(items).all())

    @torch.no_grad()
    def reference() -> Tensor:
        parts = []
        for start in range(0, len(paths), 32):
            pixels = []
            for path in paths[start : start + 32]:
                with Image.open(path) as image:
                    pixels.append(preprocess(image.convert("RGB"), backbone.config.preprocessing))
            parts.append(backbone.image.finish(backbone.image.start(torch.stack(pixels))))
        return torch.cat(parts)

    lowest = float(torch.cosine_similarity(ours(), reference(), dim=1).min())
    if lowest < 0.98:
        raise ShotfitError(f"A feature of ours has a cosine of {lowest:.3f} with the reference's: nothing was timed.")
    return alternate(ours, reference, long(repeats)).fields(), lowest


def jpegs(folder: Path, count: int, size: tuple[int, int], distinct: int) -> list[Path]:
    """JPEG files of smooth noise, of which `distinct` differ."""
    random = np.random.default_rng(0)
    made: list[bytes] = []
    paths = [folder / f"{index}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if index < distinct:
            coarse = random.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
            made.append(path.read_bytes())
        else:
            path.write_bytes(made[index % distinct])
    return paths


def zero_shot_model(backbone: Backbone, classes: ClassList) -> Model:
    """The frozen model with these classes."""
    frozen = Frozen(backbone, MemoryStore())
    method = zero_shot(frozen, (classes,))
    return Model(method, frozen, record_of(method, backbone))


def _table(predictions: Sequence[Prediction], classes: ClassList) -> dict[str, Tensor]:
    rows = [dict(zip(found.labels, found.probabilities, strict=True)) for found in predictions]
    return {"probabilities": torch.tensor([[row[name] for name in classes.names] for row in rows])}


def _pipeline_table(predictions: Sequence[Sequence[dict[str, Any]]], classes: ClassList) -> dict[str, Tensor]:
    rows = [{entry["label"]: entry["score"] for entry in found} for found in predictions]
    return {"probabilities": torch.tensor([[row[name] for name in classes.names] for row in rows])}
