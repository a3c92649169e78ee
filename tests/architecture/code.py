"""The project's own code as text and trees, for the tests that read it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.road_experiment import ROOT

PACKAGES = ("pipeline", "sources", "filters", "jobs")


BY_NAME = ("importlib.import_module", "import_module", "__import__")


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the four packages, by its dotted name."""
    return {
        name_of(path): ast.parse(path.read_text("utf-8")) for top in PACKAGES for path in (ROOT / top).rglob("*.py")
    }


def name_of(path: Path) -> str:
    """Return a module's dotted name; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports from elsewhere, wherever in it and however."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME and node.args:
            yield node.lineno, str(getattr(node.args[0], "value", ""))
