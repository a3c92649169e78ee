"""The floors: who may import whom, and what no module may do; read from the source text of every module."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.roads import ROOT

FLOORS = {
    "pipeline": {"pipeline"},
    "sources": {"sources", "pipeline"},
    "filters": {"filters", "pipeline"},
    "jobs": {"jobs", "sources", "filters", "pipeline"},
}
OURS = {*FLOORS, "tests", "benchmarks", "infra", "experiments"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield every module that is imported anywhere in a module: at its top, in functions, for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            yield node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value)
            elif isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
                yield str(name.values[0].value)


def faults(floor: str, text: str) -> list[str]:
    """Return what a module of a floor imports or does that it must not."""
    tree = ast.parse(text)
    found = []
    for module in imported(tree):
        top = module.split(".")[0]
        if top in OURS and top not in FLOORS[floor]:
            found.append(f"imports {module}")
        if top == "pyspark" and floor != "jobs":
            found.append(f"imports {module}")
        if top in FORBIDDEN_MODULES:
            found.append(f"imports {module}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        if name in FORBIDDEN_CALLS or given.get("shell") == "True" or given.get("allow_pickle") == "True":
            found.append(f"calls {name}")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("calls torch.load without weights_only=True")
    return found


MODULES = [(floor, path) for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


@pytest.mark.parametrize(("floor", "path"), MODULES, ids=[str(path.relative_to(ROOT)) for _, path in MODULES])
def test_a_module_keeps_to_its_floor(floor: str, path: Path) -> None:
    assert faults(floor, path.read_text("utf-8")) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for _, path in MODULES}
    needs = {
        name: {
            other
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for other in imported(node)
            if other in names
        }
        for name, path in names.items()
    }
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert needs == {}


@pytest.mark.parametrize(
    ("floor", "text"),
    [
        ("pipeline", "import jobs.run"),
        ("pipeline", "def f():\n    from filters.clip import ClipSignal"),
        ("sources", "from filters import rules"),
        ("filters", "from sources.registry import READERS"),
        ("filters", "from pyspark.sql import DataFrame"),
        ("pipeline", "from importlib import import_module\nimport_module(f'jobs.{name}')"),
        ("jobs", "from tests.roads import ROOT"),
        ("jobs", "import pickle"),
        ("jobs", "import subprocess\nsubprocess.run('ls', shell=True)"),
        ("pipeline", "import torch\ntorch.load(path)"),
        ("pipeline", "import numpy as np\nnp.load(path, allow_pickle=True)"),
    ],
)
def test_a_planted_fault_is_found(floor: str, text: str) -> None:
    assert len(faults(floor, text)) == 1
