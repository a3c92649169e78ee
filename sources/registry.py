"""The published formats by name, sorted; each is imported when it is first used."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, cast

from pipeline.errors import InputError, unknown_message
from pipeline.records import SourceFormat

FORMATS: dict[str, str] = {
    "cc12m": "sources.url_caption:CC12M",
    "cc3m": "sources.url_caption:CC3M",
    "coyo": "sources.coyo:Coyo",
    "datacomp": "sources.datacomp:DataComp",
    "laion": "sources.laion:Laion",
    "redcaps": "sources.redcaps:RedCaps",
    "sbu": "sources.sbu:Sbu",
    "shutterstock": "sources.url_caption:Shutterstock",
    "table": "sources.table:Table",
    "wat": "sources.wat:Wat",
    "webdataset": "sources.webdataset:WebDataset",
    "wit": "sources.wit:Wit",
    "yfcc": "sources.yfcc:Yfcc",
    "yfcc15m": "sources.yfcc15m:Yfcc15M",
    "yfcc_pairs": "sources.url_caption:YfccPairs",
}


def source_format(name: str, options: Mapping[str, Any] | None = None) -> SourceFormat:
    """Return the reader of a published format; raise InputError for an unknown format or an invalid option.

    A reader is a frozen dataclass: its fields are its options, whose values it checks on construction.
    """
    if name not in FORMATS:
        raise InputError(unknown_message("source format", name, FORMATS))
    module, _, attribute = FORMATS[name].partition(":")
    reader = getattr(import_module(module), attribute)
    known = [field.name for field in fields(reader)] if is_dataclass(reader) else []
    for key in options or {}:
        if key not in known:
            raise InputError(f"options.{key}: {unknown_message(f'option of {name}', key, known)}")
    try:
        return cast(SourceFormat, reader(**(options or {})))
    except TypeError as error:  # a field without a default is missing
        raise InputError(f"options: {error}") from None


def source_entry(name: str) -> str:
    """Return a format's reader as module:name, a root of the code of the job that uses it."""
    return FORMATS[name]
