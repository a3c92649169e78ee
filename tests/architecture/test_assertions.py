"""A test whose assertions all stand in loops over data passes where there are no data: none is written so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.road_experiment import ROOT

Loop = ast.For | ast.AsyncFor | ast.While


NEVER_EMPTY = ("range", "product", "itertools.product", "combinations", "itertools.combinations")


def checks(node: ast.AST, loops: tuple[Loop, ...] = ()) -> Iterator[tuple[Loop, ...]]:
    """Yield, for each assertion and each expected exception of a function, the loops that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Assert) or (isinstance(child, ast.With) and any(map(_raises, child.items))):
            yield loops
        yield from checks(child, (*loops, child) if isinstance(child, Loop) else loops)


def _raises(item: ast.withitem) -> bool:
    return ast.unparse(item.context_expr).startswith("pytest.raises(")


def may_be_empty(loop: Loop) -> bool:
    return isinstance(loop, ast.While) or not _written_out(loop.iter)


def _written_out(given: ast.AST) -> bool:
    """Tell whether what is looped over stands in the test itself, or in a constant."""
    if isinstance(given, ast.Tuple | ast.List | ast.Set):
        return any(not isinstance(one, ast.Starred) or _written_out(one.value) for one in given.elts)
    if isinstance(given, ast.Dict):
        return bool(given.keys)
    if isinstance(given, ast.Name):
        return given.id.isupper()
    if isinstance(given, ast.Constant):
        return bool(given.value)
    if isinstance(given, ast.BinOp):
        return _written_out(given.left) or _written_out(given.right)
    if isinstance(given, ast.IfExp):
        return _written_out(given.body) and _written_out(given.orelse)
    if isinstance(given, ast.Call):
        name = ast.unparse(given.func)
        if name in ("enumerate", "zip", "sorted", "reversed", "list"):
            return all(map(_written_out, given.args))
        if isinstance(given.func, ast.Attribute) and given.func.attr in ("items", "keys", "values"):
            return _written_out(given.func.value)
        return name in NEVER_EMPTY
    return False


def idle(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a test may pass without having asserted anything."""
    found = list(checks(test))
    return bool(found) and all(any(map(may_be_empty, loops)) for loops in found)


def all_tests(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the tests of a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def test_no_test_asserts_only_in_loops_over_what_may_be_empty() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    found = [
        f"{_short(path)}::{test.name}" for path in files for test in all_tests(path.read_text("utf-8")) if idle(test)
    ]
    assert found == []


def _short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("for row in rows():\n  assert row", True),
        ("while more():\n  assert row", True),
        ("for row in rows:\n  with pytest.raises(ValueError):\n    row()", True),
        ("for row in sorted(rows):\n  for word in ('a', 'b'):\n    assert row", True),
        ("for row in (*rows,):\n  assert row", True),
        ("assert rows\nfor row in rows:\n  assert row", False),
        ("for row in (1, 2):\n  assert row", False),
        ("for row in ROWS.items():\n  assert row", False),
        ("for row in (1, *rows):\n  assert row", False),
        ("for row in range(9):\n  assert row", False),
        ("for row in rows:\n  pass", False),  # it asserts nothing here, but perhaps in what it calls
    ],
)
def test_such_a_test_is_told_from_others(body: str, found: bool) -> None:
    [test] = all_tests("def test_it():\n" + "\n".join(f"  {line}" for line in body.splitlines()))
    assert idle(test) is found
