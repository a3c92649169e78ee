"""The experiment file: frozen, validated when it is built; an unknown key is refused and the known ones are listed.

The valid sources, signals and filters are known to the packages above; here their settings are plain mappings, which
`jobs.workflow.experiment` checks against the registries. Paths are relative to the folder in which the command runs.
`pipeline.config.loader` reads the file.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import ConfigSection, Count, Name
from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.ingest import IngestConfig, SourceConfig
from pipeline.config.mixture import ExportConfig, MixtureConfig
from pipeline.config.training import TrainingConfig
from pipeline.core.redaction import holds_secret


class SparkConfig(ConfigSection):
    """Where the Spark jobs run."""

    master: str = "local[2]"
    """Spark master URL. Default: `local[2]`, two cores of this machine. Example: `"spark://host:7077"`."""

    memory: str = "2g"
    """Memory of the driver; with a local master, of everything. Default: `2g`. Example: `16g`."""

    conf: dict[str, str] = {}
    """Further Spark configuration. Default: none. Example: `{spark.executor.memory: 8g}`."""


class DemoWebConfig(ConfigSection):
    """A small web that Cuvée publishes itself and serves on loopback, for demos and tests."""

    kind: Literal["world", "domains"]
    """Kind of web: `world`, images that are drawn, or `domains`, real images from tars. Required. Example: `world`."""

    folder: str
    """Folder in which the web is published. Required. Example: `build/demo/web`."""

    seed: int = 7
    """Random seed of the web. Default: `7`. Example: `1`."""

    pairs: Count = 600
    """Published rows of each source of the kind `world` that `sizes` does not name. Default: `600`. Example: `2000`."""

    sizes: dict[str, Count] = {}
    """Published rows by source, of the kind `world`, in place of `pairs`. Default: none.
    Example: `{yfcc: 3000, wit: 3000}`."""

    evaluation_images: Count = 500
    """Images of each evaluation set, of the kind `world`. Default: `500`. Example: `200`."""

    tars: str = ""
    """Folder of the WebDataset tars with the images of the kind `domains`. Default: empty. Example: `data/domains`."""


class TrainedModelConfig(ConfigSection):
    """A model that the experiment trains itself, on one of its own mixtures."""

    mixture: str
    """Name of the mixture to train on, a key of the section `mixtures`. Required. Example: `clean_slice`."""

    samples_seen: Count
    """Samples that the training sees in total. Required. Example: `12800`."""


class ModelConfig(ConfigSection):
    """A CLIP model that scores pairs or is evaluated. Exactly one of `name`, `folder` and `trained` is required."""

    name: str = ""
    """Model name of open_clip, together with `pretrained`. Default: empty. Example: `ViT-B-32`."""

    pretrained: str = ""
    """Tag of open_clip's pretrained weights, together with `name`. Default: empty. Example: `laion2b_s34b_b79k`."""

    folder: str = ""
    """Folder in open_clip's `local-dir:` form, with `open_clip_config.json` and weights. Default: empty.
    Example: `/models/ours`."""

    trained: TrainedModelConfig | None = None
    """Train the model first, on a mixture of this experiment. Default: null.
    Example: `{mixture: clean_slice, samples_seen: 12800}`."""

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelConfig":
        if sum(map(bool, (self.name, self.folder, self.trained))) != 1:
            raise ValueError("expected exactly one of name (with pretrained), folder, trained")
        if bool(self.name) != bool(self.pretrained):
            raise ValueError("name and pretrained go together, as in ViT-B-32 and laion2b_s34b_b79k")
        return self


class ReportConfig(ConfigSection):
    """What the report shows in detail."""

    filter: str
    """Filter whose decisions the funnel and the examples show. Required. Example: `filtered`."""

    baseline: tuple[str, ...] = ()
    """Mixtures on whose models the baseline of effective robustness is fitted. Default: empty, all mixtures.
    Example: `[photo]`."""

    examples: Annotated[int, Field(ge=0, le=200)] = 24
    """Number of example pairs, from 0 to 200. Default: `24`. Example: `60`."""


