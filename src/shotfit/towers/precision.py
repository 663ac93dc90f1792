"""In which precision the towers compute. Parameters, heads and losses are float32 whatever it is."""

from __future__ import annotations

import platform
from typing import Literal

import torch

__all__ = ["Precision", "fast_precision"]

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
