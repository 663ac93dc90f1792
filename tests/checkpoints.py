"""Tiny random checkpoints in each format, for the tests of the readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "HUGGINGFACE_CONFIG",
    "OPEN_CLIP_CONFIG",
    "huggingface_weights",
    "openai_weights",
    "write_huggingface",
    "write_open_clip",
]

WIDTH, EMBED, VOCABULARY, CONTEXT = 64, 16, 40, 10

OPEN_CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": EMBED,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": WIDTH, "patch_size": 16},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": WIDTH,
            "heads": 1,
            "layers": 2,
        },
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}

_TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
}
HUGGINGFACE_CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": EMBED,
    "text_config": {**_TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "eos_token_id": 39},
    "vision_config": {**_TOWER, "image_size": 32, "patch_size": 16},
}


def openai_weights(seed: int = 0) -> dict[str, Tensor]:
    """A ViT of two blocks, 32 px, patch 16, under OpenAI's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (WIDTH, 3, 16, 16),
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (5, WIDTH),
        "visual.proj": (WIDTH, EMBED),
        "token_embedding.weight": (VOCABULARY, WIDTH),
        "positional_embedding": (CONTEXT, WIDTH),
        "text_projection": (WIDTH, EMBED),
        "logit_scale": (),
    }
    for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for tower in ("visual.transformer", "transformer"):
        for block in range(2):
            start = f"{tower}.resblocks.{block}."
            shapes |= {
                f"{start}attn.in_proj_weight": (3 * WIDTH, WIDTH),
                f"{start}attn.in_proj_bias": (3 * WIDTH,),
                f"{start}attn.out_proj.weight": (WIDTH, WIDTH),
                f"{start}attn.out_proj.bias": (WIDTH,),
                f"{start}mlp.c_fc.weight": (4 * WIDTH, WIDTH),
                f"{start}mlp.c_fc.bias": (4 * WIDTH,),
                f"{start}mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
                f"{start}mlp.c_proj.bias": (WIDTH,),
            }
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{start}{norm}.weight": (WIDTH,), f"{start}{norm}.bias": (WIDTH,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def huggingface_weights(seed: int = 0) -> dict[str, Tensor]:
    """The same weights as `openai_weights`, under the Hugging Face library's names."""
    source = openai_weights(seed)
    result = {
        "vision_model.embeddings.patch_embedding.weight": source["visual.conv1.weight"],
        "vision_model.embeddings.class_embedding": source["visual.class_embedding"],
        "vision_model.embeddings.position_embedding.weight": source["visual.positional_embedding"],
        "visual_projection.weight": source["visual.proj"].t().contiguous(),
        "text_model.embeddings.token_embedding.weight": source["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": source["positional_embedding"],
        "text_projection.weight": source["text_projection"].t().contiguous(),
        "logit_scale": source["logit_scale"],
    }
    layers = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for old, new in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for block in range(2):
            before, after = f"{old}.resblocks.{block}.", f"{new}.encoder.layers.{block}."
            layers |= {
                f"{before}attn.out_proj": f"{after}self_attn.out_proj",
                f"{before}mlp.c_fc": f"{after}mlp.fc1",
                f"{before}mlp.c_proj": f"{after}mlp.fc2",
                f"{before}ln_1": f"{after}layer_norm1",
                f"{before}ln_2": f"{after}layer_norm2",
            }
            for part in ("weight", "bias"):
                for name, rows in zip("qkv", source[f"{before}attn.in_proj_{part}"].chunk(3), strict=True):
                    result[f"{after}self_attn.{name}_proj.{part}"] = rows.clone()
    for old, new in layers.items():
        for part in ("weight", "bias"):
            result[f"{new}.{part}"] = source[f"{old}.{part}"]
    return result


def write_huggingface(
    folder: Path, weights: dict[str, Tensor] | None = None, config: dict[str, Any] | None = None
) -> Path:
    """A Hugging Face folder of a CLIP model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or HUGGINGFACE_CONFIG))
    save_file(weights or huggingface_weights(), folder / "model.safetensors")
    return folder


def write_open_clip(
    folder: Path, weights: dict[str, Tensor] | None = None, config: dict[str, Any] | None = None
) -> Path:
    """An open_clip folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config or OPEN_CLIP_CONFIG))
    save_file(weights or openai_weights(), folder / "open_clip_model.safetensors")
    return folder
