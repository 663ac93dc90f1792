"""Measure a backbone on the evaluation sets: zero-shot, and logistic regression on 16 shots.

    python recipes/mini/evaluate.py --backbone src/shotfit/assets/mini-6 --data FOLDER --note "what this candidate is"

FOLDER holds the unpacked evaluation archives (caltech101, pacs, dtd, flowers17, gtsrb). They are for evaluation only:
run this once for a candidate that may be released, never to choose between settings (validate.py is for that). Every
run is added to RUNS.md.

The last row is the zero-shot accuracy where the weights of each matrix of the image blocks are shuffled: what remains
of it is not the blocks' work.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from datetime import date
from pathlib import Path

import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from shotfit.checkpoints.weights import load_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.preprocess import preprocess
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import VisionTransformer

Files = list[tuple[Path, int]]
TEMPLATE = "a photo of a {}."


@torch.inference_mode()
def image_features(backbone: Backbone, files: Files, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Features [images, embed] and labels [images]."""
    features = []
    for start in range(0, len(files), batch):
        images = [Image.open(path) for path, _ in files[start : start + batch]]
        pixels = torch.stack([preprocess(image, backbone.config.preprocessing) for image in images])
        features.append(backbone.image.finish(backbone.image.start(pixels)))
    return torch.cat(features), torch.tensor([label for _, label in files])


@torch.inference_mode()
def text_features(backbone: Backbone, names: list[str]) -> Tensor:
    """Features of the class names in the default template [classes, embed], length 1."""
    texts = Texts.of(backbone.encode([TEMPLATE.format(name.replace("_", " ")) for name in names]))
    return functional.normalize(backbone.text.finish(backbone.text.start(texts)), dim=-1)


def zero_shot(features: Tensor, labels: Tensor, texts: Tensor) -> float:
    """Share of images whose nearest class name is theirs."""
    return (features @ texts.T).argmax(-1).eq(labels).float().mean().item()


def probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Accuracy of a logistic regression on standardized features, at C = 0.01, which suits few shots."""
    scaler = StandardScaler().fit(train[0].numpy())
    model = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(train[0].numpy()), train[1].numpy())
    return float(model.score(scaler.transform(test[0].numpy()), test[1].numpy()))


def draw_shots(files: Files, shots: int, seed: int) -> Files:
    """`shots` files a class."""
    by_class = defaultdict(list)
    for path, label in files:
        by_class[label].append(path)
    chance = random.Random(seed)
    return [(path, label) for label in sorted(by_class) for path in chance.sample(by_class[label], shots)]


def folders(root: Path) -> tuple[list[str], Files]:
    """Class names and files of a class-per-folder tree."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    return names, [(path, label) for label, name in enumerate(names) for path in sorted((root / name).iterdir())]


def shuffle_blocks(backbone: Backbone, seed: int = 0) -> None:
    """Put the entries of every matrix of the image tower's blocks into random order, in place."""
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(backbone.image, VisionTransformer)
    with torch.no_grad():
        for parameter in backbone.image.blocks.parameters():
            if parameter.ndim > 1:
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))


def measure(backbone: Backbone, data: Path, shots: int = 16) -> dict[str, float]:
    """All numbers, as fractions."""
    result: dict[str, float] = {}
    split = json.loads((data / "caltech101" / "split_zhou_Caltech101.json").read_text(encoding="utf-8"))
    named = {label: name for _, label, name in split["test"]}
    parts = {
        part: [(data / "caltech101" / path, label) for path, label, _ in split[part]] for part in ("train", "test")
    }
    test = image_features(backbone, parts["test"])
    texts = text_features(backbone, [named[i] for i in range(len(named))])
    result["caltech101 zero-shot"] = zero_shot(*test, texts)
    for seed in (1, 2, 3):
        train = image_features(backbone, draw_shots(parts["train"], shots, seed))
        result[f"caltech101 probe, seed {seed}"] = probe(train, test)
    for domain in ("photo", "art_painting", "cartoon", "sketch"):
        names, files = folders(data / "pacs" / domain)
        result[f"pacs {domain} zero-shot"] = zero_shot(*image_features(backbone, files), text_features(backbone, names))
    for name in ("dtd", "flowers17", "gtsrb"):
        names, files = folders(data / name / "train")
        test = image_features(backbone, folders(data / name / "test")[1])
        plain = [label.split("_", 1)[1] if label[:2].isdigit() else label for label in names]
        result[f"{name} zero-shot"] = zero_shot(*test, text_features(backbone, plain))
        result[f"{name} probe, seed 1"] = probe(image_features(backbone, draw_shots(files, shots, 1)), test)
    shuffle_blocks(backbone)
    result["caltech101 zero-shot, blocks shuffled"] = zero_shot(*image_features(backbone, parts["test"]), texts)
    return result


def main() -> None:
    """Measure, print, and add the run to RUNS.md."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--backbone", type=Path, required=True)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--note", required=True)
    given = arguments.parse_args()
    backbone = load_backbone(given.backbone)
    lines = [
        f"\n## {date.today()}: {given.note}\n",
        f"fingerprint `{backbone.fingerprint}`\n",
        "| set | % |",
        "|---|---|",
    ]
    lines += [f"| {name} | {100 * value:.1f} |" for name, value in measure(backbone, given.data).items()]
    print("\n".join(lines), flush=True)
    with Path(__file__).with_name("RUNS.md").open("a", encoding="utf-8") as log:
        log.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
