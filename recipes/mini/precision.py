"""bfloat16 where the processor computes in it; where it would be emulated, float32 is several times faster."""

from __future__ import annotations

import torch

__all__ = ["autocast"]


def autocast() -> torch.autocast:
    """A context for matrix products and convolutions."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())
