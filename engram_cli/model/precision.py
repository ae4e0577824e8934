"""Which type of numbers to compute in."""

import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than f32 there: GPUs that have it, and processors with AVX-512 BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
