"""Builds an overlay as `kubectl kustomize` does, out of the few features that these manifests use.

No package of the tools' index brings kustomize. Understood are `resources` (files and folders), `namespace`,
`nameSuffix`, and `patches` of RFC 6902 with a `target` of kind and name; every other key is refused, so that nothing
is passed over. Where this machine has kubectl, the tests hold the result to its.
"""

import sys
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]


KEYS = {"apiVersion", "kind", "resources", "namespace", "nameSuffix", "patches"}


class Refused(Exception):
    """A folder that cannot be built; a line for a person."""


def build(folder: Path) -> list[Manifest]:
    """Return the manifests of a folder with a kustomization.yaml; raise Refused where it cannot be built."""
    path = folder / "kustomization.yaml"
    given = yaml.safe_load(path.read_text("utf-8"))
    if found := set(given) - KEYS:
        raise Refused(f"{path}: {', '.join(sorted(found))}: expected only {', '.join(sorted(KEYS))}")
    made: list[Manifest] = []
    for name in given["resources"]:
        below = folder / name
        if not below.exists():
            raise Refused(f"{path}: resources: {name}: not found")
        made += build(below) if below.is_dir() else _documents(below)
    _named(made, given.get("namespace", ""), given.get("nameSuffix", ""))
    for patch in given.get("patches", []):
        _patch(made, patch, path)
    seen: set[tuple[str, str]] = set()
    for one in made:
        if (key := (one["kind"], one["metadata"]["name"])) in seen:
            raise Refused(f"{path}: {key[0]} {key[1]} is there twice")
        seen.add(key)
    return made


def _documents(path: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(path.read_text("utf-8")) if one is not None]


def _named(made: list[Manifest], namespace: str, suffix: str) -> None:
    for one in made:
        one["metadata"]["name"] += suffix
        if namespace:
            one["metadata"]["namespace"] = namespace


def _patch(made: list[Manifest], patch: Manifest, path: Path) -> None:
    target = patch["target"]
    if set(patch) != {"target", "patch"} or set(target) - {"kind", "name"}:
        raise Refused(f"{path}: patches: expected a patch and a target of kind and name, found {sorted(target)}")
    found = [one for one in made if one["kind"] == target["kind"]]
    found = [one for one in found if one["metadata"]["name"] == target.get("name", one["metadata"]["name"])]
    if not found:
        raise Refused(f"{path}: patches: no resource is {target}")
    for one in found:
        try:
            jsonpatch.apply_patch(one, yaml.safe_load(patch["patch"]), in_place=True)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise Refused(f"{path}: {one['kind']} {one['metadata']['name']}: {error}") from None


if __name__ == "__main__":
    yaml.safe_dump_all(build(Path(sys.argv[1])), sys.stdout, sort_keys=False)
