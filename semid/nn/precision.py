"""Matrix products in bfloat16, where the machine has units for them: elsewhere they are emulated, at a tenth of float32's speed."""

from __future__ import annotations

import platform
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]


def has_bfloat16(device: torch.device | str) -> bool:
    """Return whether the device multiplies bfloat16 in hardware. A CPU of x86 does with AVX512-BF16 or AMX."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device | str, precision: Precision = "auto") -> torch.autocast:
    """Return the context in which products run in `precision`; auto: bf16 where the device has it in hardware, else fp32."""
    is_low = precision == "bf16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_low)
