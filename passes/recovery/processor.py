"""What the processor can multiply by itself."""

__all__ = ["multiplies_bfloat16"]


def multiplies_bfloat16() -> bool:
    """Tell whether products of bfloat16 are faster than those of float32: with AMX tiles, or AVX-512's dot products."""
    import torch

    known = torch.cpu.get_capabilities()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16") or known.get("bf16"))
