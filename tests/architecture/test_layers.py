"""Who may use whom: the contracts of pyproject.toml for what is imported, and the same layers for what is named."""

import ast
import re
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from tests.architecture.code import PACKAGES, imports, modules
from tests.support.road_experiment import ROOT

NAMED = re.compile(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?::(\w+))?")
"""A text that names a module of ours, and perhaps something in it: "filters.signals.caption:CaptionSignal"."""


def test_the_import_contracts_of_pyproject_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(ROOT):
        code = lint_imports(cache_dir=str(tmp_path / "cache"))
    assert code == 0, capsys.readouterr().out


def test_the_packages_import_nothing_that_is_not_installed_with_them() -> None:
    beside = {"tests", "benchmarks", "infra", "experiments"}
    found = [(name, *one) for name, tree in modules().items() for one in imports(tree) if _top(one[1]) in beside]
    assert found == []
    assert {_top(name) for name in modules()} == set(PACKAGES)


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def layers() -> dict[str, dict[str, int]]:
    """Return the layers by what holds them ("" for the top): each name's number, from the bottom up."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    found: dict[str, dict[str, int]] = {}
    for contract in contracts:
        if contract["type"] == "layers":
            ranks = {
                name.strip(): rank for rank, line in enumerate(reversed(contract["layers"])) for name in line.split("|")
            }
            found |= dict.fromkeys(contract.get("containers", [""]), ranks)
    return found


def points_upwards(module: str, name: str) -> bool:
    """Tell whether a module lies in a layer below that of the module that it names, or beside it."""
    holder = ""
    for mine, other in zip(module.split("."), name.split("."), strict=False):
        if mine != other:
            ranks = layers().get(holder, {})
            return mine in ranks and other in ranks and ranks[mine] <= ranks[other]
        holder = f"{holder}.{mine}".lstrip(".")
    return False


def named(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, attribute or "") of all texts that name a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (match := NAMED.fullmatch(node.value)):
            yield match[1], match[2] or ""


def defined(module: str) -> set[str]:
    """Return what a module defines at its top."""
    found = set()
    for node in modules()[module].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            found |= {target.id} if isinstance(target, ast.Name) else set()
    return found


def test_every_text_that_names_a_module_names_one_that_is_there() -> None:
    texts = {(user, *one) for user, tree in modules().items() for one in named(tree)}
    assert len(texts) > 80
    missing = [
        (user, module, attribute)
        for user, module, attribute in sorted(texts)
        if module not in modules() or (attribute and attribute not in defined(module))
    ]
    assert missing == []


def test_no_text_names_a_module_of_a_layer_above_but_for_the_table_of_stages() -> None:
    upwards = {
        (user, module)
        for user, tree in modules().items()
        for module, _ in named(tree)
        if user != "jobs.workflow.stages" and points_upwards(user, module)
    }
    assert upwards == set()
    assert points_upwards("jobs.workflow.stages", "jobs.ingest.stage")


@pytest.mark.parametrize(
    ("module", "name", "upwards"),
    [
        ("pipeline.fetch.urls", "jobs.decide", True),
        ("filters.signals.base", "sources.wit", True),  # beside it
        ("sources.wit", "filters.signals.base", True),
        ("pipeline.errors", "pipeline.report.page", True),
        ("filters.search.pdq", "filters.rules.base", True),
        ("jobs.cli.main", "jobs.report.stage", False),
        ("pipeline.report.page", "pipeline.report.browser", False),
        ("jobs.decide", "filters.rules.base", False),
    ],
)
def test_above_and_below_are_told_apart(module: str, name: str, upwards: bool) -> None:
    assert points_upwards(module, name) is upwards
