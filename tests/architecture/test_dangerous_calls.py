"""No code runs what data says: nothing is unpickled, evaluated, given to a shell, or loaded by what may run code."""

import ast

import pytest

from tests.architecture.code import imports, modules

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}


YAML = {f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")}


BAD_LOADERS = {"yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.CLoader"}


SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Return what each imported local name stands for."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dangers(tree: ast.Module) -> list[str]:
    """Return each line that unpickles, evaluates text, opens a shell or loads what may run code."""
    known = aliases(tree)

    def dotted(node: ast.AST) -> str:
        head, dot, rest = ast.unparse(node).partition(".")
        return known.get(head, head) + dot + rest

    found = [f"{line}: {name}" for line, name in imports(tree) if name.split(".")[0] in UNPICKLERS]
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


def test_no_module_runs_what_data_says() -> None:
    assert len(modules()) > 50
    assert {name: found for name, tree in modules().items() if (found := dangers(tree))} == {}


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
    assert len(dangers(ast.parse(text))) >= 1


@pytest.mark.parametrize("text", GOOD)
def test_code_that_only_looks_like_it_is_let_through(text: str) -> None:
    assert dangers(ast.parse(text)) == []
