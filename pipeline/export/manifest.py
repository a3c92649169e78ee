"""The manifest of an export and the files that open_clip_train reads beside the tars."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any


def export_digest(tars: Sequence[Mapping[str, Any]]) -> str:
    """Return SHA-256 over the tars' names and SHA-256s, which identifies an export."""
    lines = "".join(f"{tar['sha256']}  {tar['tar']}\n" for tar in sorted(tars, key=lambda tar: tar["tar"]))
    return hashlib.sha256(lines.encode()).hexdigest()


def _brace_patterns(names: Sequence[str]) -> list[str]:
    """Return sorted names of tars as brace patterns, one for each run of consecutive numbers."""
    numbers = [int(name.removesuffix(".tar")) for name in names]
    runs = groupby(enumerate(numbers), key=lambda indexed: indexed[1] - indexed[0])
    number_runs = [[number for _, number in run] for _, run in runs]
    return [f"{run[0]:08d}.tar" if len(run) == 1 else f"{{{run[0]:08d}..{run[-1]:08d}}}.tar" for run in number_runs]


def reading_options(tars: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the options of open_clip_train that read the tars, whose names are relative to the export's folder.

    `train_data` is for --train-data. Where tars have a `factor`, `upsampling_factors` is for
    --train-data-upsampling-factors, one number per pattern, which needs --dataset-resampled.
    """
    ordered = sorted(tars, key=lambda tar: tar["tar"])
    patterns: list[str] = []
    factors: list[str] = []
    for factor, group in groupby(ordered, key=lambda tar: tar.get("factor")):
        group_patterns = _brace_patterns([tar["tar"] for tar in group])
        patterns += group_patterns
        factors += [repr(float(factor))] * len(group_patterns) if factor is not None else []
    return {"train_data": "::".join(patterns)} | ({"upsampling_factors": "::".join(factors)} if factors else {})


def manifest(mixture: str, job: str, inputs: Mapping[str, Any], tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `manifest.json`: each tar's pairs, bytes and SHA-256, how to read them, and the jobs they came from."""
    columns = ("pairs", "bytes", "sha256", "factor")
    body = {
        "mixture": mixture,
        "job": job,
        "inputs": dict(inputs),
        "pairs": sum(tar["pairs"] for tar in tars),
        "digest": export_digest(tars),
        "tars": {
            tar["tar"]: {column: tar[column] for column in columns if tar.get(column) is not None} for tar in tars
        },
        **reading_options(tars),
    }
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def sizes_json(tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `sizes.json`, from which open_clip_train reads the number of pairs of each tar."""
    return (json.dumps({tar["tar"]: tar["pairs"] for tar in tars}, indent=1, sort_keys=True) + "\n").encode()
