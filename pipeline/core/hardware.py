"""The devices and precisions of this machine.

bfloat16 halves the cost where the hardware supports it and is slower where it does not: on a processor with AVX2 only,
a convolution took 0.10 s in float32 and 2.7 s in bfloat16.
"""

from functools import cache


@cache
def has_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware (AVX-512 BF16, AMX, or Arm's BF16)."""
    import torch  # slow to import, and most commands do not need it

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def cuda_device_count() -> int:
    """Return how many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_device(asked: str) -> str:
    """Return open_clip's `--device` for a recipe's setting: `auto` is cuda where torch sees such a device, else cpu."""
    if asked != "auto":
        return asked
    return "cuda" if cuda_device_count() else "cpu"


def resolve_precision(asked: str, device: str = "cpu") -> str:
    """Return open_clip's `--precision` for a recipe's setting: `auto` is amp_bf16 where that is fast, else fp32."""
    if asked != "auto":
        return asked
    if device == "cuda":
        import torch

        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = has_bf16()
    return "amp_bf16" if fast else "fp32"
