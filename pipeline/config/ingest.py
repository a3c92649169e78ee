"""The sections `sources` and `ingest` of the experiment file."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.config.base import ConfigSection, Count
from pipeline.config.networks import allowed_network


class SourceConfig(ConfigSection):
    """A published source: its format, its files, and what is known of its terms; what is not known is `unknown`."""

    format: str
    """Format of the files, a name of `sources.registry`. Required. Example: `laion`."""

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    """Published files: globs of local paths or `s3://` URLs. Required, at least one.
    Example: `[/data/laion400m/*.parquet]`."""

    options: dict[str, Any] = {}
    """Options of the format, such as a map of columns. Default: none.
    Example: `{kind: tsv, columns: {url: image_url, caption: title}}`."""

    joined: tuple[str, ...] = ()
    """Files (globs) that the rows are joined to, for a format that lists rows of another one, as YFCC15M lists rows of
    YFCC100M. Default: none. Example: `[/data/yfcc100m/*.bz2]`."""

    licence: str = "unknown"
    """Licence of the source, as its publisher states it. Default: `unknown`. Example: `CC BY-SA 3.0`."""

    terms: str = "unknown"
    """Terms of use of the source, in words or as a URL. Default: `unknown`. Example: `research use only`."""

    snapshot: str = "unknown"
    """Date or version of the published files. Default: `unknown`. Example: `"2026-11-01"`."""

    citation: str = ""
    """What to cite for the source. Default: empty. Example: `"PACS, Li et al. 2017: photo"`."""


class ResizeConfig(ConfigSection):
    """How an image is resized before it is stored, by img2dataset's modes. Images are never enlarged."""

    mode: Literal["none", "keep_ratio", "keep_ratio_largest", "center_crop", "border"] = "keep_ratio"
    """Resize mode of img2dataset; `none` stores the unchanged bytes of a JPEG. Default: `keep_ratio`. Example:
    `none`."""

    size: Count = 256
    """Target side length, in pixels: of the shorter side with `keep_ratio`, of the longer with `keep_ratio_largest`.
    Default: `256`. Example: `512`."""

    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """JPEG quality, from 1 to 100. Default: `95`. Example: `85`."""

    min_side: Annotated[int, Field(ge=1)] = 16
    """Smallest allowed shorter side of a fetched image, in pixels; smaller images are not stored. Default: `16`.
    Example: `64`."""


class HostLimitConfig(ConfigSection):
    """Rate limit of one host."""

    at_once: Count | None = 8
    """Most requests in flight at once; null is no limit. Default: `8`. Example: `16`."""

    per_second: Annotated[float, Field(gt=0)] | None = 10.0
    """Most new requests a second; null is no limit. Default: `10`. Example: `0.5`."""


