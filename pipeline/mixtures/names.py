"""Names of mixtures at a size: `name@pairs`."""


def sized_name(name: str, size: int) -> str:
    """Return the name of a mixture at a size in pairs; names in experiment files have no `@`."""
    return f"{name}@{size}"


def base_name(name: str) -> str:
    """Return the name without its size; a name without a size is returned as it is."""
    return name.partition("@")[0]
