"""Digests of the files that a job reads; they are part of its id."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.digests import stream_sha256
from pipeline.errors import InputError
from pipeline.storage.object_store import error_message, io_errors, open_source


def file_digests(paths: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return name, SHA-256 and size in bytes of each file. `paths` maps paths to names; paths are not in the result.

    Raises InputError where a file cannot be read.
    """
    digests = []
    for path, name in paths.items():
        try:
            with open_source(path) as stream:
                sha256, size = stream_sha256(stream)
        except io_errors() as error:
            raise InputError(f"{path}: cannot be read: {error_message(error)}") from None
        digests.append({"file": name, "sha256": sha256, "bytes": size})
    return digests


def folder_digest(folder: Path) -> str:
    """Return SHA-256 over the names and digests of the files in a folder."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as stream:
                lines.append(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
