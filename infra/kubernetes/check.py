"""Checks the manifests without a cluster: Spark's kinds by the operator's own schema, the others by Kubernetes's.

    python infra/kubernetes/check.py        # each overlay; exit 1 where one is wrong

Unknown fields are refused, which the cluster itself would drop in silence. `crd/` holds the schemas of the Spark
Operator, each with its source, version and licence.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kustomize import Manifest, Refused, build

HERE = Path(__file__).resolve().parent


KUBERNETES = "1.34"


STAGES = ("ingest", "score", "decide", "blend", "export")


def closed(schema: Any) -> Any:
    """Return an OpenAPI schema that takes no field it does not name, and an int or a string where it says so."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def schemas() -> dict[tuple[str, str], Any]:
    """Return the operator's schemas, closed, by apiVersion and kind."""
    found = {}
    for path in sorted((HERE / "crd").glob("*.json")):
        said = json.loads(path.read_text("utf-8"))
        schema = closed(said["openAPIV3Schema"])
        schema["properties"]["metadata"] = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}},
            "required": ["name", "namespace"],
            "additionalProperties": False,
        }
        found[f"{said['group']}/{said['name']}", said["kind"]] = schema
    return found


def faults(manifests: list[Manifest]) -> Iterator[str]:
    """Yield what is wrong with manifests, a line each."""
    known = schemas()
    for one in manifests:
        about = f"{one['kind']} {one['metadata']['name']}"
        schema = known.get((one["apiVersion"], one["kind"]))
        if schema is None:
            yield from (f"{about}: {said}" for said in _builtin(one))
            continue
        for error in jsonschema.Draft202012Validator(schema).iter_errors(one):
            yield f"{about}: {'.'.join(map(str, error.path))}: {error.message}"
        yield from (f"{about}: {said}" for said in _policy(one))
    for kind in ("SparkApplication", "ScheduledSparkApplication"):
        there = {one["metadata"]["name"] for one in manifests if one["kind"] == kind}
        if missing := {f"cuvee-{stage}" for stage in STAGES} - there:
            yield f"{kind}: expected one for each stage, found none named {', '.join(sorted(missing))}"


def _builtin(one: Manifest) -> Iterator[str]:
    try:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


def _policy(one: Manifest) -> Iterator[str]:
    """Yield what the schema lets through and we do not: it knows no values of most fields."""
    spec = one["spec"]
    if one["kind"] == "ScheduledSparkApplication":
        for key, expected in (("concurrencyPolicy", "Forbid"), ("timeZone", "UTC")):
            if spec.get(key) != expected:
                yield f"{key}: expected {expected}, found {spec.get(key)}"
        spec = spec.get("template", {})
    stage = one["metadata"]["name"].removeprefix("cuvee-")
    if spec.get("arguments", [])[:1] != [stage]:
        yield f"arguments: expected {stage} first, found {spec.get('arguments')}"
    if spec.get("restartPolicy", {}).get("type") != "OnFailure":
        yield "restartPolicy: expected OnFailure"
    for name in ("driver", "executor"):
        pod = spec.get(name, {})
        if {"secretRef": {"name": "cuvee-s3"}} not in pod.get("envFrom", []):
            yield f"{name}.envFrom: expected the secret cuvee-s3"
        said = pod.get("securityContext", {})
        if said.get("runAsNonRoot") is not True or not said.get("runAsUser") or said.get("allowPrivilegeEscalation"):
            yield f"{name}.securityContext: expected a user that is not root and gains no rights"
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        if unknown := {mount["name"] for mount in pod.get("volumeMounts", [])} - volumes:
            yield f"{name}.volumeMounts: {', '.join(sorted(unknown))}: no such volume"
        for key in ("cores", "memory", "memoryOverhead"):
            if key not in pod:
                yield f"{name}: expected {key}"


def main() -> int:
    """Check each overlay; print what is wrong, and how many manifests there are."""
    wrong = False
    for folder in sorted((HERE / "overlays").iterdir()):
        try:
            manifests = build(folder)
            found = list(faults(manifests))
        except Refused as error:
            manifests, found = [], [str(error)]
        for line in found:
            sys.stderr.write(f"{folder.name}: {line}\n")
        print(f"{folder.name}: {len(manifests)} manifests, {len(found)} faults")
        wrong = wrong or bool(found)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
