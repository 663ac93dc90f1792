"""open_clip's configurations as closed encoders, `open_clip:NAME@FILE`, at reduced size with random weights.

    closed_difference("ViTamin-B", folder)      # from what open_clip's model gives itself

The library, its preprocessing and CLIP's tokenizer are the real ones. Tokenizers that open_clip names on the hub are of
single characters here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone
from shotfit.towers.texts import Texts

from .open_clip_original import VOCABULARY, build, pad_of, reduced_libraries
from .originals import open_clip
from .pictures import picture

__all__ = ["closed_difference"]

CLIP_VOCABULARY = 49408
TEXTS = ["a photo of a dog.", "X-ray: no acute finding", "ein Fluss im Gebirge, im sp\u00e4ten Herbst"]


@torch.inference_mode()
def closed_difference(name: str, folder: Path) -> float:
    """The largest of any image or text feature from open_clip's, in shares of the largest.

    Raises ShotfitError, as any backbone that does not open.
    """
    original = build(name, vocabulary=CLIP_VOCABULARY)
    file = folder / f"{name}.safetensors"
    save_file({key: value.clone().contiguous() for key, value in original.model.state_dict().items()}, file)
    with _as_open_clips(name, original.config):
        backbone = load_backbone(f"open_clip:{name}@{file}")
        tokens = open_clip.get_tokenizer(name)(TEXTS)
        shown = [picture(number, width=40 + number, height=50) for number in range(3)]
        pixels = torch.stack([_prepared(backbone, image) for image in shown])
        texts = Texts.of(backbone.encode(TEXTS))
        images, read = (
            backbone.image.finish(backbone.image.start(pixels)),
            backbone.text.finish(backbone.text.start(texts)),
        )
    file.unlink()
    return max(
        _apart(original.model.encode_image(pixels), images),
        _apart(original.model.encode_text(tokens), read),
    )


def _prepared(backbone: Any, image: Image.Image) -> Tensor:
    prepared: Tensor = backbone.config.preprocessing.function(image)
    return prepared


def _apart(wanted: Tensor, found: Tensor) -> float:
    return float((wanted - found).abs().max() / wanted.abs().max())


@contextmanager
def _as_open_clips(name: str, config: dict[str, Any]) -> Iterator[None]:
    """Within it, open_clip's table has the reduced configuration by the name."""
    with (
        reduced_libraries(),
        mock.patch.dict(open_clip.factory._MODEL_CONFIGS, {name: config}),
        mock.patch.object(transformers.AutoTokenizer, "from_pretrained", _characters),
    ):
        yield


def _characters(name: str, **_: Any) -> Any:
    """A tokenizer of single characters with the padding that the text tower of a name has."""
    pad = pad_of(name)
    words = [*"abcdefghijklmnopqrstuvwxyz .,:-0123456789"][: VOCABULARY - 4]
    words[:0] = ["<unk>", "<s>", "</s>"]
    words.insert(pad, "<pad>")
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    end = words.index("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
