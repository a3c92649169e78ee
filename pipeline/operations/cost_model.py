"""A model of the cost of N pairs by stage, from measured rates (`benchmarks/results.json`).

Each figure has the date and the number of cores of its measurement. A cost without a figure is reported as unknown;
nothing is guessed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Figures = Mapping[str, Any]


CORES, GPUS, NETWORK, FIXED, ALONE = "cores", "GPUs", "bandwidth", "start-up", "one core"


PART_BYTES = 8 << 20
"""Bytes of a part of a multipart upload."""


@dataclass(frozen=True)
class StageRate:
    """The duration of a command at N pairs in seconds, fixed + each * N, on `cores` cores, and the source."""

    fixed: float
    each: float
    cores: int
    source: str

    def core_seconds(self, pairs: float) -> float:
        """Return the core-seconds of N pairs, without the fixed part."""
        return self.each * pairs * self.cores


@dataclass(frozen=True)
class Cluster:
    """A cluster: cores, GPUs, and the total bytes per second between the cluster, the web and the store."""

    cores: int
    gpus: int
    bandwidth: float


@dataclass(frozen=True)
class CostScope:
    """The work of an experiment per pair, with assumed shares of the published rows and sizes in bytes.

    `stored` is the share with a stored image, `drawn` the share in each mixture, by name. `fetched_bytes` is the size
    of an image as fetched, `pair_bytes` that of a stored pair. `signals` are the kinds of signals over shards, `corpus`
    those over all pairs; `clip` is the number of CLIP signals. `trainings` is the number of trained models, `evaluated`
    the number of images that all models are evaluated on in total.
    """

    stored: float
    drawn: Mapping[str, float]
    fetched_bytes: float
    pair_bytes: float
    pairs_per_shard: int
    pairs_per_tar: int
    filters: int
    signals: tuple[str, ...]
    corpus: tuple[str, ...]
    clip: int
    samples_seen: int
    trainings: int
    evaluated: int


@dataclass
class StageCost:
    """The cost of a stage; a number is None where a rate is missing, and `unknown` says which one."""

    stage: str
    core_hours: float | None = None
    gpu_hours: float | None = None
    storage_bytes: float | None = None
    requests: float | None = None
    download_bytes: float = 0.0
    egress_bytes: float = 0.0
    wall_hours: float | None = None
    binds: str = ""
    sources: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def _origin(name: str, figure: Figures) -> str:
    return f"{name}, {figure.get('made_at', 'undated')}, {figure.get('cores', '?')} cores"


def measured_rate(figures: Figures, stage: str) -> StageRate | None:
    """Return the rate of a stage that `stages` and `scale` measured as a whole, None with fewer than two sizes.

    `each` is the slope between the two largest sizes, `fixed` the remainder at the smallest.
    """
    points: dict[int, tuple[float, str, int]] = {}
    for name in ("stages", "scale"):
        for size, figures_at_size in figures.get(name, {}).get("pairs", {}).items():
            if stage in figures_at_size["stages"]:
                origin = _origin(f"{name}.{stage}", figures[name])
                points[int(size)] = (figures_at_size["stages"][stage]["seconds"], origin, int(figures[name]["cores"]))
    if len(points) < 2:
        return None
    *_, second_largest, largest = sorted(points)
    smallest = min(points)
    each = max(0.0, (points[largest][0] - points[second_largest][0]) / (largest - second_largest))
    source = "; ".join(dict.fromkeys(points[size][1] for size in (second_largest, largest)))
    source += f", at {second_largest:,} and {largest:,} pairs"
    return StageRate(max(0.0, points[smallest][0] - each * smallest), each, points[largest][2], source)


def _bytes_per_pair(figures: Figures, tables: Sequence[str]) -> tuple[float, str] | None:
    """Return the bytes per pair in these tables of the ledger, at the largest measured size, and their source."""
    for name in ("scale", "stages"):
        if sizes := figures.get(name, {}).get("pairs"):
            size = max(sizes, key=int)
            table_bytes = sizes[size]["table_bytes"]
            return sum(table_bytes.get(table, 0) for table in tables) / int(size), _origin(
                f"{name}.table_bytes", figures[name]
            )
    return None


def _figure(figures: Figures, name: str, *keys: str) -> float | None:
    value: Any = figures.get(name)
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


class CostModel:
    """The costs of N pairs on a cluster."""

    def __init__(self, figures: Figures, scope: CostScope, cluster: Cluster, gpu_rate: float | None) -> None:
        self._figures, self._scope, self._cluster, self._gpu_rate = figures, scope, cluster, gpu_rate

    def of(self, pairs: float) -> list[StageCost]:
        """Return the cost of each stage."""
        stages = (self._ingest, self._score, self._corpus, self._decide, self._blend, self._export)
        return [*(stage(pairs) for stage in stages), self._train(), self._evaluate(), self._report()]

    def _with_wall_time(self, cost: StageCost, fixed: float = 0.0) -> StageCost:
        """Add the wall time and the bottleneck: the slowest of the resources that work in parallel."""
        if cost.unknown:
            return cost
        transferred = cost.download_bytes + cost.egress_bytes + (cost.storage_bytes or 0.0)
        hours = {
            CORES: (cost.core_hours or 0.0) / self._cluster.cores,
            NETWORK: transferred / self._cluster.bandwidth / 3600,
        }
        if cost.gpu_hours:
            hours[GPUS] = cost.gpu_hours / self._cluster.gpus if self._cluster.gpus else math.inf
        cost.binds = max(hours, key=lambda name: hours[name])
        if fixed / 3600 > hours[cost.binds]:
            cost.wall_hours, cost.binds = fixed / 3600 + hours[cost.binds], FIXED
        else:
            cost.wall_hours = fixed / 3600 + hours[cost.binds]
        return cost

    def _add_ledger_bytes(self, cost: StageCost, pairs: float, tables: Sequence[str]) -> None:
        if (bytes_and_source := _bytes_per_pair(self._figures, tables)) is None:
            cost.unknown.append("bytes of the ledger's rows (scale, stages)")
            return
        cost.storage_bytes = (cost.storage_bytes or 0.0) + bytes_and_source[0] * pairs
        cost.sources.append(bytes_and_source[1])

    def _ingest(self, pairs: float) -> StageCost:
        scope, name = self._scope, "ingest_against_img2dataset"
        stored, shards = pairs * scope.stored, math.ceil(pairs / scope.pairs_per_shard)
        cost = StageCost("ingest", storage_bytes=stored * scope.pair_bytes, download_bytes=stored * scope.fetched_bytes)
        parts = math.ceil(scope.pairs_per_shard * scope.stored * scope.pair_bytes / PART_BYTES)
        cost.requests = pairs + shards * (parts + 4)
        self._add_ledger_bytes(cost, pairs, ("pairs", "fetches", "samples"))
        rate, cores = (
            _figure(self._figures, name, "reencoded", "images_per_second"),
            _figure(self._figures, name, "cores"),
        )
        if rate is None or cores is None:
            cost.unknown.append(f"images a second ({name})")
        else:
            cost.core_hours = stored / rate * cores / 3600
            cost.sources.append(_origin(f"{name}.reencoded", self._figures[name]))
        return self._with_wall_time(cost)

    def _score(self, pairs: float) -> StageCost:
        scope, name = self._scope, "signals_against_decoding"
        stored = pairs * scope.stored
        cost = StageCost("score", egress_bytes=stored * scope.pair_bytes, core_hours=0.0)
        cost.requests = math.ceil(pairs / scope.pairs_per_shard) * (2 + len(scope.signals) + scope.clip)
        tables = [f"signals_{kind}_v1" for kind in (*scope.signals, *(["clip"] if scope.clip else []))]
        self._add_ledger_bytes(cost, stored, tables)
        measured_kinds = {"caption", "image", "pdq"}
        if {*scope.signals} & measured_kinds:
            if (rate := _figure(self._figures, name, "signals_images_per_second")) is None:
                cost.unknown.append(f"images a second of caption, image and pdq ({name})")
            else:
                cost.core_hours = stored / rate / 3600  # measured on one core, all three together
                cost.sources.append(_origin(name, self._figures[name]))
        if unmeasured := sorted({*scope.signals} - measured_kinds):
            cost.unknown.append(f"signals of the kinds {', '.join(unmeasured)}")
        if scope.clip:
            self._add_clip(cost, stored)
        return self._with_wall_time(cost)

    def _add_clip(self, cost: StageCost, stored: float) -> None:
        """Add the CLIP signals: on GPUs at the given rate, else on cores at the measured rate."""
        name = "clip_through_the_pipeline"
        if self._gpu_rate is not None:
            cost.gpu_hours = stored * self._scope.clip / self._gpu_rate / 3600
            cost.sources.append(f"--gpu-rate {self._gpu_rate:g} samples/s")
            return
        rate, cores = _figure(self._figures, name, "fp32_images_per_second"), _figure(self._figures, name, "cores")
        if rate is None or cores is None:
            cost.unknown.append(f"images a second of CLIP ({name}; or give --gpu-rate)")
            return
        cost.core_hours = (cost.core_hours or 0.0) + stored * self._scope.clip / rate * cores / 3600
        cost.sources.append(_origin(name, self._figures[name]))

    def _corpus(self, pairs: float) -> StageCost:
        """Signals over all pairs: those of `deduplication` at their measured growth, at least proportional."""
        cost, name, size = StageCost("score, whole corpus"), "deduplication", 1_000_000
        stored = pairs * self._scope.stored
        for kind in self._scope.corpus:
            seconds = _figure(self._figures, name, "pairs", str(size), "seconds", f"{kind}_v1")
            growth = _figure(self._figures, name, "exponent_pdq" if kind == "duplicates" else "exponent_embedding")
            cores = _figure(self._figures, name, "cores")
            if seconds is None or growth is None or cores is None:
                cost.unknown.append(f"the signal kind {kind}")
                continue
            hours = seconds * cores * (stored / size) ** max(1.0, growth) / 3600
            cost.core_hours = (cost.core_hours or 0.0) + hours
            cost.sources.append(_origin(f"{name}.{kind}", self._figures[name]))
        return self._with_wall_time(cost)

    def _measured_stage(self, stage: str, pairs: float, times: float = 1.0, tables: Sequence[str] = ()) -> StageCost:
        """Return the cost of a stage that was measured as a whole, with `times` the measured work per pair."""
        cost = StageCost(stage)
        rate = measured_rate(self._figures, stage)
        self._add_ledger_bytes(cost, pairs * times, tables)
        if rate is None:
            cost.unknown.append(f"seconds of {stage} at two sizes (stages, scale)")
            return cost
        cost.core_hours = rate.core_seconds(pairs) * times / 3600
        cost.sources.append(rate.source)
        return self._with_wall_time(cost, rate.fixed)

    def _decide(self, pairs: float) -> StageCost:
        cost = self._measured_stage(
            "decide", pairs * self._scope.stored, self._scope.filters / MEASURED_FILTERS, ["decisions"]
        )
        cost.requests = math.ceil(pairs / self._scope.pairs_per_shard) * max(1, len(self._scope.signals))
        return cost

    def _blend(self, pairs: float) -> StageCost:
        cost = self._measured_stage("blend", pairs * self._scope.stored, len(self._scope.drawn), ["mixtures"])
        cost.requests = math.ceil(pairs / self._scope.pairs_per_shard) * len(self._scope.drawn)
        return cost

    def _export(self, pairs: float) -> StageCost:
        """The drawn pairs of each mixture are copied: read from shards, written to tars."""
        scope = self._scope
        drawn = pairs * sum(scope.drawn.values())
        cost = StageCost("export", storage_bytes=drawn * scope.pair_bytes, egress_bytes=drawn * scope.pair_bytes)
        tars = sum(math.ceil(pairs * share / scope.pairs_per_tar) for share in scope.drawn.values())
        cost.requests = drawn + tars * math.ceil(scope.pairs_per_tar * scope.pair_bytes / PART_BYTES)
        rate = measured_rate(self._figures, "export")
        exported = self._figures.get("stages", {}).get("pairs", {})
        if rate is None or not exported:
            cost.unknown.append("seconds of export at two sizes (stages)")
            return cost
        # the measured rate is per pair in the store; here it is converted to seconds per exported byte
        largest = max(exported, key=int)
        each = rate.each * int(largest) / exported[largest]["exported_bytes"]
        cost.core_hours = each * rate.cores * drawn * scope.pair_bytes / 3600
        cost.sources.append(rate.source)
        self._add_ledger_bytes(cost, drawn / MEASURED_SHARE, ["export_members"])
        return self._with_wall_time(cost, rate.fixed * len(scope.drawn))

    def _train(self) -> StageCost:
        """The trainings see the samples that the experiment configures, independent of the number of pairs."""
        cost, samples_seen = StageCost("train"), self._scope.samples_seen
        if not samples_seen:
            cost.unknown.append("samples seen (training.epochs depends on the exports)")
        self._add_gpu_hours(
            cost, TRAINING_FORWARD_PASSES * samples_seen, f"a training step at {TRAINING_FORWARD_PASSES} forward ones"
        )
        return self._with_wall_time(cost)

    def _evaluate(self) -> StageCost:
        """Every model is evaluated once on every image of the evaluation sets and of their synthetic shifts."""
        cost = StageCost("evaluate")
        self._add_gpu_hours(cost, self._scope.evaluated, "one forward pass an image")
        return self._with_wall_time(cost)

    def _add_gpu_hours(self, cost: StageCost, passes: float, basis: str) -> None:
        if self._gpu_rate is None:
            cost.unknown.append(f"samples a second of the trained model in {cost.stage} (give --gpu-rate)")
        else:
            cost.gpu_hours = passes / self._gpu_rate / 3600
            cost.sources.append(f"--gpu-rate {self._gpu_rate:g} samples/s, {basis}")

    def _report(self) -> StageCost:
        """In proportion to the trainings, whose predictions it reads, and at least what was measured: one core, a small
        ledger.
        """
        cost = StageCost("report")
        seconds, trainings = _figure(self._figures, "report", "seconds"), _figure(self._figures, "report", "trainings")
        if seconds is None or trainings is None:
            cost.unknown.append("seconds of a report (report)")
            return cost
        seconds *= max(1.0, self._scope.trainings / trainings)
        cost.core_hours, cost.wall_hours, cost.binds = seconds / 3600, seconds / 3600, ALONE
        cost.sources.append(_origin("report", self._figures["report"]))
        return cost


MEASURED_FILTERS, MEASURED_SHARE, TRAINING_FORWARD_PASSES = 2, 0.3, 3
"""The number of filters in `scale` and `stages`, the share of pairs that these draw, and the cost of a training step in
forward passes: one forward and a backward of about two (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
