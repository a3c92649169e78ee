"""What an export's papers say of it, as plain data that stands in the ledger, and the sentences that they share.

Nothing of a pair is in it: no caption, no URL, no uid. Names, licences, citations and filters are the experiment
file's; counts and reasons are the ledger's.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class AboutSource(TypedDict):
    """A source: what the experiment file says of it, and its pairs in the export, without copies."""

    format: str
    licence: str
    terms: str
    snapshot: str
    citation: str
    pairs: int


class AboutPart(TypedDict):
    """A part of the mixture: its share where it has one, its pairs with copies and without."""

    name: str
    share: float | None
    pairs: int
    distinct: int


class AboutFilter(TypedDict):
    """A filter that the mixture stands on, in words."""

    name: str
    rule: str


class AboutSignal(TypedDict):
    """A signal that one of the filters reads; `model` is "" where it needs none."""

    name: str
    kind: str
    model: str


class About(TypedDict):
    """All that the papers say beyond the tars. `funnel` is `SourceFunnel.plain` of each source.

    `ingest` holds the experiment's rules of fetching and storing. `inputs` names the jobs and tables it came from;
    `factors` the upsampling factor of each tar, where pairs are repeated by weights.
    """

    title: str
    mixture: str
    job: str
    inputs: dict[str, Any]
    sources: dict[str, AboutSource]
    parts: list[AboutPart]
    filters: list[AboutFilter]
    signals: list[AboutSignal]
    funnel: list[dict[str, Any]]
    ingest: dict[str, Any]
    mismatched: bool
    contact: str
    factors: dict[str, float]


Tars = Sequence[Mapping[str, Any]]
"""Each with `tar`, `pairs`, `bytes` and `sha256`."""


_OBEYED = {
    "robots_txt": "robots.txt",
    "refuse": "X-Robots-Tag",
    "tdm_reservation": "the TDM Reservation Protocol",
    "content_usage": "Content-Usage preferences",
}


def collection(about: About) -> str:
    """Return how the pairs came here."""
    obeyed = [name for key, name in _OBEYED.items() if about["ingest"].get(key)]
    asked = f"Sites were asked for their wishes first, and obeyed: {', '.join(obeyed)}." if obeyed else ""
    return (
        "Each pair is a row that a source published: an image, by its URL or in the published file, and a caption. "
        f"An image with a URL was fetched from there. {asked}"
    ).strip()


def storing(about: About) -> str:
    """Return what was done to an image before it was stored."""
    resize = about["ingest"].get("resize", {})
    how = f", resized ({resize['mode']}, {resize['size']} pixels)" if resize.get("mode", "none") != "none" else ""
    kept = "" if how else "; a JPEG that needed neither was kept as it came"
    quality = f" of quality {resize['quality']}" if "quality" in resize else ""
    return (
        f"Images were set upright{how} and stored as JPEG{quality}{kept}. Faces were blurred where a source publishes "
        "boxes."
    )


def missing(about: About) -> str:
    """Return what became of the published rows of which no pair is stored."""
    published = sum(one["published"] for one in about["funnel"])
    dropped: Counter[str] = Counter()
    for one in about["funnel"]:
        for step in one["stages"][:1]:
            dropped.update(step["dropped"])
    by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items(), key=lambda x: (-x[1], x[0])))
    lost = f"; the rest by reason: {by_reason}" if by_reason else ""
    return f"Of {published} published rows, {published - sum(dropped.values())} were stored as pairs{lost}."


def removal(contact: str) -> str:
    """Return how to ask for an image's removal; `contact` is "" where nobody said whom to write to."""
    where = contact or "whoever gave you this data (the experiment file names no contact)"
    return (
        f"To have an image removed, write to {where} and give its URL, its SHA-256 or its uid. "
        "The command cuvee takedown removes a pair and its near copies from shards, exports and tables, refuses it in "
        "later ingests, and names the models that were trained on it."
    )


def limits(about: About) -> list[str]:
    """Return what is known to be wanting."""
    known = [
        "Captions are as published: nobody checked that they describe their images.",
        "An image is what its URL gave at the time of ingest, which may not be what the source saw.",
        "Licences and terms are what the sources say of themselves; those of single images may differ.",
        "The web shows people, places and languages unevenly; the mixture inherits this from its sources and filters.",
    ]
    if not about["filters"]:
        known.append("No filter was applied: unsafe, wrong and repeated pairs are to be expected.")
    if about["mismatched"]:
        known.append("Images that differ from the hash that their source publishes are in it.")
    if any(part["pairs"] > part["distinct"] for part in about["parts"]):
        known.append("Some pairs are repeated, as a part of the mixture was short of its share.")
    return known


def people(about: About) -> str:
    """Return what is known of personal and sensitive information."""
    return (
        "Images and captions of the web may show or name people. Beyond the face boxes that sources publish, and the "
        "filters named here, nothing was done to find or remove them."
    )


def told_signal(signal: AboutSignal) -> str:
    """Return a signal with its kind and its model."""
    model = f", {signal['model']}" if signal["model"] else ""
    return f"{signal['name']} ({signal['kind']}{model})"


def licences(about: About) -> list[str]:
    """Return the sources' licences, each once, sorted."""
    return sorted({one["licence"] for one in about["sources"].values()})


def citations(about: About) -> list[str]:
    """Return what to cite, each once, in the order of the sources."""
    return list(dict.fromkeys(one["citation"] for one in about["sources"].values() if one["citation"]))
