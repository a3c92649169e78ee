"""Floors: who imports whom, that no import goes in a circle, and that no code runs what data says."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.road_experiment import ROOT

FLOORS = {
    "jobs": {"jobs", "sources", "filters", "pipeline"},
    "sources": {"sources", "pipeline"},
    "filters": {"filters", "pipeline"},
    "pipeline": {"pipeline"},
}


OURS = {*FLOORS, "benchmarks", "infra", "tests", "experiments"}


UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}


YAML = {f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")}


BAD_LOADERS = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader"}


SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def sources() -> dict[str, tuple[Path, str]]:
    """Return (path, text) of every module of the four floors, by its dotted name."""
    found = {}
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = (path, path.read_text("utf-8"))
    return found


MODULES = sources()


def is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, early: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node below, and whether it runs when its module is imported."""
    for child in ast.iter_child_nodes(node):
        yield child, early
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        later = later or (isinstance(child, ast.If) and is_type_checking(child))
        yield from statements(child, early and not later)


def imports(text: str, module: str, package: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, dotted name, whether at import time) of all that a module imports."""
    for node, early in statements(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, early) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base, early
            yield from ((node.lineno, f"{base}.{alias.name}".lstrip("."), early) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            given = node.args[0].value
            if ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
                yield node.lineno, str(given), early


def misplaced(text: str, module: str) -> list[str]:
    """Return what a module imports against the floors' direction."""
    allowed = FLOORS[module.split(".")[0]]
    wrong = []
    for line, name, _ in imports(text, module):
        top = name.split(".")[0]
        if (top in OURS and top not in allowed) or (top in ("pyspark", "py4j") and not module.startswith("jobs")):
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def aliases(tree: ast.AST) -> dict[str, str]:
    """Return what each imported local name stands for."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dangers(text: str) -> list[str]:
    """Return each line that unpickles, evaluates text, opens a shell or loads what may run code."""
    tree = ast.parse(text)
    known = aliases(tree)

    def dotted(node: ast.AST) -> str:
        head, dot, rest = ast.unparse(node).partition(".")
        return known.get(head, head) + dot + rest

    found = [f"{line}: {name}" for line, name, _ in imports(text, "x") if name.split(".")[0] in UNPICKLERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and BAD_LOADERS & {dotted(base) for base in node.bases}:
            found.append(f"{node.lineno}: an unsafe YAML loader")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func).removeprefix("builtins.")
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        given = {key: ast.unparse(value) for key, value in keywords.items()}
        loaders = {dotted(value) for value in (*node.args[1:2], *(keywords[k] for k in keywords if k == "Loader"))}
        if (
            name in ("eval", "exec")
            or name in SHELLS
            or given.get("shell", "False") != "False"
            or given.get("allow_pickle", "False") != "False"
            or (name in YAML and (not loaders or loaders - SAFE_LOADERS))
            or (name == "torch.load" and given.get("weights_only") != "True")
        ):
            found.append(f"{node.lineno}: {name}")
    return found


def circle(modules: dict[str, str], packages: set[str]) -> list[str]:
    """Return modules that import each other in a circle at import time; none where there is no circle."""
    graph: dict[str, set[str]] = {}
    for module, text in modules.items():
        named = {name for _, name, early in imports(text, module, module in packages) if early}
        behind = {".".join(name.split(".")[:end]) for name in named for end in range(1, name.count(".") + 2)}
        graph[module] = (behind & modules.keys()) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_the_four_floors_are_all_read() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(FLOORS)
    assert len(MODULES) > 50
    assert {"jobs.cli.main", "pipeline.report.page", "sources.world.publish", "filters"} <= MODULES.keys()


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_lies_below_it(floor: str) -> None:
    below = [name for name in MODULES if name.split(".")[0] == floor]
    assert [line for name in below for line in misplaced(MODULES[name][1], name)] == []


def test_spark_is_imported_by_jobs_and_by_no_other_floor() -> None:
    users = {name for name, (_, text) in MODULES.items() if any("pyspark" in one for _, one, _ in imports(text, name))}
    assert users
    assert {name.split(".")[0] for name in users} == {"jobs"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    packages = {name for name, (path, _) in MODULES.items() if path.name == "__init__.py"}
    assert circle({name: text for name, (_, text) in MODULES.items()}, packages) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_runs_nothing_that_data_says(module: str) -> None:
    assert dangers(MODULES[module][1]) == []


PLANTED = {
    "a floor above": ("pipeline.x", "import jobs.cli.main"),
    "a floor beside": ("filters.x", "from sources.registry import source_format"),
    "the other floor beside": ("sources.world.x", "import filters"),
    "inside a function": ("pipeline.x", "def f():\n    from filters.rules.base import KEEP"),
    "inside a method": ("sources.x", "class A:\n    async def f(self):\n        import filters.rules.base as r"),
    "for types only": ("pipeline.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sources.wit"),
    "by name": ("pipeline.x", "import importlib\nimportlib.import_module('jobs.workflow.runner')"),
    "relative, out of the package": ("pipeline.x", "from .. import jobs"),
    "in a try": ("filters.x", "try:\n    import jobs\nexcept ImportError:\n    pass"),
    "spark below": ("filters.x", "def f():\n    import pyspark.sql as s"),
    "tests": ("jobs.x", "from tests.support.road_experiment import ROOT"),
    "benchmarks": ("jobs.x", "import benchmarks.run"),
    "infra": ("jobs.x", "from infra import submit"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_an_import_planted_against_the_direction_is_found(what: str) -> None:
    module, text = PLANTED[what]
    assert len(misplaced(text, module)) >= 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("jobs.x", "import sources.wit, filters.rules.base, pipeline.storage.store, pyspark"),
        ("sources.x", "from pipeline.records import malformed\nfrom sources.readers.lines import whole"),
        ("filters.x", "from . import rules\nimport numpy, jobspy"),
        ("pipeline.x", "'import jobs'  # import jobs"),
    ],
)
def test_an_import_in_the_direction_is_let_through(module: str, text: str) -> None:
    assert misplaced(text, module) == []


def test_a_planted_circle_is_found_and_a_late_import_is_none() -> None:
    early = {"p": "", "p.a": "from p import b", "p.b": "from p.c import d", "p.c": "import p.a"}
    assert {"p.a", "p.b", "p.c"} == set(circle(early, {"p"}))
    assert circle(early | {"p.c": "def f():\n    import p.a"}, {"p"}) == []
    assert circle(early | {"p.c": "class C:\n    import p.a"}, {"p"}) != []
    assert circle({"p": "from . import a", "p.a": "import p"}, {"p"}) != []


BAD = [
    "import pickle",
    "def f():\n    from dill import loads",
    "eval('1')",
    "import builtins\nbuiltins.exec(text)",
    "import os as o\no.system('ls')",
    "from os import system as s\ns('ls')",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess\nsubprocess.run('ls', shell=wanted)",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, yaml.Loader)",
    "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
    "from yaml import unsafe_load\nunsafe_load(text)",
    "import yaml\nclass L(yaml.UnsafeLoader):\n    pass",
    "import torch\ntorch.load(path)",
    "import torch\ntorch.load(path, weights_only=False)",
    "from torch import load as l\nl(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
]


GOOD = [
    "model.eval()",
    "import re\nre.compile('x')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import yaml\nyaml.safe_load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "import yaml\nclass L(yaml.SafeLoader):\n    pass",
    "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load(path, allow_pickle=False)",
    "'eval(x)'  # exec(x)",
]


@pytest.mark.parametrize("text", BAD)
def test_planted_code_that_runs_data_is_found(text: str) -> None:
    assert len(dangers(text)) >= 1


@pytest.mark.parametrize("text", GOOD)
def test_code_that_only_looks_like_it_is_let_through(text: str) -> None:
    assert dangers(text) == []