class IngestConfig(ConfigSection):
    """How images are fetched and stored. Times are in seconds, sizes in bytes and pixels."""

    user_agent: str = "cuvee/0.1"
    """User agent of the requests; the part before the first "/" is the name that robots.txt and X-Robots-Tag are
    matched against. Default: `cuvee/0.1`. Example: `"yourname/1.0 (+https://example.org/crawler)"`."""

    timeout: Annotated[float, Field(gt=0)] = 20.0
    """Seconds for one attempt at one image, redirects included, waiting for the rate limit excluded. Default: `20`.
    Example: `10`."""

    shard_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds for a shard, on top of what the hosts' rate limits require; images not fetched by then have the outcome
    `out_of_time`. Default: `3600`. Example: `7200`."""

    attempts: Count = 3
    """Most attempts at one image, the first included; only transient failures are tried again. Default: `3`. Example:
    `1`."""

    back_off: Annotated[float, Field(ge=0)] = 0.5
    """Seconds before the second attempt, doubled before each further one, each randomly between half and one and a half
    times that. Default: `0.5`. Example: `2`."""

    max_wait: Annotated[float, Field(ge=0)] = 60.0
    """Longest wait in seconds that a site may ask for (Retry-After, Crawl-delay); beyond it the image is not tried
    again in this run. Default: `60`. Example: `300`."""

    max_bytes: Count = 16 << 20
    """Largest body of an image, in bytes. Default: `16777216` (16 MiB). Example: `4194304`."""

    max_pixels: Count = 100_000_000
    """Largest image, in pixels (width times height) as its header states them, checked before decoding. Default:
    `100000000`. Example: `40000000`."""

    max_redirects: Annotated[int, Field(ge=0)] = 5
    """Most redirects of one attempt. Default: `5`. Example: `2`."""

    max_in_flight: Count = 256 << 20
    """Most bytes of bodies that a task holds in memory at once. Default: `268435456` (256 MiB). Example:
    `1073741824`."""

    concurrency: Count = 64
    """Most requests in flight in a task, over all hosts. Default: `64`. Example: `256`."""

    per_host: HostLimitConfig = HostLimitConfig()
    """Rate limit of every host that no pattern of `host_limits` names, over the whole run. Default:
    `{at_once: 8, per_second: 10}`. Example: `{at_once: 16, per_second: 500}`."""

    host_limits: dict[str, HostLimitConfig] = {}
    """Rate limits by host pattern, in place of `per_host`; the first pattern that matches counts. Default: none.
    Example: `{"*.our-mirror.example": {at_once: null, per_second: null}}`."""

    hosts: dict[str, str] = {}
    """Host patterns mapped to `address:port`, as curl's --connect-to; the address is allowed thereby. Default: none.
    Example: `{"*.yfcc.test": "127.0.0.1:8080"}`."""

    allow: tuple[str, ...] = ()
    """Networks that may be reached although they are not globally routable, with or without a port; all others are
    refused. Default: none. Example: `[10.1.0.0/16, "127.0.0.0/8:8080"]`."""

    robots_txt: bool = True
    """Whether robots.txt is obeyed, Crawl-delay included. Default: `true`. Example: `false`."""

    refuse: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "noml")
    """Directives of the header X-Robots-Tag, in lower case, each of which is a refusal. Default:
    `[noai, noimageai, noindex, noimageindex, noml]`. Example: `[noai, noimageai]`."""

    tdm_reservation: bool = True
    """Whether the header `tdm-reservation: 1` (TDM Reservation Protocol) is a refusal. Default: `true`. Example:
    `false`."""

    content_usage: tuple[str, ...] = ("train-ai", "ai", "bots", "all")
    """Categories of the header Content-Usage (AIPREF) that are obeyed, the most specific first: the first that is
    stated decides. Default: `[train-ai, ai, bots, all]`. Example: `[]`, the header is ignored."""

    malformed_rows: Annotated[int, Field(ge=0)] | None = None
    """Most unreadable rows that a source may have; with more the stage ends with an error before anything is written.
    Each unreadable row is an outcome in any case. Default: null, any number. Example: `100`."""

    pairs_per_shard: Count = 10_000
    """Nominal pairs in one stored shard. Default: `10000`. Example: `400`."""

    part_bytes: Count = 64 << 20
    """Bytes of a published file that one task reads, for formats that can be cut. Default: `67108864` (64 MiB).
    Example: `268435456`."""

    resize: ResizeConfig = ResizeConfig()
    """How images are resized. Default: `{mode: keep_ratio, size: 256, quality: 95, min_side: 16}`.
    Example: `{mode: none}`."""

    @field_validator("allow")
    @classmethod
    def _valid_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for text in networks:
            try:
                allowed_network(text)
            except ValueError:
                raise ValueError(
                    f"expected a network such as 10.1.0.0/16 or 127.0.0.0/8:8080, found {text!r}"
                ) from None
        return networks


RESULT_NEUTRAL_KEYS = frozenset(
    {
        *("hosts", "allow", "concurrency", "per_host", "host_limits", "max_wait", "shard_seconds", "max_in_flight"),
        *("malformed_rows", "part_bytes"),
    }
)
"""Keys of `IngestConfig` that determine when and how an image is reached, not what is stored: they may change between a
run and its resumption."""
