"""What this machine computes on and in. bfloat16 halves the cost where it is in the hardware and is slower where it is
not: a convolution of float32 took 0.10 s on a processor with AVX2 alone, one of bfloat16 2.7 s."""

from functools import cache


@cache
def multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX-512 BF16, AMX, or Arm's BF16)."""
    import torch  # heavy, and most commands ask nothing of the kind

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def cuda_devices() -> int:
    """Return how many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_here(asked: str) -> str:
    """Return open_clip's `--device` for what a recipe asks: `auto` is cuda where torch sees such a device, else cpu."""
    if asked != "auto":
        return asked
    return "cuda" if cuda_devices() else "cpu"


def precision_here(asked: str, device: str = "cpu") -> str:
    """Return open_clip's `--precision` for what a recipe asks: `auto` is amp_bf16 where that is quick, else fp32."""
    if asked != "auto":
        return asked
    if device == "cuda":
        import torch

        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = multiplies_bf16()
    return "amp_bf16" if quick else "fp32"
