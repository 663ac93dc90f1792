"""open_clip's image-text configurations, built by open_clip itself at reduced width and depth with random weights.

    original = build("ViT-B-16-SigLIP2")      # the model, and the folder's configuration that describes it
    with reduced_trunks(): load_backbone(original.write(folder))

Sizes shrink, everything else stays: activations, norms, pooling, masks, rotations, names of weights. What timm or
transformers define by a name is reduced where they build it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from shotfit.checkpoints import timm_trunks
from shotfit.checkpoints.timm_trunks import TRUNKS, Trunk

from .originals import open_clip, timm

__all__ = [
    "CONFIGURATIONS", "CONTEXT", "VOCABULARY", "Original", "build", "pad_of", "randomize", "reduced_libraries",
    "reduced_trunks",
]  # fmt: skip

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    path.stem: config
    for path in sorted((Path(str(open_clip.__file__)).parent / "model_configs").glob("*.json"))
    if "vision_cfg" in (config := json.loads(path.read_text()))
}

VOCABULARY, CONTEXT, EMBED = 60, 12, 32
_TEXT = {"vocab_size": VOCABULARY, "context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2}
_HF_TEXT = {
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": transformers.BertConfig,
    "roberta-base": transformers.RobertaConfig,
    "xlm-roberta-base": transformers.XLMRobertaConfig,
    "xlm-roberta-large": transformers.XLMRobertaConfig,
    "google/mt5-base": transformers.MT5Config,
    "google/mt5-xl": transformers.MT5Config,
    "facebook/nllb-200-distilled-600M": transformers.M2M100Config,
    "facebook/nllb-200-distilled-1.3B": transformers.M2M100Config,
}
# by the names of the three families; each takes its own
_HF_SMALL = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "max_position_embeddings": CONTEXT + 2, "type_vocab_size": 1},
    **{"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2},
    **{"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}


@dataclass(frozen=True)
class Original:
    """A model of open_clip, and the configuration that an `open_clip_config.json` beside its weights would have."""

    model: Any
    config: dict[str, Any]

    def write(self, folder: Path) -> Path:
        """The folder as open_clip's users find it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": self.config, "preprocess_cfg": {}}))
        weights = {name: value.clone().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")
        (folder / "config.json").unlink(missing_ok=True)
        if "hf_model_name" in self.config["text_cfg"]:  # the text model's own
            (folder / "config.json").write_text(_small_text(self.config["text_cfg"]["hf_model_name"]).to_json_string())
        return folder


def small_trunk(name: str) -> Trunk:
    """The row of a trunk at reduced size. MobileCLIP's stem has fixed channels, so that its width stays."""
    row = TRUNKS[name]
    heads = row.heads if row.convolutions else 2
    width = heads * (row.width // row.heads)
    return replace(
        row, width=width, layers=2, heads=heads, mlp_width=row.mlp_width * width // row.width, size=3 * row.patch
    )


@contextmanager
def reduced_trunks() -> Iterator[None]:
    """Within it, shotfit's table of trunks has the sizes that `build` gives them."""
    with mock.patch.dict(timm_trunks.TRUNKS, {name: small_trunk(name) for name in TRUNKS}):
        yield


def build(name: str | dict[str, Any], seed: int = 0, vocabulary: int = VOCABULARY) -> Original:
    """One of the configurations, or one that is given, at reduced size, with random weights.

    vocabulary: of text towers of open_clip's own.
    """
    config = reduced(CONFIGURATIONS[name] if isinstance(name, str) else name, vocabulary)
    text = config["text_cfg"] | {"hf_model_pretrained": False}  # its weights are random as the others
    with reduced_libraries():
        kind = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
        kwargs = {key: value for key, value in config.items() if key not in ("custom_text", "multimodal_cfg")}
        if "hf_model_name" in config["text_cfg"]:
            kind = open_clip.model.CustomTextCLIP
        if "multimodal_cfg" in config:
            kind, kwargs["multimodal_cfg"] = open_clip.coca_model.CoCa, config["multimodal_cfg"]
        model = kind(**kwargs | {"text_cfg": text})
    if "hf_model_name" in config["text_cfg"]:  # as the factory sets it
        config["custom_text"] = True
    return Original(randomize(model, seed).eval(), config)


@contextmanager
def reduced_libraries() -> Iterator[None]:
    """Within it, timm and transformers build what open_clip names at reduced size."""
    with (
        mock.patch("timm.create_model", _small_model),
        mock.patch.object(transformers.AutoConfig, "from_pretrained", _small_text),
    ):
        yield


def reduced(config: dict[str, Any], vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """A configuration with small sizes; only the names of trunks and text towers stay to be reduced by `build`."""
    config = copy.deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = EMBED
    if "timm_model_name" in vision:
        if vision["timm_model_name"] in TRUNKS:
            trunk = small_trunk(vision["timm_model_name"])
            vision["image_size"] = trunk.size
            config["embed_dim"] = trunk.width if vision["timm_proj"] == "none" else EMBED
    elif isinstance(vision["layers"], list):
        vision |= {"layers": [1, 2, 1, 1], "width": 8, "image_size": 64}
    else:
        head = vision.get("head_width", 64)
        vision |= {"layers": 2, "width": 2 * head, "image_size": 3 * vision["patch_size"] + 1}
    if "hf_model_name" not in text:
        text |= _TEXT | {"vocab_size": vocabulary}
        text["width"] = config["embed_dim"] if text.get("proj_type") == "none" else text["width"]
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {**_TEXT, "vocab_size": vocabulary, "attn_pooler_heads": 2}
    return config


def _small_model(name: str, **kwargs: Any) -> nn.Module:
    """timm's trunk of a name, at the size of `small_trunk`."""
    if name in TRUNKS:
        trunk = small_trunk(name)
        kwargs |= {"depth": trunk.layers, "num_heads": trunk.heads, "embed_dim": trunk.width, "img_size": trunk.size}
    else:
        kwargs |= _other_trunk(name)
    return _create_model(name, **kwargs)


def _other_trunk(name: str) -> dict[str, Any]:
    """What makes a trunk small for which shotfit has no tower of its own; pixels stay as they are."""
    kind = name.partition("_")[0]
    if kind == "convnext":
        return {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    if kind == "swin":
        return {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
    if kind == "fastvit":
        stages = 5 if name in ("fastvit_mci3", "fastvit_mci4") else 4
        return {"layers": (1,) * stages, "embed_dims": tuple(16 * 2**stage for stage in range(stages))}
    if kind == "vitamin":
        sizes: dict[str, Any] = {"embed_dim": (8, 16, 32), "depths": (1, 1, 1), "stem_width": 8, "head_type": "1d"}
        layers = timm.models.vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
        cfg = timm.models.vitamin.VitCfg(**sizes, conv_cfg=layers)
        return {"embed_dim": 32, "depth": 2, "num_heads": 2, "embed_cfg": cfg}
    return {"embed_dim": 32, "depth": 2, "num_heads": 2}  # a ViT


_create_model = timm.create_model


def _small_text(name: str, **_: Any) -> Any:
    """The configuration of a text tower of Hugging Face, which would come from its repository."""
    if name not in _HF_TEXT:
        raise OSError(f"no configuration of {name} here")
    return _HF_TEXT[name](**_HF_SMALL)


def pad_of(name: str) -> int:
    """The id of padding of a text tower of Hugging Face."""
    return int(_small_text(name).pad_token_id)


def randomize(model: nn.Module, seed: int) -> nn.Module:
    """Pseudo-random weights, large enough that nothing is nearly linear and no entry is nearly without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(_scaled(name, drawn))
        model.logit_scale.fill_(3.0)  # type: ignore[operator]
    return model


def _scaled(name: str, drawn: Tensor) -> Tensor:
    vector = drawn.dim() < 2
    if name.endswith("running_var") or (vector and name.endswith(("weight", "gamma", "gamma_1", "gamma_2"))):
        return 1 + 0.1 * drawn.abs()
    if vector or "embed" in name or name.endswith(("latent", "cls_token")):
        return 0.3 * drawn
    return drawn * drawn[0].numel() ** -0.5
