"""Exports: training tars made of byte ranges of the source tars, in a seeded order across sources, with a manifest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any


def export_digest(tars: Sequence[Mapping[str, Any]]) -> str:
    """Return SHA-256 over the tars' names and SHA-256s: what an export is known by."""
    lines = "".join(f"{tar['sha256']}  {tar['tar']}\n" for tar in sorted(tars, key=lambda tar: tar["tar"]))
    return hashlib.sha256(lines.encode()).hexdigest()


def _braces(names: Sequence[str]) -> list[str]:
    """Return the names of tars, sorted, as brace patterns, one for each run of numbers that follow each other."""
    numbers = [int(name.removesuffix(".tar")) for name in names]
    runs = groupby(enumerate(numbers), key=lambda one: one[1] - one[0])
    found = [[number for _, number in run] for _, run in runs]
    return [f"{run[0]:08d}.tar" if len(run) == 1 else f"{{{run[0]:08d}..{run[-1]:08d}}}.tar" for run in found]


def reading(tars: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return how open_clip_train is told to read the tars, whose names are relative to the export's folder.

    `train_data` is for --train-data. Where tars have a `factor`, `upsampling_factors` is for
    --train-data-upsampling-factors, a number for each pattern, which asks for --dataset-resampled.
    """
    ordered = sorted(tars, key=lambda tar: tar["tar"])
    patterns: list[str] = []
    factors: list[str] = []
    for factor, group in groupby(ordered, key=lambda tar: tar.get("factor")):
        mine = _braces([tar["tar"] for tar in group])
        patterns += mine
        factors += [repr(float(factor))] * len(mine) if factor is not None else []
    return {"train_data": "::".join(patterns)} | ({"upsampling_factors": "::".join(factors)} if factors else {})


def manifest(mixture: str, job: str, inputs: Mapping[str, Any], tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `manifest.json`: each tar's pairs, bytes and SHA-256, how to read them, and the jobs they came from."""
    said = ("pairs", "bytes", "sha256", "factor")
    body = {
        "mixture": mixture,
        "job": job,
        "inputs": dict(inputs),
        "pairs": sum(tar["pairs"] for tar in tars),
        "digest": export_digest(tars),
        "tars": {tar["tar"]: {key: tar[key] for key in said if tar.get(key) is not None} for tar in tars},
        **reading(tars),
    }
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def sizes(tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `sizes.json`, from which open_clip_train knows how many pairs each tar holds."""
    return (json.dumps({tar["tar"]: tar["pairs"] for tar in tars}, indent=1, sort_keys=True) + "\n").encode()
