"""The facts of an export for its documents, as plain data that is stored in the ledger, and the sentences they share.

No data of single pairs is in them: no caption, URL or uid. Names, licences, citations and filters come from the
experiment file; counts and reasons from the ledger.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class SourceFacts(TypedDict):
    """A source: its keys in the experiment file, and its number of pairs in the export, without copies."""

    format: str
    licence: str
    terms: str
    snapshot: str
    citation: str
    pairs: int


class PartFacts(TypedDict):
    """A part of the mixture: its share, if any, and its number of pairs with copies (`pairs`) and without."""

    name: str
    share: float | None
    pairs: int
    distinct: int


class FilterFacts(TypedDict):
    """A filter that the mixture depends on, with its rule as text."""

    name: str
    rule: str


class SignalFacts(TypedDict):
    """A signal that the filters or parts read; `model` is "" where it needs none."""

    name: str
    kind: str
    model: str


class DatasetFacts(TypedDict):
    """All facts of the documents except those about the tars. `funnel` is `SourceFunnel.plain` of each source.

    `ingest` holds the experiment's settings for fetching and storing. `inputs` names the jobs and table versions that
    the export came from; `factors` has the upsampling factor of each tar, where pairs are repeated by weights.
    """

    title: str
    mixture: str
    job: str
    inputs: dict[str, Any]
    sources: dict[str, SourceFacts]
    parts: list[PartFacts]
    filters: list[FilterFacts]
    signals: list[SignalFacts]
    funnel: list[dict[str, Any]]
    ingest: dict[str, Any]
    mismatched: bool
    contact: str
    factors: dict[str, float]


TarRows = Sequence[Mapping[str, Any]]
"""Each with `tar`, `pairs`, `bytes` and `sha256`."""


_RESPECTED_OPT_OUTS = {
    "robots_txt": "robots.txt",
    "refuse": "X-Robots-Tag",
    "tdm_reservation": "the TDM Reservation Protocol",
    "content_usage": "Content-Usage preferences",
}


def describe_collection(about: DatasetFacts) -> str:
    """Return how the pairs were collected."""
    respected = [name for key, name in _RESPECTED_OPT_OUTS.items() if about["ingest"].get(key)]
    opt_out_sentence = (
        f"Opt-outs of the sites were read first and respected: {', '.join(respected)}." if respected else ""
    )
    return (
        "Each pair is a row that a source published: an image, by its URL or in the published file, and a caption. "
        f"An image with a URL was fetched from there. {opt_out_sentence}"
    ).strip()


def describe_storing(about: DatasetFacts) -> str:
    """Return how images were processed before they were stored."""
    resize = about["ingest"].get("resize", {})
    resizing = f", resized ({resize['mode']}, {resize['size']} pixels)" if resize.get("mode", "none") != "none" else ""
    unchanged = "" if resizing else "; a JPEG that needed neither was kept as it came"
    quality = f" of quality {resize['quality']}" if "quality" in resize else ""
    return (
        f"Images were set upright{resizing} and stored as JPEG{quality}{unchanged}. Faces were blurred where a source "
        "publishes boxes."
    )


def describe_missing(about: DatasetFacts) -> str:
    """Return how many published rows were stored, and why the others were not."""
    published = sum(source_funnel["published"] for source_funnel in about["funnel"])
    dropped: Counter[str] = Counter()
    for source_funnel in about["funnel"]:
        for step in source_funnel["stages"][:1]:
            dropped.update(step["dropped"])
    by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items(), key=lambda x: (-x[1], x[0])))
    dropped_clause = f"; the rest by reason: {by_reason}" if by_reason else ""
    return f"Of {published} published rows, {published - sum(dropped.values())} were stored as pairs{dropped_clause}."


def describe_removal(contact: str) -> str:
    """Return how to ask for an image's removal; `contact` is "" where the experiment file names none."""
    recipient = contact or "whoever gave you this data (the experiment file names no contact)"
    return (
        f"To have an image removed, write to {recipient} and give its URL, its SHA-256 or its uid. "
        "The command cuvee takedown removes a pair and its near copies from shards, exports and tables, refuses it in "
        "later ingests, and names the models that were trained on it."
    )


def known_limits(about: DatasetFacts) -> list[str]:
    """Return the known limitations."""
    sentences = [
        "Captions are as published: nobody checked that they describe their images.",
        "An image is what its URL gave at the time of ingest, which may not be what the source saw.",
        "Licences and terms are what the sources say of themselves; those of single images may differ.",
        "The web shows people, places and languages unevenly; the mixture inherits this from its sources and filters.",
    ]
    if not about["filters"]:
        sentences.append("No filter was applied: unsafe, wrong and repeated pairs are to be expected.")
    if about["mismatched"]:
        sentences.append("Images that differ from the hash that their source publishes are in it.")
    if any(part["pairs"] > part["distinct"] for part in about["parts"]):
        sentences.append("Some pairs are repeated, as a part of the mixture was short of its share.")
    return sentences


def describe_people(about: DatasetFacts) -> str:
    """Return what is known about personal and sensitive information."""
    return (
        "Images and captions of the web may show or name people. Beyond the face boxes that sources publish, and the "
        "filters named here, nothing was done to find or remove them."
    )


def describe_signal(signal: SignalFacts) -> str:
    """Return a signal's name with its kind and model."""
    model = f", {signal['model']}" if signal["model"] else ""
    return f"{signal['name']} ({signal['kind']}{model})"


def licences(about: DatasetFacts) -> list[str]:
    """Return the distinct licences of the sources, sorted."""
    return sorted({source["licence"] for source in about["sources"].values()})


def citations(about: DatasetFacts) -> list[str]:
    """Return the distinct citations, in the order of the sources."""
    return list(dict.fromkeys(source["citation"] for source in about["sources"].values() if source["citation"]))
