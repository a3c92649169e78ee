"""The experiment file: frozen, checked when it is built, unknown keys refused with the choices.

What a source, a signal or a filter may be is the business of those floors; here their settings are plain mappings,
and `jobs.experiment` checks them against the registries. Paths are relative to the folder in which the command runs.
`pipeline.config_file` reads it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.addresses import allowed_network
from pipeline.evaluation_section import Evaluation
from pipeline.identity import holds_secret
from pipeline.section import Count, Name, Section, Share
from pipeline.slurm_section import Slurm
from pipeline.tuning_section import Tuning


class Spark(Section):
    """Where the Spark jobs run. `memory` is the driver's (and, on one machine, everything's)."""

    master: str = "local[2]"
    memory: str = "2g"
    conf: dict[str, str] = {}


class Web(Section):
    """A small web of our own, published and served on loopback: the demo's drawn world, or real images in tars.

    Of the world: `pairs` rows for each source but for those that `sizes` names.
    """

    kind: Literal["world", "domains"]
    folder: str
    seed: int = 7
    pairs: Count = 600
    sizes: dict[str, Count] = {}
    evaluation_images: Count = 500
    tars: str = ""


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


class Trained(Section):
    """A model that the experiment trains itself, on one of its own mixtures."""

    mixture: str
    samples_seen: Count


class Model(Section):
    """A CLIP model: open_clip's name and tag, a folder in `local-dir:` form, or one that is trained first."""

    name: str = ""
    pretrained: str = ""
    folder: str = ""
    trained: Trained | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        if sum(map(bool, (self.name, self.folder, self.trained))) != 1:
            raise ValueError("expected exactly one of name (with pretrained), folder, trained")
        if bool(self.name) != bool(self.pretrained):
            raise ValueError("name and pretrained go together, as in ViT-B-32 and laion2b_s34b_b79k")
        return self


class Part(Section):
    """A part of a mixture: the pairs of `sources` that `filter` keeps and `dropped_by` drops, or all that are there.

    `by` names a signal's column: only pairs are in the part for which it is one of `values`, or a number from `least`
    on and below `below`. `share` is in proportion to the other parts'.
    """

    name: str = ""
    share: Share | None = None
    sources: tuple[str, ...] = ()
    filter: str = ""
    dropped_by: str = ""
    by: str = ""
    values: tuple[str, ...] = ()
    least: float | None = None
    below: float | None = None


class Mixture(Section):
    """Shares of the pairs that `filter` keeps, of `sources` or all. `total` is a number of pairs, or "all" there are.

    `shares` are by source; by the values of a signal's column, where `by` names one; or a list, one for each of the
    ranges into which `buckets` cut its numbers, from the lowest. Or the mixture is a list of `parts`, and a pair is in
    the first that takes it. Without shares, every source or part gives what it has. `uids` names a file of uids, as
    text or as a subset of DataComp's, beyond which nothing is taken; `missing` of them need not be stored.
    `pipeline.parts` checks how these go together.

    When a part is short of its share, `shortage` says what happens: the job fails, all shrink in proportion, or pairs
    are repeated at most `repeat` times each, by `copies` in the export or by `weights` for its reader. Images that
    are not what their source says they are, by its hash, are drawn only where `mismatched` says so.
    """

    filter: str = ""
    sources: tuple[str, ...] = ()
    by: str = ""
    buckets: tuple[float, ...] = ()
    shares: dict[str, Share] | tuple[Share, ...] = {}
    parts: tuple[Part, ...] = ()
    uids: str = ""
    missing: Annotated[int, Field(ge=0)] = 0
    total: Count | Literal["all"] = "all"
    shortage: Literal["fail", "shrink", "repeat"] = "fail"
    repeat: Count = 1
    repeat_as: Literal["copies", "weights"] = "copies"
    mismatched: bool = False

    @model_validator(mode="after")
    def _sources_once(self) -> "Mixture":
        if self.sources and self.shares and not self.by:
            raise ValueError("expected sources or shares, found both")
        return self


class Export(Section):
    """`pairs_per_tar` pairs go into a tar; `train` needs at least as many tars as it has loader workers.

    `contact` is where to ask for an image's removal, for the data card.
    """

    pairs_per_tar: Count = 10_000
    contact: str = ""


class Training(Section):
    """One recipe for all mixtures, each with each of `sizes` (pairs; none: whole) and `seeds`.

    Of every mixture `samples_seen` are seen, in `checkpoints` equal parts, or `epochs` passes are made over each; a run
    that was stopped goes on from its last whole part or pass. `parallel` trainings run at once, each in `processes` of
    `threads` that share `batch_size`. `device` auto is cuda where torch sees one; `precision` is open_clip's, or auto:
    amp_bf16 where it is quick, else fp32. `flags` go to open_clip_train, `model` holds `open_clip_config.json`. With
    `slurm` each training is a task of a Slurm job array, and `parallel` means nothing. With `tuning`, numbers of the
    recipe are searched for each mixture first.
    """

    model: str
    mixtures: Annotated[tuple[str, ...], Field(min_length=1)]
    sizes: tuple[Count, ...] = ()
    samples_seen: Count | None = None
    epochs: Count | None = None
    checkpoints: Count = 1
    batch_size: Count = 128
    lr: Annotated[float, Field(gt=0)] = 1e-3
    wd: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 30
    precision: Literal["auto", "fp32", "amp", "amp_bf16", "bf16"] = "fp32"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Count = 1
    parallel: Count = 1
    threads: Count = 2
    flags: dict[str, str | int | float | bool] = {}
    slurm: Slurm | None = None
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> "Training":
        if (self.samples_seen is None) == (self.epochs is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected exactly one of samples_seen and epochs, found {found}")
        if self.slurm and self.device == "cuda" and self.slurm.gpus < self.processes:
            raise ValueError(f"slurm.gpus: expected {self.processes}, one for each process, found {self.slurm.gpus}")
        return self


class Report(Section):
    """What the report dwells on: the filter whose decisions the funnel and the examples show, and the mixtures on whose
    models the line is fitted that effective robustness is measured from; none are all.
    """

    filter: str
    baseline: tuple[str, ...] = ()
    examples: Annotated[int, Field(ge=0, le=200)] = 24


class Metrics(Section):
    """Where Prometheus finds the figures of finished jobs and runs: a file for node_exporter's textfile collector, of
    one experiment alone, or the URL of a push gateway, or both. None of it shapes a result.
    """

    file: Annotated[str, Field(pattern=r"^$|[^/]\.prom$")] = ""
    gateway: str = ""

    @field_validator("gateway")
    @classmethod
    def _plain_url(cls, given: str) -> str:
        if given and (not given.startswith(("http://", "https://")) or holds_secret(given) or set(given) & set("?#")):
            raise ValueError("expected a URL such as http://127.0.0.1:9091, without a user, a query or a key in it")
        return given


class ExperimentFile(Section):
    """The whole file."""

    title: str
    question: str
    store: str
    seed: int = 0
    spark: Spark = Spark()
    web: Web | None = None
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    ingest: Ingest = Ingest()
    evaluation: Evaluation
    models: dict[Name, Model] = {}
    signals: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    filters: dict[Name, dict[str, Any]] = {}
    mixtures: Annotated[dict[Name, Mixture], Field(min_length=1)]
    export: Export = Export()
    training: Training
    report: Report
    metrics: Metrics = Metrics()
