"""The overlays are right by the schemas, what is planted against these is found, and kustomize builds the same."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from check import HERE, STAGES, faults, schemas
from kustomize import Manifest, Refused, build

SIZES = ("small", "large")


KUBECTL, OWN = shutil.which("kubectl"), shutil.which("kustomize")


KUSTOMIZE = [KUBECTL, "kustomize"] if KUBECTL else [OWN, "build"]


@pytest.fixture(params=SIZES)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return build(HERE / "overlays" / request.param)


def one_of(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def test_nothing_is_wrong(overlay: list[Manifest]) -> None:
    assert list(faults(overlay)) == []
    kinds = [one["kind"] for one in overlay]
    assert kinds.count("SparkApplication") == kinds.count("ScheduledSparkApplication") == len(STAGES)
    assert {one["metadata"]["namespace"] for one in overlay} == {"cuvee"}


def test_a_schedule_runs_what_the_application_runs(overlay: list[Manifest]) -> None:
    for stage in STAGES:
        spec = one_of(overlay, "SparkApplication", f"cuvee-{stage}")["spec"]
        scheduled = one_of(overlay, "ScheduledSparkApplication", f"cuvee-{stage}")["spec"]["template"]
        assert scheduled == {key: value for key, value in spec.items() if key != "suspend"}
        assert spec["suspend"] is True  # else applying the folder would start all stages at once


def test_a_large_cluster_is_larger() -> None:
    found = [one_of(build(HERE / "overlays" / size), "SparkApplication", "cuvee-score")["spec"] for size in SIZES]
    cores = [spec["executor"]["instances"] * spec["executor"]["cores"] for spec in found]
    assert cores[0] * 50 < cores[1]


def test_no_secret_lies_in_a_manifest() -> None:
    for path in HERE.rglob("*.yaml"):
        for one in yaml.safe_load_all(path.read_text("utf-8")):
            assert one["kind"] != "Secret", path
        assert "AWS_SECRET" not in path.read_text("utf-8")


PLANTED: dict[str, tuple[str, str, list[Any], Any]] = {
    "an unknown field": ("SparkApplication", "cuvee-score", ["spec", "executer"], {"instances": 2}),
    "an unknown field deep inside": ("SparkApplication", "cuvee-score", ["spec", "driver", "memroy"], "2g"),
    "an unknown field of a container": (
        "SparkApplication",
        "cuvee-score",
        ["spec", "executor", "securityContext", "runAsNotRoot"],
        True,
    ),
    "a wrong type": ("SparkApplication", "cuvee-score", ["spec", "executor", "instances"], "two"),
    "a number for a text": ("SparkApplication", "cuvee-score", ["spec", "sparkConf", "spark.task.maxFailures"], 4),
    "a value that is none": ("SparkApplication", "cuvee-score", ["spec", "restartPolicy", "type"], "Sometimes"),
    "below the least": ("SparkApplication", "cuvee-score", ["spec", "executor", "cores"], 0),
    "in a schedule": ("ScheduledSparkApplication", "cuvee-ingest", ["spec", "timezone"], "UTC"),
    "in a schedule's template": ("ScheduledSparkApplication", "cuvee-ingest", ["spec", "template", "modus"], "cluster"),
    "overlapping runs": ("ScheduledSparkApplication", "cuvee-ingest", ["spec", "concurrencyPolicy"], "Allow"),
    "local time": ("ScheduledSparkApplication", "cuvee-ingest", ["spec", "timeZone"], "Europe/Paris"),
    "another stage's arguments": ("SparkApplication", "cuvee-score", ["spec", "arguments"], ["ingest", "x"]),
    "root": ("SparkApplication", "cuvee-score", ["spec", "driver", "securityContext", "runAsUser"], 0),
    "no credentials": ("SparkApplication", "cuvee-score", ["spec", "executor", "envFrom"], []),
    "a volume that is not there": ("SparkApplication", "cuvee-score", ["spec", "volumes"], []),
    "an unknown field of a claim": ("PersistentVolumeClaim", "cuvee-models", ["spec", "size"], "1Gi"),
    "an unknown field of a role": ("Role", "cuvee-driver", ["rulez"], []),
    "an API that is none": ("NetworkPolicy", "cuvee", ["apiVersion"], "networking.k8s.io/v9"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_found_and_named(what: str) -> None:
    kind, name, path, value = PLANTED[what]
    manifests = build(HERE / "overlays" / "small")
    place = one_of(manifests, kind, name)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    found = list(faults(manifests))
    assert found
    assert all(line.startswith(f"{kind} {name}: ") for line in found)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_its_manifest_is_found(stage: str) -> None:
    manifests = [one for one in build(HERE / "overlays" / "small") if one["metadata"]["name"] != f"cuvee-{stage}"]
    assert len(list(faults(manifests))) == 2


def test_the_vendored_schemas_say_where_they_are_from() -> None:
    assert {kind for _, kind in schemas()} == {"SparkApplication", "ScheduledSparkApplication"}
    for path in (HERE / "crd").glob("*.json"):
        head = path.read_text("utf-8")[:1000]
        assert all(key in head for key in ('"source"', '"version": "v2.5.2', '"licence": "Apache-2.0'))


@pytest.mark.parametrize("change", ["key", "target", "path", "missing", "twice"])
def test_what_the_builder_does_not_understand_it_refuses(tmp_path: Path, change: str) -> None:
    shutil.copytree(HERE, tmp_path / "k", ignore=shutil.ignore_patterns("crd"))
    folder = tmp_path / "k" / "overlays" / "small"
    given = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if change == "key":
        given["commonLabels"] = {"a": "b"}
    elif change == "target":
        given["patches"][0]["target"] = {"kind": "Nothing"}
    elif change == "path":
        given["patches"][0]["patch"] = "[{op: replace, path: /spec/nowhere, value: 1}]"
    elif change == "missing":
        given["resources"].append("../nothing")
    else:
        given["resources"].append("../../base")
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(given), "utf-8")
    with pytest.raises(Refused, match="kustomization"):
        build(folder)


@pytest.mark.skipif(not (KUBECTL or OWN), reason="neither kubectl nor kustomize is on this machine")
@pytest.mark.parametrize("size", SIZES)
def test_kustomize_builds_the_same(size: str) -> None:
    done = subprocess.run([*KUSTOMIZE, str(HERE / "overlays" / size)], capture_output=True, text=True, check=True)

    def by_name(manifests: list[Manifest]) -> list[Manifest]:
        return sorted(manifests, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(build(HERE / "overlays" / size))


def test_the_dockerfile_passes_its_linter_and_the_linter_finds_what_is_planted() -> None:
    hadolint = str(Path(sys.executable).parent / "hadolint")
    text = (HERE / "Dockerfile").read_text("utf-8")
    loose, newest = text.replace("tini=0.19.0-1+b3", "tini"), text.replace("3.11.14-slim-bookworm", "latest")
    for said, code in ((text, 0), (loose, 1), (newest, 1)):
        done = subprocess.run([hadolint, "-"], input=said, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    lines = (HERE / "Dockerfile").read_text("utf-8").splitlines()
    [base] = [line for line in lines if line.startswith("FROM ")]
    assert base.split(":")[1][0].isdigit()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 185:185"]
    applications = [one for one in build(HERE / "overlays" / "small") if one["kind"] == "SparkApplication"]
    users = {one["spec"]["driver"]["securityContext"]["runAsUser"] for one in applications}
    assert users == {185}
    assert any("--require-hashes" in line for line in lines)
