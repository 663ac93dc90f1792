"""Rebuild the weights of `mini-6`.

README.md has the commands that fetch what it reads, and the one that runs it.

WORK keeps what each step made (stem grids, what MiniLM read, tokenizer, both towers); a run that was cut off goes on
from there.
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
from image import IMAGE, Maps, Settings, TrainingSet, join, lean, partly, train_image
from pictures import Picture, read_class_names, read_pictures, store_grids
from prototypes import WORDS, Bank, Meanings, captions_to_places, make_bank, visual_space
from teachers import MEAN, STD, MiniLM, read_lite1
from text import TEXT, Corpus, encode_texts, make_corpus, make_tokenizer, spelled, train_text
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from validate import best_scale, draw_unseen, judge, plain
from words import TEMPLATES, WordNet, caption_text

from shotfit.checkpoints.tokenizers import load_tokenizer
from shotfit.checkpoints.weights import save_backbone
from shotfit.towers.backbone import Backbone
from shotfit.towers.config import BackboneConfig, Preprocessing
from shotfit.towers.efficientnet import EfficientNetLite1
from shotfit.towers.transformer import TextTransformer, VisionTransformer

SEED = 0
TEXT_STEPS = 4200
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


def teach(
    corpus: Corpus, tokenizer: Tokenizer, bank: Bank, meanings: Meanings, classes: dict[str, str], captions: Tensor
) -> dict[str, Tensor]:
    """The places and lifts of all that the text tower reads. classes: ImageNet's names by number; captions: theirs."""
    names, wnids = corpus.names + corpus.held_out, {name: wnid for wnid, name in classes.items()}
    return {
        "names": bank.look(meanings.of(names, [wnids.get(name) or meanings.wordnet.sense(name) for name in names])),
        "captions": captions,
        "glosses": bank.look(meanings.bare(corpus.glosses)),
        "tokens": bank.look(meanings.bare(spelled(tokenizer))),
    }


def name_features(tower: TextTransformer, tokenizer: Tokenizer, names: list[str], templates: tuple[str, ...]) -> Tensor:
    """The mean over templates [names, embed], length 1."""
    features = [encode_texts(tower, tokenizer, [template.format(name) for name in names]) for template in templates]
    return functional.normalize(torch.stack(features).mean(0), dim=-1)


def prepare_data(pictures: list[Picture], maps: Maps, tower: TextTransformer, tokenizer: Tokenizer) -> TrainingSet:
    """The pictures with the text features of their names and captions."""
    vocabulary = sorted({name for picture in pictures for name in picture.names})
    row = {name: index for index, name in enumerate(vocabulary)}
    most = max(len(picture.names) for picture in pictures)
    captions = [caption_text(line) for picture in pictures for line in picture.captions]
    counts = torch.tensor([len(picture.captions) for picture in pictures])
    return TrainingSet(
        pictures=pictures,
        maps=maps,
        vocabulary=vocabulary,
        names=name_features(tower, tokenizer, vocabulary, TEMPLATES[:4]),
        picture_names=torch.tensor(
            [[*(row[name] for name in p.names), *[-1] * (most - len(p.names))] for p in pictures]
        ),
        captions=encode_texts(tower, tokenizer, captions),
        caption_rows=torch.stack([counts.cumsum(0) - counts, counts], dim=1),
        train=_trained_on(pictures),
    )


def as_text(places: Tensor) -> Tensor:
    """Places and lifts [n, 257] as features of texts [n, embed], length 1."""
    features = torch.zeros(len(places), TEXT.embed)
    lifts = places[:, WORDS:]
    features[:, :WORDS], features[:, -1:] = places[:, :WORDS] * (1 - lifts.square()).sqrt(), lifts
    return features


def behind(matrix: Tensor, texts: Tensor) -> Tensor:
    """Features of texts [n, embed] with `matrix` [words, words] behind the tower, length 1."""
    return functional.normalize(torch.cat([texts[:, :WORDS] @ matrix.T, texts[:, WORDS:]], dim=-1), dim=-1)


def _trained_on(pictures: list[Picture]) -> Tensor:
    return torch.tensor([index for index, picture in enumerate(pictures) if not picture.validation])


