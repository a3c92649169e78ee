"""What the core does without: one line says what to install; the version and the schema are told."""

import builtins
import json
import tomllib
from importlib.metadata import version
from typing import Any

import pytest

from jobs.cli.extras import EXTRAS, install_hint
from jobs.cli.main import main
from tests.support.road_experiment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_extra_that_is_named_exists() -> None:
    assert set(EXTRAS.values()) == set(PROJECT["optional-dependencies"]) - {"all", "docs", "dev"}


@pytest.mark.parametrize(("module", "extra"), [("pyspark.sql", "spark"), ("torch", "train"), ("aiohttp", "web")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("jobs.cli.queries"):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["funnel", "nowhere"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"cuvee: this command needs the package {module.partition('.')[0]}, found none")
    assert f"pip install 'cuvee[{extra}]'" in message
    assert message.count("\n") == 1


def test_a_module_of_ours_that_is_missing_is_a_defect_and_no_hint() -> None:
    assert install_hint(ModuleNotFoundError("No module named 'pipeline.none'", name="pipeline.none")) is None


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cuvee {version('cuvee')}\n"


def test_the_schema_has_a_description_of_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    sections = [schema, *schema["$defs"].values()]
    keys = [(key, field) for section in sections for key, field in section.get("properties", {}).items()]
    assert len(keys) > 100
    assert [key for key, field in keys if not field.get("description")] == []
