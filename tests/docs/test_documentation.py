"""The documentation: it builds without a warning, its references are those of the code, its worked examples work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra import reference
from tests.support.road_experiment import ROOT

EXAMPLES = sorted((ROOT / "docs" / "extending").glob("*.md"))
BLOCK = re.compile(r'^```(python|diff) title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["commands", "configuration"])
def test_a_reference_page_is_what_the_code_says(page: str) -> None:
    text = {"commands": reference.commands, "configuration": reference.configuration}[page]()
    assert (ROOT / "docs" / "reference" / f"{page}.md").read_text("utf-8") == text, "run make docs"


def test_every_key_of_the_experiment_file_has_a_meaning() -> None:
    page = reference.configuration()
    keys = re.findall(r"^### `(\w+)`.*?\n\n\*.*?\*\n\n(.*?)$", page, re.MULTILINE)
    assert len(keys) > 100
    assert [key for key, meaning in keys if len(meaning.split()) < 3] == []


def test_the_site_builds_strictly_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    loaded = re.compile(r'<(?:script|img|iframe)[^>]+src="https?://|<link[^>]+rel="stylesheet"[^>]+href="https?://')
    assert [page.name for page in pages if loaded.search(page.read_text("utf-8"))] == []


def applied(text: str, diff: str) -> str:
    """Return a file's text with the hunks of a diff, which are found by their context."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] if line.strip() else line for line in lines if line[0] != sign) for sign in "+-")
        assert text.count(old) == 1, f"expected this once, found {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with all worked examples in their places."""
    copy = tmp_path_factory.mktemp("examples") / "cuvee"
    for name in ("pipeline", "sources", "filters", "jobs", "tests", "infra", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results", "stores"))
    shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
    for page in EXAMPLES:
        for kind, title, body in BLOCK.findall(page.read_text("utf-8")):
            path = copy / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(body if kind == "python" else applied(path.read_text("utf-8"), body), "utf-8")
    return copy


def test_there_is_a_worked_example_of_each_kind() -> None:
    kinds = {"add-a-source", "add-a-signal", "add-a-filter", "add-a-metric", "add-a-stage"}
    assert {page.stem for page in EXAMPLES} == kinds
    assert [page.stem for page in EXAMPLES if "tests/" not in page.read_text("utf-8")] == []


def test_the_tests_of_the_worked_examples_pass(tree: Path) -> None:
    titles = [title for page in EXAMPLES for _, title, _ in BLOCK.findall(page.read_text("utf-8"))]
    tests = [title for title in titles if Path(title).name.startswith("test_")]
    assert len(tests) >= 5
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
