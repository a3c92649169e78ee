"""The sections `sources` and `ingest` of the experiment file."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.config.base import Count, Section
from pipeline.config.networks import allowed_network


class Source(Section):
    """A published source: its format, its files (globs), and what is known of its terms. `unknown` is said so.

    `options` are the format's own (a column map, say). `joined` are the files that the rows are joined to, for a format
    that is a list of another's rows (YFCC15M's of YFCC100M's).
    """

    format: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    options: dict[str, Any] = {}
    joined: tuple[str, ...] = ()
    licence: str = "unknown"
    terms: str = "unknown"
    snapshot: str = "unknown"
    citation: str = ""


class Resize(Section):
    """img2dataset's resize modes; `size` in pixels; images are never enlarged. `none` keeps a JPEG's very bytes."""

    mode: Literal["none", "keep_ratio", "keep_ratio_largest", "center_crop", "border"] = "keep_ratio"
    size: Count = 256
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    min_side: Annotated[int, Field(ge=1)] = 16


class PerHost(Section):
    """How a host is asked: requests in flight at once and new ones a second; null is no limit."""

    at_once: Count | None = 8
    per_second: Annotated[float, Field(gt=0)] | None = 10.0


class Ingest(Section):
    """How images are fetched and stored. Times in seconds, sizes in bytes and pixels.

    `timeout` is for one attempt at one image, `shard_seconds` for a shard on top of what the hosts' limits ask for,
    `max_wait` the longest wait that a site may ask for (Retry-After, Crawl-delay). `per_host` holds for every host but
    those that a pattern in `host_limits` names. `hosts` maps host patterns to an address, and `allow` lists networks
    inside that may be reached; all others inside are refused. Of what sites say, `robots_txt`, `refuse`
    (X-Robots-Tag), `tdm_reservation` and `content_usage` (AIPREF's categories, the most specific first) are obeyed.
    `malformed_rows` is how many unreadable rows a source may have, null for any number: each of them is an outcome.
    """

    user_agent: str = "cuvee/0.1"
    timeout: Annotated[float, Field(gt=0)] = 20.0
    shard_seconds: Annotated[float, Field(gt=0)] = 3600.0
    attempts: Count = 3
    back_off: Annotated[float, Field(ge=0)] = 0.5
    max_wait: Annotated[float, Field(ge=0)] = 60.0
    max_bytes: Count = 16 << 20
    max_pixels: Count = 100_000_000
    max_redirects: Annotated[int, Field(ge=0)] = 5
    max_in_flight: Count = 256 << 20
    concurrency: Count = 64
    per_host: PerHost = PerHost()
    host_limits: dict[str, PerHost] = {}
    hosts: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    robots_txt: bool = True
    refuse: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "noml")
    tdm_reservation: bool = True
    content_usage: tuple[str, ...] = ("train-ai", "ai", "bots", "all")
    malformed_rows: Annotated[int, Field(ge=0)] | None = None
    pairs_per_shard: Count = 10_000
    part_bytes: Count = 64 << 20
    resize: Resize = Resize()

    @field_validator("allow")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            try:
                allowed_network(text)
            except ValueError:
                raise ValueError(
                    f"expected a network such as 10.1.0.0/16 or 127.0.0.0/8:8080, found {text!r}"
                ) from None
        return given


WHEN_NOT_WHAT = frozenset(
    {
        *("hosts", "allow", "concurrency", "per_host", "host_limits", "max_wait", "shard_seconds", "max_in_flight"),
        *("malformed_rows", "part_bytes"),
    }
)
"""Keys of `Ingest` that say when and how an image is reached, not what is stored: they can change between a run and its
resumption."""
