"""Folders and files that are no checkpoint of two towers: one clear line, nothing run, memory bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError

from .checkpoints import (
    HUGGINGFACE_CONFIG,
    OPEN_CLIP_CONFIG,
    huggingface_weights,
    openai_weights,
    write_huggingface,
    write_open_clip,
)

CODE = "from pathlib import Path\n\nPath(__file__).with_name('trace').touch()\n"


def described(**changes: Any) -> dict[str, Any]:
    return HUGGINGFACE_CONFIG | changes


def only(weights: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(starts)}


def without(weights: dict[str, Tensor], *starts: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith(starts)}


def write_openai(folder: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(weights, folder / "clip.pt")
    return folder / "clip.pt"


def narrow(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """With a matrix into a joint space of another width."""
    own = weights[name]
    return weights | {name: torch.zeros([side + 8 if side == 16 else side for side in own.shape])}


UNSUITABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unknown architecture": (
        lambda folder: write_huggingface(folder, config=described(model_type="blip-2")),
        r"model_type 'blip-2' is not supported, expected one of 'clip'",
    ),
    "unknown architecture of open_clip's": (
        lambda folder: write_open_clip(
            folder, config={"model_cfg": OPEN_CLIP_CONFIG["model_cfg"] | {"vision_cfg": {"timm_model_name": "levit"}}}
        ),
        r"the image tower 'levit' of timm is not among those .* docs/backbones\.md lists them",
    ),
    "wrong family": (
        lambda folder: write_huggingface(
            folder, config=described(model_type="siglip", text_config=HUGGINGFACE_CONFIG["vision_config"])
        ),
        r"has shape .* but the configuration asks for|lacks \d+ tensors",
    ),
    "another library's weights": (
        lambda folder: write_huggingface(folder, openai_weights()),
        r"lacks \d+ tensors: .*; it holds \d+ others, such as",
    ),
    "text tower only, by its type": (
        lambda folder: write_huggingface(folder, config=described(model_type="clip_text_model")),
        r"model_type 'clip_text_model' is not supported, .* with both towers",
    ),
    "image tower only, by its type": (
        lambda folder: write_huggingface(folder, config=described(model_type="siglip_vision_model")),
        r"model_type 'siglip_vision_model' is not supported, .* with both towers",
    ),
    "text tower only": (
        lambda folder: write_huggingface(folder, without(huggingface_weights(), "vision_model", "visual")),
        r"lacks \d+ tensors: vision_model\.",
    ),
    "image tower only": (
        lambda folder: write_huggingface(folder, without(huggingface_weights(), "text_")),
        r"lacks \d+ tensors: text_model\.",
    ),
    "open_clip's text tower only": (
        lambda folder: write_open_clip(folder, without(openai_weights(), "visual.")),
        r"lacks \d+ tensors: visual\.",
    ),
    "open_clip's image tower only": (
        lambda folder: write_open_clip(folder, only(openai_weights(), "visual.")),
        r"lacks \d+ tensors: token_embedding",
    ),
    "OpenAI's text tower only": (
        lambda folder: write_openai(folder, without(openai_weights(), "visual.")),
        r"has neither visual\.proj \(a ViT\) nor visual\.layer1",
    ),
    "OpenAI's image tower only": (
        lambda folder: write_openai(folder, only(openai_weights(), "visual.")),
        r"lacks text_projection: it is truncated, or another architecture",
    ),
    "embed sizes that differ": (
        lambda folder: write_huggingface(folder, narrow(huggingface_weights(), "visual_projection.weight")),
        r"visual_projection\.weight has shape \[24, 64\], but the configuration asks for \[16, 64\]",
    ),
    "embed sizes of open_clip that differ": (
        lambda folder: write_open_clip(folder, narrow(openai_weights(), "text_projection")),
        r"text_projection has shape \[64, 24\], but the configuration asks for \[64, 16\]",
    ),
    "embed sizes of OpenAI's that differ": (
        lambda folder: write_openai(folder, narrow(openai_weights(), "visual.proj")),
        r"visual\.proj has shape \[64, 24\], but the configuration asks for \[64, 16\]",
    ),
    "code of its own": (
        lambda folder: write_huggingface(
            folder, config=described(model_type="mine", auto_map={"AutoModel": "modeling.Mine"})
        ),
        r"model_type 'mine' is not supported",
    ),
}


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_unsuitable_checkpoint_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    write, message = UNSUITABLE[kind]
    place = write(tmp_path)
    for name in ("modeling", "configuration", "__init__"):
        (tmp_path / f"{name}.py").write_text(CODE)
    with pytest.raises(ShotfitError, match=message) as caught:
        load_backbone(place)
    assert len(str(caught.value)) < 400 + 2 * len(str(tmp_path)) and str(caught.value).isprintable()
    assert not (tmp_path / "trace").exists()


def test_code_beside_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path, config=described(auto_map={"AutoModel": "modeling.Mine"}))
    (tmp_path / "modeling.py").write_text(CODE)
    (tmp_path / "open_clip_config.json").unlink(missing_ok=True)
    assert load_backbone(folder).embed == 16
    assert not (tmp_path / "trace").exists()


# Vocabularies, contexts, widths and depths of 10^9, and a weights file that claims as much.
LARGE = """
import json, sys
from pathlib import Path
from shotfit.checkpoints.weights import load_backbone
from shotfit.errors import ShotfitError

folder, file = Path(sys.argv[1]), sys.argv[2]
whole = json.loads((folder / file).read_text())
def peak():
    return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith("VmHWM:"))
load_backbone(folder)
before = peak()
for path in sys.argv[3:]:
    config = json.loads(json.dumps(whole))
    inner, names = config, path.split(".")
    for name in names[:-1]:
        inner = inner[name]
    inner[names[-1]] = 10**9
    (folder / file).write_text(json.dumps(config))
    try:
        load_backbone(folder)
    except ShotfitError:
        continue
    raise SystemExit(f"{path} was taken")
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is Linux's to tell")
@pytest.mark.parametrize(
    ("write", "file", "paths"),
    [
        (
            write_huggingface,
            "config.json",
            [
                *[f"text_config.{name}" for name in ("vocab_size", "hidden_size", "num_hidden_layers")],
                *[f"vision_config.{name}" for name in ("image_size", "intermediate_size", "num_attention_heads")],
                *["projection_dim", "text_config.max_position_embeddings"],
            ],
        ),
        (
            write_open_clip,
            "open_clip_config.json",
            [
                *[f"model_cfg.text_cfg.{name}" for name in ("vocab_size", "context_length", "width", "layers")],
                *[f"model_cfg.vision_cfg.{name}" for name in ("image_size", "width", "layers")],
                "model_cfg.embed_dim",
            ],
        ),
    ],
    ids=["huggingface", "open_clip"],
)
def test_a_billion_of_anything_takes_no_memory(
    write: Callable[[Path], Path], file: str, paths: list[str], tmp_path: Path
) -> None:
    folder = write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(folder), file, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-400:]
    assert int(done.stdout) < 20_000  # KiB


def test_a_file_that_claims_a_billion_numbers_takes_no_memory(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path)
    header = {"logit_scale": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(16))
    with pytest.raises(ShotfitError, match=r"is truncated \(expected 4,000,000,0\d\d bytes, found \d+\)"):
        load_backbone(folder)
