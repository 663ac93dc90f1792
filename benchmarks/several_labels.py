"""Several labels a picture: two clip-art drawings in one picture, and which classes a model finds in it.

    python -m benchmarks.several_labels --shots 4,16 --seeds 1,2,3
    python -m benchmarks.several_labels --make scenes           the pictures and their labels alone

Each picture is white, with two drawings of different classes beside each other, in random sizes and places. Drawings 1
to 20 of a class are for training, 21 to 32 for the test, so that none is seen in both. Eight of the ten classes are
labels; houses and tools are not, so that some pictures have one label and some have none. A fit learns from `shots`
pictures of each class, with those of none as a class of their own (`Task.shots`), and is judged on the test pictures.

Prints a JSON line for each method and number of shots: mean average precision, micro and macro F1 in per cent as mean
and standard deviation over the seeds, which draw pictures and shots anew. `zero_shot` is the prompts of the labels.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from shotfit.checkpoints.weights import load_in
from shotfit.commands.arguments import as_numbers
from shotfit.data.readers import read_task
from shotfit.engine.store import MemoryStore, Store, open_store
from shotfit.evaluation.several_labels import LabelScores, evaluate_labels
from shotfit.fitting.fit import fit
from shotfit.methods import find
from shotfit.methods.base import Method
from shotfit.towers.backbone import Backbone

__all__ = ["make", "measured"]

CLIPART = Path(__file__).parent.parent / "examples" / "clipart"
UNLABELLED = ("house", "tool")
TRAINING = 20  # drawings of each class; the others are for the test
PICTURES = {"train": 480, "test": 480}
SIDE, SIZES = 224, (70, 108)  # of a picture, and of a drawing's longer side, in pixels
METHODS = (
    *("zero_shot", "linear_probe", "tip_adapter", "tip_adapter_f", "taskres", "clip_adapter", "dualadapter"),
    *("dualadapter+paths=positive", "dualadapter+paths=negative", "auto"),
)


def make(folder: Path, seed: int, pictures: dict[str, int] = PICTURES) -> Path:
    """Draw the pictures into a folder with their labels, and give back the manifest: path, label (a|b) and split."""
    generator = random.Random(seed)
    classes = sorted(path.name for path in CLIPART.iterdir() if path.is_dir())
    drawings = {name: sorted((CLIPART / name).glob("*.png")) for name in classes}
    folder.mkdir(parents=True, exist_ok=True)
    rows = [("path", "label", "split")]
    for part, count in pictures.items():
        known = {name: own[:TRAINING] if part == "train" else own[TRAINING:] for name, own in drawings.items()}
        for number in range(count):
            shown = generator.sample(classes, 2)
            name = f"{part}-{number:03}.png"
            _picture([generator.choice(known[one]) for one in shown], generator).save(folder / name)
            labels = [one.replace("_", " ") for one in shown if one not in UNLABELLED]
            rows.append((name, "|".join(labels), part))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "labels.csv"


def _picture(drawings: Sequence[Path], generator: random.Random) -> Image.Image:
    """The drawings beside each other, the first to the left."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    for place, path in enumerate(drawings):
        drawing = Image.open(path).convert("RGB")
        drawing.thumbnail((generator.randint(*SIZES),) * 2)
        left = place * SIDE // 2 + generator.randint(0, max(0, SIDE // 2 - drawing.width))
        picture.paste(drawing, (left, generator.randint(0, SIDE - drawing.height)))
    return picture


def measured(
    manifest: Path, method: str, shots: int, seed: int, backbone: Backbone, store: Store | MemoryStore
) -> tuple[LabelScores, str]:
    """The scores of a method, named as METHODS name it, and what it predicts with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = read_task(manifest, several_labels=True)
        prototype: str | Method = method
        if method != "auto":
            name, *options = method.split("+")
            prototype = find(name).with_options(dict(option.split("=") for option in options))
        model = fit(task.sealed(), prototype, shots=shots, seed=seed, backbone=backbone, store=store, keep=True)
    return evaluate_labels(model, task), model.method.name


def main() -> None:
    """Make the pictures of each seed, fit each method, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--shots", default="4,16")
    parser.add_argument("--seeds", default="1,2,3")
    asked = parser.parse_args()
    if asked.make is not None:
        print(make(asked.make, 1))
        return
    with tempfile.TemporaryDirectory() as place:
        seeds, backbone, store = as_numbers("--seeds", asked.seeds), load_in("mini"), open_store()
        manifests = {seed: make(Path(place) / str(seed), seed) for seed in seeds}
        for shots in as_numbers("--shots", asked.shots):
            for method in asked.methods.split(","):
                found = [measured(manifests[seed], method, shots, seed, backbone, store) for seed in seeds]
                row: dict[str, object] = {"method": method, "shots": shots, "seeds": list(seeds)}
                for name in ("mean_average_precision", "micro_f1", "macro_f1", "calibration_error"):
                    values = [100 * getattr(scores, name) for scores, _ in found]
                    row[name] = round(statistics.fmean(values), 1)
                    row[f"{name}_spread"] = round(statistics.stdev(values), 1) if len(values) > 1 else None
                print(json.dumps(row | {"predicts_with": [used for _, used in found]}), flush=True)


if __name__ == "__main__":
    main()
