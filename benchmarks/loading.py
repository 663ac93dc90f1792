"""How long a checkpoint takes to load, and how much memory, at its peak and afterwards, in shares of the file (Linux).

    python -m benchmarks.loading                             ViT-L/14's size in float16, in three formats
    python -m benchmarks.loading --size tiny --repeats 1

The checkpoints are of random numbers under the names of their libraries. Each load is a process of its own, without
the imports, of a file that the system has in memory. Prints a line of JSON for each format and precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.memory import peak_of, status
from shotfit.checkpoints.weights import load_in

__all__ = ["LOADED", "Checkpoint", "written"]


@dataclass(frozen=True)
class Checkpoint:
    """CLIP's sizes: both towers' widths and layers, heads of 64."""

    patch: int
    image_size: int
    image_width: int
    image_layers: int
    text_width: int
    text_layers: int
    embed: int
    vocabulary: int = 49408


LOADED = {
    "ViT-L/14": Checkpoint(14, 224, 1024, 24, 768, 12, 768),
    "ViT-S/32": Checkpoint(32, 224, 384, 12, 384, 6, 384),
    "tiny": Checkpoint(8, 24, 64, 2, 64, 2, 32),
}
PRECISIONS = ("auto", "float32", "int8")


def _tensors(size: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """All of OpenAI's names with random numbers in float16."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).half()

    def blocks(prefix: str, width: int, layers: int) -> Iterator[tuple[str, Tensor]]:
        for layer in range(layers):
            own = f"{prefix}transformer.resblocks.{layer}."
            for norm in ("ln_1", "ln_2"):
                yield f"{own}{norm}.weight", torch.ones(width).half()
                yield f"{own}{norm}.bias", drawn(width)
            for name, rows, columns in (
                ("attn.in_proj_", 3 * width, width), ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * width, width), ("mlp.c_proj.", width, 4 * width),
            ):  # fmt: skip
                yield f"{own}{name}weight", drawn(rows, columns)
                yield f"{own}{name}bias", drawn(rows)

    width, text, grid = size.image_width, size.text_width, size.image_size // size.patch
    yield "visual.conv1.weight", drawn(width, 3, size.patch, size.patch)
    yield "visual.class_embedding", drawn(width)
    yield "visual.positional_embedding", drawn(grid * grid + 1, width)
    yield "visual.proj", drawn(width, size.embed)
    yield from blocks("visual.", width, size.image_layers)
    yield "token_embedding.weight", drawn(size.vocabulary, text)
    yield "positional_embedding", drawn(77, text)
    yield "text_projection", drawn(text, size.embed)
    yield from blocks("", text, size.text_layers)
    for norm, length in (("visual.ln_pre", width), ("visual.ln_post", width), ("ln_final", text)):
        yield f"{norm}.weight", torch.ones(length).half()
        yield f"{norm}.bias", drawn(length)
    yield "logit_scale", torch.tensor(4.6).half()


def _huggingface(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The same by the Hugging Face library's names, queries, keys and values apart."""
    whole = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    turned = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
    parts = {
        "visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }  # fmt: skip
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if name in whole:
            yield whole[name], value
        elif name in turned:
            yield turned[name], value.t().contiguous()
        elif layer in parts:
            yield f"{parts[layer]}.{leaf}", value
        else:
            tower, _, rest = name.partition("transformer.resblocks.")
            number, _, own = rest.partition(".")
            place = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
            if own.startswith("attn.in_proj_"):
                for part, third in zip("qkv", value.chunk(3), strict=True):
                    yield f"{place}self_attn.{part}_proj.{own.removeprefix('attn.in_proj_')}", third.clone()
            else:
                yield f"{place}{inner[own.rpartition('.')[0]]}.{leaf}", value


def written(size: Checkpoint, folder: Path) -> dict[str, Path]:
    """A checkpoint in each format; what is given to --backbone."""
    tensors = dict(_tensors(size))
    vision = {"image_size": size.image_size, "layers": size.image_layers, "width": size.image_width}
    text = {"vocab_size": size.vocabulary, "width": size.text_width, "heads": size.text_width // 64}
    config = {
        "embed_dim": size.embed,
        "quick_gelu": True,
        "vision_cfg": vision | {"patch_size": size.patch},
        "text_cfg": text | {"context_length": 77, "layers": size.text_layers},
    }
    places = {name: folder / name for name in ("open_clip", "huggingface")} | {"OpenAI's zip": folder / "clip.pt"}
    for name in ("open_clip", "huggingface"):
        places[name].mkdir(parents=True)
    torch.save(tensors, places["OpenAI's zip"])
    save_file(tensors, places["open_clip"] / "open_clip_model.safetensors")
    described = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (places["open_clip"] / "open_clip_config.json").write_text(described)
    save_file(dict(_huggingface(tensors)), places["huggingface"] / "model.safetensors")
    towers = {
        "vision_config": _sizes(size.image_width, size.image_layers)
        | {"image_size": size.image_size, "patch_size": size.patch},
        "text_config": _sizes(size.text_width, size.text_layers) | {"vocab_size": size.vocabulary},
    }
    described = json.dumps({"model_type": "clip", "projection_dim": size.embed, **towers})
    (places["huggingface"] / "config.json").write_text(described)
    return places


def _sizes(width: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
    }


def _loaded(place: Path, precision: Any) -> None:
    """Load it in this process, and print what it took."""
    load_in("mini")  # what is imported on the way, and the memory of that
    kept, before = [], status("VmRSS")

    def load() -> None:
        kept.append(load_in(place, precision, "cpu"))

    began, worked = time.perf_counter(), time.process_time()
    peak = peak_of(load)
    taken = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - worked}
    print(json.dumps(taken | {"peak": peak, "after": status("VmRSS") - before}))


def _apart(place: Path, precision: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.loading", "--load", str(place), "--precision", precision]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(ended.stdout)
    return found


def main() -> None:
    """Write the checkpoints and load each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=LOADED, default="ViT-L/14")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--load", type=Path, help="load this one here (each load is such a process)")
    parser.add_argument("--precision", default="auto", help="of --load")
    given = parser.parse_args()
    if given.load is not None:
        _loaded(given.load, given.precision)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, place in written(LOADED[given.size], Path(folder)).items():
            (file,) = place.glob("*.safetensors") if place.is_dir() else [place]
            size = file.stat().st_size
            for precision in given.precisions:
                runs = [_apart(place, precision) for _ in range(given.repeats)]
                found = {key: median(run[key] for run in runs) for key in runs[0]}
                shares = {key: round(found.pop(key) / size, 3) for key in ("peak", "after")}
                line = {"format": name, "precision": precision, "file": size, **found, **shares}
                print(json.dumps(line | {"repeats": given.repeats}), flush=True)


if __name__ == "__main__":
    main()
