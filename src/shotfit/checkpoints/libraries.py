"""Encoders of open_clip, transformers, timm and sentence-transformers by names of `closed.py` (extra encoders).

No code of a repository is run: `trust_remote_code` is off, and transformers reads safetensors alone.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from shotfit.checkpoints.cleaning import without_punctuation
from shotfit.checkpoints.tokenizers import GEMMA_VOCABULARY
from shotfit.errors import ShotfitError, UsageError, first_few, plural

__all__ = ["BOTH", "HALVES", "of_library"]

BOTH = ("open_clip", "transformers")  # libraries of models with two encoders
HALVES = {"timm": "images", "sentence-transformers": "texts"}  # of models with one
MODULES = {"sentence-transformers": "sentence_transformers"}


def of_library(name: str) -> Any:
    """The encoder of `LIBRARY:MODEL`. Raises UsageError and ShotfitError in a sentence."""
    library, _, model = name.partition(":")
    if not model:
        raise UsageError(f"{name} names no model: write {library}:MODEL (docs/own-encoders.md has examples).")
    module = MODULES.get(library, library)
    try:
        import_module(module)
    except ImportError as error:
        raise UsageError(f"{name} needs {module}, which is not installed: pip install 'shotfit[encoders]'.") from error
    except Exception as error:  # of torchvision, say, in another build than torch
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} needs {module}, which cannot be imported here ({said}): install it anew.") from error
    make = {"open_clip": OpenClip.load, "transformers": Transformers, "timm": Timm, "sentence-transformers": Sentences}
    try:
        with _quiet():
            return make[library](model)
    except ShotfitError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ShotfitError(f"{name} cannot be loaded by {library} ({type(error).__name__}: {said}).") from error


class OpenClip:
    """A model of open_clip's with its preprocessing and tokenizer."""

    def __init__(self, model: Any, preprocess: Any, tokenize: Any) -> None:
        self.model, self.preprocess, self.tokenize = model.eval(), preprocess, tokenize
        self.logit_scale = float(self.model.logit_scale)
        self.embed = int(self.encode_texts(["a"]).shape[1])
        self.to, self.state_dict = self.model.to, self.model.state_dict

    @classmethod
    def load(cls, model: str) -> OpenClip:
        """`NAME@WEIGHTS`, a tag of open_clip's or a file; or `hf-hub:owner/name`."""
        import open_clip

        name, at, weights = model.partition("@")
        if not at and ":" not in name:
            tags = open_clip.list_pretrained_tags_by_model(name)
            known = f"; weights of {name}: {first_few(tags)}" if tags else ""
            raise UsageError(f"open_clip:{model} names no weights: write open_clip:NAME@WEIGHTS{known}.")
        # of weights of another activation than the model's the library says so, and goes on with the wrong one
        trained = open_clip.get_pretrained_cfg(name.replace("/", "-"), weights).get("quick_gelu", False)
        made = open_clip.create_model_from_pretrained(name, weights or None, force_quick_gelu=trained)
        return cls(made[0], made[1], open_clip.get_tokenizer(name))

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self.tokenize(texts).to(self.model.logit_scale.device))


class Transformers:
    """An id or a folder of a model with `get_image_features` and `get_text_features`: CLIP, SigLIP and their like."""

    def __init__(self, model: str) -> None:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        loaded, found = AutoModel.from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        self.model = loaded.eval()
        if missing := sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}):
            raise ShotfitError(
                f"transformers:{model} lacks {plural(len(missing), 'tensor')}, which the library would draw at random: "
                f"{first_few(missing)}."
            )
        divides = hasattr(self.model, "temperature")  # ALIGN's, where the others multiply by a scale
        for wanted in ("get_image_features", "get_text_features", *([] if divides else ["logit_scale"])):
            if not hasattr(self.model, wanted):
                kind = self.model.config.model_type
                raise ShotfitError(
                    f"transformers:{model} is a {kind}, which has no {wanted}; expected two encoders of one space."
                )
        self.processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        text, siglip = self.model.config.text_config, "siglip" in self.model.config.model_type
        # SigLIP was trained on, and reads, whole rows of padding; the others mask it
        self.padding = "max_length" if siglip else True
        # and on texts that not every tokenizer class of its files cleans
        second = getattr(text, "vocab_size", 0) == GEMMA_VOCABULARY
        self.clean: Callable[[str], str] = str if not siglip else str.lower if second else without_punctuation
        # of RoBERTa's positions some belong to padding; its tokenizer knows how many are left
        self.longest = min(int(getattr(text, "max_position_embeddings", 512)), self.tokenizer.model_max_length)
        scale = 1 / self.model.temperature if divides else self.model.logit_scale.exp()
        self.logit_scale = float(scale.log())
        self.embed = int(self.encode_texts(["a"]).shape[1])
        self.to, self.state_dict = self.model.to, self.model.state_dict

    def preprocess(self, image: Image.Image) -> Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=pixels))

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        cleaned = [self.clean(text) for text in texts]
        rows = self.tokenizer(
            cleaned, padding=self.padding, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        known = {name: rows[name].to(self.model.device) for name in ("input_ids", "attention_mask") if name in rows}
        return _pooled(self.model.get_text_features(**known))


class Timm:
    """An image encoder of timm's, pooled, without its classifier.

    A name, whose own weights are taken, `hf-hub:owner/name`, or `local-dir:FOLDER`.
    """

    def __init__(self, model: str) -> None:
        import timm

        self.model: nn.Module = timm.create_model(model, pretrained=True, num_classes=0).eval()
        data: Any = timm.data
        self.preprocess = data.create_transform(**data.resolve_model_data_config(self.model), is_training=False)
        self.to, self.state_dict = self.model.to, self.model.state_dict

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)


class Sentences:
    """A text encoder of sentence-transformers, by id or folder."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model, trust_remote_code=False, device="cpu").eval()
        self.to, self.state_dict = self.model.to, self.model.state_dict

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        return self.model.encode(texts, convert_to_tensor=True, show_progress_bar=False).clone()


def _pooled(features: Any) -> Tensor:
    """Features as a tensor; later versions give them within an output of the tower."""
    return features if isinstance(features, Tensor) else features.pooler_output


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what these libraries say of downloads and of each other."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
