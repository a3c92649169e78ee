"""Names of mixtures in a size: `name@pairs`."""


def sized(name: str, size: int) -> str:
    """Return what the mixture of so many pairs is called; no name in an experiment file has an `@`."""
    return f"{name}@{size}"


def unsized(name: str) -> str:
    """Return the mixture of which a name is a size, or the name itself."""
    return name.partition("@")[0]
