"""The published formats by name, sorted; each is imported when it is asked for."""

from importlib import import_module
from typing import cast

from pipeline.errors import InputError, unknown
from pipeline.records import SourceFormat

FORMATS: dict[str, str] = {
    "cc12m": "sources.url_caption:CC12M",
    "laion": "sources.laion:Laion",
    "redcaps": "sources.redcaps:RedCaps",
    "shutterstock": "sources.url_caption:Shutterstock",
    "wit": "sources.wit:Wit",
    "yfcc": "sources.yfcc:Yfcc",
}


def source_format(name: str) -> SourceFormat:
    """Return the reader of a published format; raise InputError with the choices where there is none."""
    if name not in FORMATS:
        raise InputError(unknown("source format", name, FORMATS))
    module, _, attribute = FORMATS[name].partition(":")
    return cast(SourceFormat, getattr(import_module(module), attribute)())
