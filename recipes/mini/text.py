"""The text side: a tokenizer of our own, and the text tower taught where in the joint space a text belongs.

A target is the place of what the text says (prototypes.py): of a name, a definition or a caption. A name in a template
has the same target as the name alone: templates say how the picture was made, not what is on it. The lift of a place is
the text's last coordinate, in which all images have the same.
"""

from __future__ import annotations

import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from precision import autocast
from prototypes import LIFT, WORDS
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from words import TEMPLATES, WordNet, caption_text

from shotfit.towers.config import BlocksConfig, TextConfig
from shotfit.towers.texts import Texts
from shotfit.towers.transformer import TextTransformer

__all__ = ["TEXT", "Corpus", "encode_texts", "make_corpus", "make_tokenizer", "spelled", "train_text"]

VOCABULARY = 12_288
PADDING, START, END = 0, 1, 2
GLOSSES = 4_000
LONGEST = 40  # tokens of a text in training
PARTS = 5  # of a batch, by length
SURE = 0.25  # weight of the lift in the loss
SPECIAL = ["<|padding|>", "<|startoftext|>", "<|endoftext|>"]
EMBED = 576
TEXT = TextConfig(
    vocabulary=VOCABULARY,
    context=77,
    blocks=BlocksConfig(width=256, layers=4, heads=4, mlp_width=1024, activation="quick_gelu", epsilon=1e-5),
    embed=EMBED,
    causal=True,
    pooling="end",
    end=END,
    padding=PADDING,
    projection_bias=False,
)


@dataclass
class Corpus:
    """Texts by kind; a name's weight is how often it counts for the tokenizer, `often` how often it is drawn."""

    names: list[str]
    weights: list[float]
    often: list[float]
    held_out: list[str]
    captions: list[str]
    glosses: list[str]


def make_corpus(wordnet: WordNet, class_names: dict[str, str], captions: list[str], seed: int) -> Corpus:
    """Names: ImageNet's classes with their synonyms, all nouns, adjectives. Every 50th visible noun is held out."""
    weight: dict[str, float] = {}
    latin: set[str] = set()
    for lemma in sorted(wordnet.adjectives):
        weight[lemma] = 0.3
    for synset in wordnet.nouns.values():
        for lemma in synset.lemmas:
            weight[lemma] = max(weight.get(lemma, 0.0), (1.0 if " " in lemma else 1.5) if synset.visible else 0.3)
        if synset.living:  # scientific names and persons' names: nobody's class names
            latin.update(lemma for lemma in synset.lemmas if not lemma.islower())
    weight = {
        name: value
        for name, value in weight.items()
        if name not in latin and (name.lower() in wordnet.counted or (value >= 1.0 and name.count(" ") < 2))
    }
    taught = {name for wnid, name in class_names.items()}
    for wnid in class_names:
        taught.update(wordnet.nouns[wnid].lemmas)
        for above in wordnet.above(wnid, 8):
            taught.update(wordnet.nouns[above].lemmas)
    chance = random.Random(seed)
    spare = sorted(name for name, value in weight.items() if value >= 1.0 and name not in taught)
    held_out = set(chance.sample(spare, 1000))
    for name in taught:
        weight[name] = 6.0
    names = sorted(weight.keys() - held_out)
    often = [_often(weight[name], name.lower() in wordnet.counted) for name in names]
    glosses = sorted({synset.gloss for synset in wordnet.nouns.values() if synset.visible and synset.gloss})
    glosses = sorted(chance.sample(glosses, GLOSSES))
    return Corpus(names, [weight[name] for name in names], often, sorted(held_out), captions, glosses)


def _often(weight: float, counted: bool) -> float:
    """Names of ImageNet's classes and of everyday things (WordNet counts them in texts) before rare and unseen ones."""
    if weight < 1.0:
        return 0.1
    return 6.0 if counted or weight == 6.0 else 0.5


