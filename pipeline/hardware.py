"""What this processor computes in. bfloat16 halves the cost where it is in the hardware and is slower where it is not:
a convolution of float32 took 0.10 s on a processor with AVX2 alone, one of bfloat16 2.7 s."""

from functools import cache


@cache
def multiplies_bf16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX-512 BF16, AMX, or Arm's BF16)."""
    import torch  # heavy, and most commands ask nothing of the kind

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))


def precision_here(asked: str) -> str:
    """Return open_clip's `--precision` for what a recipe asks: `auto` is amp_bf16 where that is quick, else fp32."""
    if asked != "auto":
        return asked
    return "amp_bf16" if multiplies_bf16() else "fp32"