class MetricsConfig(ConfigSection):
    """Where the metrics of finished jobs and runs go for Prometheus: to a file, a push gateway, or both.

    Nothing here changes a result.
    """

    file: Annotated[str, Field(pattern=r"^$|[^/]\.prom$")] = ""
    """File for node_exporter's textfile collector, ending in `.prom`, used by this experiment alone. Default: empty, no
    file. Example: `/var/lib/node_exporter/cuvee.prom`."""

    gateway: str = ""
    """URL of a Prometheus push gateway, without user, query and key. Default: empty, none.
    Example: `http://127.0.0.1:9091`."""

    @field_validator("gateway")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if url and (not url.startswith(("http://", "https://")) or holds_secret(url) or set(url) & set("?#")):
            raise ValueError("expected a URL such as http://127.0.0.1:9091, without a user, a query or a key in it")
        return url


class ExperimentFile(ConfigSection):
    """A whole experiment file."""

    title: str
    """Title of the experiment, for the report. Required. Example: `Six web sources, filtered and mixed`."""

    question: str
    """Question that the experiment answers, for the report. Required.
    Example: `Which filter gives the most robust model?`."""

    store: str
    """Root of the store: a folder or a URL of a bucket. Required. Example: `s3://bucket/prefix`."""

    seed: int = 0
    """Random seed of samples, mixtures and orders. Default: `0`. Example: `2022`."""

    spark: SparkConfig = SparkConfig()
    """Where the Spark jobs run. Default: two cores and 2 GB of this machine.
    Example: `{master: "local[8]", memory: 16g}`."""

    web: DemoWebConfig | None = None
    """A small web that is published and served locally, for demos. Default: null, none.
    Example: `{kind: world, folder: build/demo/web}`."""

    sources: Annotated[dict[Name, SourceConfig], Field(min_length=1)]
    """Published sources by name. Required, at least one.
    Example: `{laion: {format: laion, files: [/data/*.parquet]}}`."""

    ingest: IngestConfig = IngestConfig()
    """How images are fetched and stored. Default: the defaults of its keys. Example: `{pairs_per_shard: 400}`."""

    evaluation: EvaluationConfig
    """What the models are evaluated on. Required. Example: `{reference: photo, sets: {photo: sets/photo}}`."""

    models: dict[Name, ModelConfig] = {}
    """CLIP models by name, which signals and `evaluation.models` refer to. Default: none.
    Example: `{b32: {name: ViT-B-32, pretrained: laion2b_s34b_b79k}}`."""

    signals: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    """Signals to compute, by a name that ends in a version; settings are those of the signal's kind, which `kind` names
    where the name without its version does not. Required, at least one.
    Example: `{caption_v1: null, clip_b32_v1: {kind: clip, model: b32}}`."""

    filters: dict[Name, dict[str, Any]] = {}
    """Filters over the signals, by name; each is one rule with its settings. Default: none.
    Example: `{clip_top: {top_fraction: 0.3, by: clip_b32_v1.similarity}}`."""

    mixtures: Annotated[dict[Name, MixtureConfig], Field(min_length=1)]
    """Mixtures of the stored pairs, by name. Required, at least one.
    Example: `{all_filtered: {filter: filtered}}`."""

    export: ExportConfig = ExportConfig()
    """How mixtures are written as tars. Default: the defaults of its keys. Example: `{pairs_per_tar: 1000}`."""

    training: TrainingConfig
    """The recipe and grid of the trainings. Required.
    Example: `{model: models/resnet, mixtures: [all_filtered], epochs: 32}`."""

    report: ReportConfig
    """What the report shows in detail. Required. Example: `{filter: filtered}`."""

    metrics: MetricsConfig = MetricsConfig()
    """Where metrics go for Prometheus. Default: nowhere. Example: `{gateway: "http://127.0.0.1:9091"}`."""
