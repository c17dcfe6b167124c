"""Fast arithmetic: bfloat16, where the hardware multiplies it faster than float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Arithmetic = Literal["exact", "fast"]
"""``"exact"``: the bits of plain training. ``"fast"``: other bits, by what the hardware has."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 there; on a CPU without avx512_bf16 or amx it is slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def forward_pass(arithmetic: Arithmetic, device: torch.device) -> AbstractContextManager[object]:
    """
    What a forward pass is computed in. Parameters stay float32, and so do batch norm's statistics; the loss is for the
    caller to compute outside, of float32 logits.
    """
    if arithmetic == "fast" and multiplies_bfloat16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
