"""In which precision the towers compute, and where. Parameters, heads and losses are float32 whatever it is."""

from __future__ import annotations

import platform
import re
from copy import deepcopy
from pathlib import Path
from typing import Literal, get_args

import torch

from shotfit.errors import UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.weights import load_backbone

__all__ = ["Precision", "fast_precision", "load_in"]

Precision = Literal["auto", "float32", "bfloat16"]


def fast_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor has instructions to multiply matrices in it, else float32.

    Those are GPUs from Ampere on, and CPUs with AVX-512's (which every one with AMX has) or ARM's; where they are only
    emulated, bfloat16 is the slower one.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        # older versions of torch cannot tell AVX-512 with bfloat16 from AVX-512 without
        fast = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    else:
        fast = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def load_in(backbone: str | Path | Backbone, precision: Precision = "auto", device: str = "auto") -> Backbone:
    """A backbone that computes in a precision, on a device.

    precision: "auto" is the one that the device is fast at, or that of a backbone that is given, which is copied where
    its precision is another. device: cpu, cuda or cuda:1; "auto" is a GPU where CUDA has one, else the CPU, or where a
    backbone is that is given.

    Raises UsageError for an unknown precision or device, and what `load_backbone` raises.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"There is no precision {precision!r}: use auto, float32 or bfloat16.")
    place = _place(device)
    if isinstance(backbone, Backbone):
        dtype = backbone.dtype if precision == "auto" else getattr(torch, precision)
        backbone = backbone if backbone.dtype == dtype else deepcopy(backbone).to(dtype)
        return backbone if device == "auto" else backbone.to(place)
    loaded = load_backbone(backbone).to(place)
    return loaded.to(fast_precision(loaded.device) if precision == "auto" else getattr(torch, precision))


def _place(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"There is no device {device!r}: use auto, cpu, cuda or, of several GPUs, cuda:1.")
    place = torch.device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(f"There is no device {device}: torch finds {found} CUDA GPUs here. Use cpu or auto.")
    return place
