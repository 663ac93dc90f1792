"""In which precision the towers compute. Parameters, heads and losses are float32 whatever it is.

int8 keeps the matrices of the blocks in 8 bits (`int8.py`), where nearly all weights are; the rest is float32: tokens,
positions, norms, convolutions, the projection into the joint space.
"""

from __future__ import annotations

import platform
from typing import Literal

import torch

from shotfit.errors import UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.linear import Int8Linear, Linear

__all__ = ["Precision", "fast_precision", "in_precision"]

Precision = Literal["auto", "float32", "bfloat16", "int8"]


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


def in_precision(backbone: Backbone, precision: Precision, device: torch.device) -> Backbone:
    """The backbone itself, changed to compute in a precision on a device.

    precision: "auto" is the one that the device is fast at. Raises UsageError for int8 anywhere but on a CPU, and for a
    backbone that is in int8 and is to be in another: what was rounded away is gone.
    """
    if backbone.closed:  # which refuses any other
        return backbone.to(torch.float32 if precision == "auto" else getattr(torch, precision)).to(device)
    if backbone.precision == "int8" and precision not in ("auto", "int8"):
        raise UsageError(f"{backbone.name} was opened in int8: name it, and it opens in {precision}.")
    if "int8" in (backbone.precision, precision):
        if device.type != "cpu":
            raise UsageError(
                f"int8 runs on a CPU alone: leave --precision int8 out, or take --device cpu for {device}."
            )
        return backbone if backbone.int8 else _in_int8(backbone)
    return backbone.to(fast_precision(device) if precision == "auto" else getattr(torch, precision)).to(device)


def _in_int8(backbone: Backbone) -> Backbone:
    for tower in (backbone.image, backbone.text):
        for name, step in tower.named_modules():
            inside = name.startswith(("blocks.", "pool."))
            for own, layer in step.named_children() if inside else ():
                if type(layer) is Linear:
                    setattr(step, own, Int8Linear(layer))
    backbone.int8 = True
    return backbone.float()  # what is left
