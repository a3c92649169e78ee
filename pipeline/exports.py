"""Exports: training tars made of byte ranges of the source tars, in a seeded order across sources, with a manifest."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.shards import ShardWriter
from pipeline.store import Store


@dataclass(frozen=True)
class Range:
    """Where a pair's members lie in a source tar, in bytes."""

    uid: str
    shard: str
    offset: int
    size: int


@dataclass(frozen=True)
class ExportedTar:
    """A tar of an export: its name, pairs, bytes, SHA-256, and where each pair now lies: (uid, offset, size)."""

    name: str
    pairs: int
    bytes: int
    sha256: str
    members: tuple[tuple[str, int, int], ...]


def order_key(seed: int, uid: str, copy: int) -> bytes:
    """Return the key by which copy number `copy` of a pair is placed among the others of that number."""
    return hashlib.sha256(f"order:{seed}:{copy}:{uid}".encode()).digest()


def laid_out(times: Mapping[str, int], seed: int, pairs_per_tar: int) -> Iterator[list[str]]:
    """Yield the uids of each tar in their order: first all first copies, shuffled, then all second ones, and so on.

    A tar never holds two copies of a pair, as readers take equal keys side by side for one sample. The pairs of a
    round are spread evenly, so that no tar is much smaller than another.
    """
    for copy in range(max(times.values(), default=0)):
        round_ = sorted(
            (uid for uid, count in times.items() if count > copy), key=lambda uid: order_key(seed, uid, copy)
        )
        tars = -(-len(round_) // pairs_per_tar)
        for number in range(tars):
            yield round_[len(round_) * number // tars : len(round_) * (number + 1) // tars]


class _Shards:
    """Keeps source tars open while ranges are read from them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, BinaryIO] = {}

    def read(self, part: Range) -> bytes:
        stream = self._open.get(part.shard)
        if stream is None:
            stream = self._open[part.shard] = self._store.open(part.shard)
        stream.seek(part.offset)
        data = stream.read(part.size)
        if len(data) != part.size:
            raise OSError(f"{part.shard}: {len(data)} bytes at {part.offset}, the ledger says {part.size}")
        return data

    def close(self) -> None:
        for stream in self._open.values():
            stream.close()


def write_tar(store: Store, folder: str, number: int, ranges: Iterable[Range]) -> ExportedTar:
    """Copy the ranges into `folder`/<number>.tar in their order; nothing is decoded."""
    name = f"{number:08d}.tar"
    shards = _Shards(store)
    members = []
    try:
        with store.create(f"{folder}/{name}") as stream:
            writer = ShardWriter(stream)
            for part in ranges:
                members.append((part.uid, writer.append(shards.read(part)), part.size))
            sha256 = writer.close()
    finally:
        shards.close()
    return ExportedTar(name, len(members), writer.bytes, sha256, tuple(members))


def export_digest(tars: Sequence[Mapping[str, Any]]) -> str:
    """Return SHA-256 over the tars' names and SHA-256s: what an export is known by."""
    lines = "".join(f"{tar['sha256']}  {tar['tar']}\n" for tar in sorted(tars, key=lambda tar: tar["tar"]))
    return hashlib.sha256(lines.encode()).hexdigest()


def manifest(mixture: str, job: str, inputs: Mapping[str, Any], tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `manifest.json`: each tar's pairs, bytes and SHA-256, and the jobs the mixture came from."""
    body = {
        "mixture": mixture,
        "job": job,
        "inputs": dict(inputs),
        "pairs": sum(tar["pairs"] for tar in tars),
        "digest": export_digest(tars),
        "tars": {tar["tar"]: {key: tar[key] for key in ("pairs", "bytes", "sha256")} for tar in tars},
    }
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def sizes(tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `sizes.json`, from which open_clip_train knows how many pairs each tar holds."""
    return (json.dumps({tar["tar"]: tar["pairs"] for tar in tars}, indent=1, sort_keys=True) + "\n").encode()


def croissant(title: str, mixture: str, licences: Mapping[str, str], tars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `croissant.json`: the export as a Croissant 1.0 dataset of tars (https://docs.mlcommons.org/croissant)."""
    context = {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "conformsTo": "dct:conformsTo",
    }
    files = [
        {
            "@type": "cr:FileObject",
            "@id": tar["tar"],
            "name": tar["tar"],
            "contentUrl": tar["tar"],
            "contentSize": f"{tar['bytes']} B",
            "encodingFormat": "application/x-tar",
            "sha256": tar["sha256"],
        }
        for tar in tars
    ]
    body = {
        "@context": context,
        "@type": "sc:Dataset",
        "name": mixture,
        "description": f"{title}: {sum(tar['pairs'] for tar in tars)} image-text pairs as WebDataset tars.",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": sorted(set(licences.values())),
        "distribution": files,
    }
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