def make_tokenizer(corpus: Corpus) -> Tokenizer:
    """Lower-casing byte-pair encoding with an end-of-word mark, start and end token added to every text."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    often = [
        name
        for name, weight in zip(corpus.names, corpus.weights, strict=True)
        if weight >= 1.0
        for _ in range(int(weight))
    ]
    tokenizer.train_from_iterator([*often, *corpus.glosses, *corpus.captions, *TEMPLATES], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[START]} $A {SPECIAL[END]}", special_tokens=[(SPECIAL[START], START), (SPECIAL[END], END)]
    )
    return tokenizer


def encode_texts(tower: TextTransformer, tokenizer: Tokenizer, texts: list[str], batch: int = 512) -> Tensor:
    """Text features [texts, embed], length 1."""
    features = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            rows = [encoding.ids for encoding in tokenizer.encode_batch(texts[start : start + batch])]
            features.append(tower.finish(tower.start(Texts.of(rows))))
    return functional.normalize(torch.cat(features), dim=-1)


def spelled(tokenizer: Tokenizer) -> list[str]:
    """What each token of the vocabulary spells."""
    return [tokenizer.decode([token]).replace("</w>", "") or "." for token in range(VOCABULARY)]


def _first_weights(tower: TextTransformer, tokens: Tensor) -> None:
    """Every token starts where what it spells belongs [vocabulary, 257]: the tower only has to learn to gather them."""
    with torch.no_grad():
        tower.token_embedding.weight.copy_(tokens[:, :WORDS] * math.sqrt(TEXT.blocks.width) * 0.5)
        tower.token_embedding.weight[:3].normal_(std=0.1)
        tower.positions.normal_(std=0.05)
        for block in tower.blocks.children():
            for name, parameter in block.named_parameters():
                if name.endswith("weight") and "norm" not in name:
                    scale = 1.0 if "out" not in name and "down" not in name else (2 * TEXT.blocks.layers) ** -0.5
                    nn.init.normal_(parameter, std=TEXT.blocks.width**-0.5 * scale)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)
        tower.projection.weight.zero_()
        tower.projection.weight[:WORDS].copy_(torch.eye(WORDS))


class _Draws:
    """Batches of token rows with targets."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, targets: dict[str, Tensor], seed: int) -> None:
        self.corpus, self.targets, self.chance = corpus, targets, random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.tokenizer = tokenizer
        self.weights = torch.tensor(corpus.often)

    def batch(self, names: int, sentences: int) -> tuple[list[Texts], Tensor]:
        """Names in a few templates, captions and definitions, long ones apart from short ones; targets [rows, 257]."""
        drawn = torch.multinomial(self.weights, names, generator=self.generator).tolist()
        templates = [TEMPLATES[0], TEMPLATES[1], *self.chance.sample(TEMPLATES, 2)]
        texts = [templates[i % 4].format(self.corpus.names[index]) for i, index in enumerate(drawn)]
        targets = [self.targets["names"][drawn]]
        for kind, share in (("captions", 0.65), ("glosses", 0.35)):
            lines = getattr(self.corpus, kind)
            chosen = [self.chance.randrange(len(lines)) for _ in range(round(sentences * share))]
            texts += [caption_text(lines[index]) for index in chosen]
            targets.append(self.targets[kind][chosen])
        rows = [
            [*row.ids[: LONGEST - 1], END] if len(row.ids) > LONGEST else row.ids
            for row in self.tokenizer.encode_batch(texts)
        ]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        parts = [order[start : start + len(order) // PARTS] for start in range(0, len(order), len(order) // PARTS)]
        return [Texts.of([rows[index] for index in part]) for part in parts], torch.cat(targets)[order]


def train_text(
    corpus: Corpus, tokenizer: Tokenizer, targets: dict[str, Tensor], seed: int, steps: int, file: Path
) -> TextTransformer:
    """The text tower, taught for `steps` batches of 380 texts; kept in `file`.

    targets: places of `names` (with those held out at the end), `captions`, `glosses` and `tokens`.
    """
    torch.manual_seed(seed)
    tower = TextTransformer(TEXT)
    if file.exists():
        tower.load_state_dict(load_file(file))
        return tower
    _first_weights(tower, targets["tokens"])
    decayed = [parameter for parameter in tower.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in tower.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.06)
    draws, begin, shown = _Draws(corpus, tokenizer, targets, seed), time.monotonic(), 0.0
    for step in range(1, steps + 1):
        texts, goal = draws.batch(340, 40)
        with autocast():
            features = torch.cat([tower.finish(tower.start(part)) for part in texts])
        places, lifts = goal[:, :WORDS], goal[:, WORDS]
        given = functional.normalize(features.float()[:, :WORDS], dim=-1)
        near = 1 - (given * places).sum(-1).mean()
        apart = functional.cross_entropy(given @ places.T / 0.05, torch.arange(len(goal)))
        sure = ((functional.normalize(features.float(), dim=-1)[:, -1] - lifts) / LIFT).pow(2).mean()
        optimizer.zero_grad(set_to_none=True)
        (near + 0.1 * apart + SURE * sure).backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tower.projection.weight.data[WORDS:-1] = 0
        shown = near.item() if not shown else 0.95 * shown + 0.05 * near.item()
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - begin
            print(f"text: step {step} of {steps}, 1 - cosine {shown:.4f}, {seconds:.0f} s", flush=True)
        if step % 300 == 0 or step == steps:
            print("text:", json.dumps(judge_text(tower, tokenizer, corpus, targets)), flush=True)
    save_file(tower.state_dict(), file)
    return tower


def judge_text(
    tower: TextTransformer, tokenizer: Tokenizer, corpus: Corpus, targets: dict[str, Tensor]
) -> dict[str, float]:
    """Nouns never taught: cosine to their places, how often that is the nearest of 1,000, and the error of their lift.

    The error is beside the largest lift; that of all names' mean is about 0.2.
    """
    goal = targets["names"][len(corpus.names) :]
    result = {}
    for template in (TEMPLATES[0], TEMPLATES[1]):
        given = encode_texts(tower, tokenizer, [template.format(name) for name in corpus.held_out])
        cosines = given[:, :WORDS] @ goal[:, :WORDS].T
        nearest = cosines.argmax(1) == torch.arange(len(goal))
        result[f"cosine of {template!r}"] = round(cosines.diagonal().mean().item(), 4)
        result[f"nearest of {template!r}"] = round(nearest.float().mean().item(), 4)
        result[f"lift of {template!r}"] = round(((given[:, -1] - goal[:, -1]) / LIFT).abs().mean().item(), 4)
    return result