def assemble(image: VisionTransformer, text: TextTransformer, scale: float, work: Path) -> Backbone:
    """Both towers under shotfit's names, rounded to half precision as they are shipped."""
    weights = {f"image.{name}": value for name, value in image.state_dict().items()}
    weights |= {f"text.{name}": value for name, value in text.state_dict().items()}
    weights["logit_scale"] = torch.tensor(scale).log()
    weights = {name: value.half().float() for name, value in weights.items()}
    return Backbone(CONFIG, weights, load_tokenizer(work, TEXT, "clip"), "mini-6")


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
    arguments = argparse.ArgumentParser(description="Rebuild the weights of mini-6.")
    for name in ("packages", "drawings", "data", "work", "out"):
        arguments.add_argument(f"--{name}", type=Path, required=True)
    arguments.add_argument(
        "--check", action="store_true", help="leave 40 classes out and judge them; writes no weights"
    )
    given = arguments.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    classes, wordnet, settings = read_class_names(given.data), WordNet(given.packages), Settings()
    photographs = read_pictures(unpack(given.data, given.work), wordnet)
    drawings = read_drawings(given.drawings, given.data / "clipart.csv", wordnet, given.work / "drawings")
    pictures = photographs + drawings
    unseen = draw_unseen(pictures, 40, SEED)

    weights, classifier = read_lite1(given.packages)
    network = EfficientNetLite1().eval()
    network.load_state_dict(weights)
    maps = Maps(store_grids(pictures, network, given.work / "grids.npy", SEED), network.widen)
    pooled = maps.pooled(torch.arange(len(pictures)))
    taken = [index for index in _trained_on(pictures).tolist() if pictures[index].photograph]
    space = visual_space(classifier, pooled[taken])

    told = [index for index in taken for _ in pictures[index].captions[:2]]
    captions = [caption_text(line) for index in taken for line in pictures[index].captions[:2]]
    corpus = make_corpus(wordnet, classes, captions, SEED)
    file = given.work / "tokenizer.json"
    if not file.exists():
        make_tokenizer(corpus).save(str(file))
    tokenizer = Tokenizer.from_file(str(file))
    named = {name for picture in pictures for name in picture.names}
    meanings = Meanings(
        wordnet,
        MiniLM(given.packages),
        sorted({*corpus.names, *corpus.held_out, *classes.values(), *named}),
        list(classes),
        [*captions, *corpus.glosses, *spelled(tokenizer)],
        given.work / "minilm.safetensors",
    )
    bank = make_bank(space, pictures, space.places(pooled), _trained_on(pictures), classes, meanings)
    seen = captions_to_places(meanings.bare(captions), space.places(pooled[told]))
    targets = teach(corpus, tokenizer, bank, meanings, classes, seen)
    text = train_text(corpus, tokenizer, targets, SEED, TEXT_STEPS, given.work / "text.safetensors").eval()

    data = prepare_data(pictures, maps, text, tokenizer)
    if given.check:
        data.train = torch.tensor([index for index in data.train.tolist() if pictures[index].wnid not in unseen])
    image = join(network, space, data, settings, SEED)
    lean(image, data, settings)
    templated = name_features(text, tokenizer, data.vocabulary, TEMPLATES[:1])
    meant = meanings.of(data.vocabulary, [wordnet.sense(name) for name in data.vocabulary])
    expected = as_text(bank.without(unseen).look(meant))
    scale = best_scale(image, data, templated)
    record = {"plain": plain(data, unseen), "join": judge(image, data, unseen, templated, expected), "scale": scale}
    print(json.dumps(record), flush=True)
    trained = given.work / f"image{'-check' if given.check else ''}.safetensors"
    begun = {name: value.clone() for name, value in image.state_dict().items()}
    matrix = train_image(image, data, settings, scale, SEED, trained)
    matrix = partly(image, begun, matrix, settings.share)
    text.projection.weight.data[:WORDS] = matrix @ text.projection.weight[:WORDS]
    record["trained"] = judge(image, data, unseen, behind(matrix, templated), behind(matrix, expected))
    record["scale"] = scale = best_scale(image, data, behind(matrix, templated))
    print(json.dumps(record), flush=True)
    if not given.check:
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
