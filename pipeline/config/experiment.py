"""The experiment file: frozen, checked when it is built, unknown keys refused with the choices.

What a source, a signal or a filter may be is the business of those floors; here their settings are plain mappings, and
`jobs.workflow.experiment` checks them against the registries. Paths are relative to the folder in which the command
runs. `pipeline.config.loader` reads it.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Count, Name, Section
from pipeline.config.evaluation import Evaluation
from pipeline.config.ingest import Ingest, Source
from pipeline.config.mixture import Export, Mixture
from pipeline.config.training import Training
from pipeline.core.redaction import holds_secret


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
