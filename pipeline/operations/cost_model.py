"""What N pairs cost for each stage, from rates that a machine measured (`benchmarks/results.json`).

A figure says when it was made, and on how many cores. What has no figure is unknown and is said so: nothing is made up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Figures = Mapping[str, Any]


CORES, GPUS, NETWORK, FIXED, ALONE = "cores", "GPUs", "bandwidth", "start-up", "one core"


PART = 8 << 20
"""Bytes of a part by which a large object is sent."""


@dataclass(frozen=True)
class Rate:
    """Seconds of a command at N pairs, fixed + each * N, on so many cores; and where that is from."""

    fixed: float
    each: float
    cores: int
    source: str

    def core_seconds(self, pairs: float) -> float:
        """Return the seconds of a core that N pairs take, without what is fixed."""
        return self.each * pairs * self.cores


@dataclass(frozen=True)
class Cluster:
    """What runs it: cores, GPUs, and bytes a second between the cluster, the web and the store together."""

    cores: int
    gpus: int
    bandwidth: float


@dataclass(frozen=True)
class Scope:
    """What an experiment asks of each pair, and what it is assumed to weigh; the shares are of published rows.

    `stored` have an image, `drawn` are in each mixture by its name. Sizes in bytes: of an image as fetched and of a
    stored pair. `signals` are the kinds of those over shards, `corpus` of those over all pairs, `clip` counts models.
    `trainings` is how many models are trained, `evaluated` how many images all models are asked about.
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
class Cost:
    """What a stage costs; a number is None where no rate is known, and `unknown` says which is missing."""

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
        """Return it as plain data."""
        return asdict(self)


def _made(name: str, figure: Figures) -> str:
    return f"{name}, {figure.get('made_at', 'undated')}, {figure.get('cores', '?')} cores"


def measured(figures: Figures, stage: str) -> Rate | None:
    """Return the rate of a stage that was measured whole at two sizes or more, by `stages` and `scale`.

    `each` is from the two largest sizes, `fixed` what is left at the smallest.
    """
    points: dict[int, tuple[float, str, int]] = {}
    for name in ("stages", "scale"):
        for size, one in figures.get(name, {}).get("pairs", {}).items():
            if stage in one["stages"]:
                made = _made(f"{name}.{stage}", figures[name])
                points[int(size)] = (one["stages"][stage]["seconds"], made, int(figures[name]["cores"]))
    if len(points) < 2:
        return None
    *_, before, last = sorted(points)
    first = min(points)
    each = max(0.0, (points[last][0] - points[before][0]) / (last - before))
    source = "; ".join(dict.fromkeys(points[size][1] for size in (before, last)))
    source += f", at {before:,} and {last:,} pairs"
    return Rate(max(0.0, points[first][0] - each * first), each, points[last][2], source)


def _bytes_each(figures: Figures, tables: Sequence[str]) -> tuple[float, str] | None:
    """Return the bytes of a pair in these tables of the ledger, at the largest size that was measured."""
    for name in ("scale", "stages"):
        if sizes := figures.get(name, {}).get("pairs"):
            size = max(sizes, key=int)
            held = sizes[size]["table_bytes"]
            return sum(held.get(table, 0) for table in tables) / int(size), _made(f"{name}.table_bytes", figures[name])
    return None


def _rate(figures: Figures, name: str, *keys: str) -> float | None:
    value: Any = figures.get(name)
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


class Costs:
    """The costs of N pairs on a cluster."""

    def __init__(self, figures: Figures, scope: Scope, cluster: Cluster, gpu_rate: float | None) -> None:
        self._figures, self._scope, self._cluster, self._gpu_rate = figures, scope, cluster, gpu_rate

    def of(self, pairs: float) -> list[Cost]:
        """Return the cost of each stage."""
        stages = (self._ingest, self._score, self._corpus, self._decide, self._blend, self._export)
        return [*(stage(pairs) for stage in stages), self._train(), self._evaluate(), self._report()]

    def _closed(self, cost: Cost, fixed: float = 0.0) -> Cost:
        """Add the wall time, and what binds: the slowest of what goes on side by side."""
        if cost.unknown:
            return cost
        moved = cost.download_bytes + cost.egress_bytes + (cost.storage_bytes or 0.0)
        hours = {CORES: (cost.core_hours or 0.0) / self._cluster.cores, NETWORK: moved / self._cluster.bandwidth / 3600}
        if cost.gpu_hours:
            hours[GPUS] = cost.gpu_hours / self._cluster.gpus if self._cluster.gpus else math.inf
        cost.binds = max(hours, key=lambda name: hours[name])
        if fixed / 3600 > hours[cost.binds]:
            cost.wall_hours, cost.binds = fixed / 3600 + hours[cost.binds], FIXED
        else:
            cost.wall_hours = fixed / 3600 + hours[cost.binds]
        return cost

    def _ledger(self, cost: Cost, pairs: float, tables: Sequence[str]) -> None:
        if (found := _bytes_each(self._figures, tables)) is None:
            cost.unknown.append("bytes of the ledger's rows (scale, stages)")
            return
        cost.storage_bytes = (cost.storage_bytes or 0.0) + found[0] * pairs
        cost.sources.append(found[1])

    def _ingest(self, pairs: float) -> Cost:
        scope, name = self._scope, "ingest_against_img2dataset"
        stored, shards = pairs * scope.stored, math.ceil(pairs / scope.pairs_per_shard)
        cost = Cost("ingest", storage_bytes=stored * scope.pair_bytes, download_bytes=stored * scope.fetched_bytes)
        parts = math.ceil(scope.pairs_per_shard * scope.stored * scope.pair_bytes / PART)
        cost.requests = pairs + shards * (parts + 4)
        self._ledger(cost, pairs, ("pairs", "fetches", "samples"))
        rate, cores = _rate(self._figures, name, "reencoded", "images_per_second"), _rate(self._figures, name, "cores")
        if rate is None or cores is None:
            cost.unknown.append(f"images a second ({name})")
        else:
            cost.core_hours = stored / rate * cores / 3600
            cost.sources.append(_made(f"{name}.reencoded", self._figures[name]))
        return self._closed(cost)

    def _score(self, pairs: float) -> Cost:
        scope, name = self._scope, "signals_against_decoding"
        stored = pairs * scope.stored
        cost = Cost("score", egress_bytes=stored * scope.pair_bytes, core_hours=0.0)
        cost.requests = math.ceil(pairs / scope.pairs_per_shard) * (2 + len(scope.signals) + scope.clip)
        tables = [f"signals_{kind}_v1" for kind in (*scope.signals, *(["clip"] if scope.clip else []))]
        self._ledger(cost, stored, tables)
        plain = {"caption", "image", "pdq"}
        if {*scope.signals} & plain:
            if (rate := _rate(self._figures, name, "signals_images_per_second")) is None:
                cost.unknown.append(f"images a second of caption, image and pdq ({name})")
            else:
                cost.core_hours = stored / rate / 3600  # measured on one core, the three together
                cost.sources.append(_made(name, self._figures[name]))
        if odd := sorted({*scope.signals} - plain):
            cost.unknown.append(f"signals of the kinds {', '.join(odd)}")
        if scope.clip:
            self._embed(cost, stored)
        return self._closed(cost)

    def _embed(self, cost: Cost, stored: float) -> None:
        """Add the CLIP signals: on GPUs at the rate that is given, else on cores at what was measured."""
        name = "clip_through_the_pipeline"
        if self._gpu_rate is not None:
            cost.gpu_hours = stored * self._scope.clip / self._gpu_rate / 3600
            cost.sources.append(f"--gpu-rate {self._gpu_rate:g} samples/s")
            return
        rate, cores = _rate(self._figures, name, "fp32_images_per_second"), _rate(self._figures, name, "cores")
        if rate is None or cores is None:
            cost.unknown.append(f"images a second of CLIP ({name}; or give --gpu-rate)")
            return
        cost.core_hours = (cost.core_hours or 0.0) + stored * self._scope.clip / rate * cores / 3600
        cost.sources.append(_made(name, self._figures[name]))

    def _corpus(self, pairs: float) -> Cost:
        """Signals over all pairs: those of `deduplication` at their measured growth, never less than in proportion."""
        cost, name, size = Cost("score, whole corpus"), "deduplication", 1_000_000
        stored = pairs * self._scope.stored
        for kind in self._scope.corpus:
            seconds = _rate(self._figures, name, "pairs", str(size), "seconds", f"{kind}_v1")
            growth = _rate(self._figures, name, "exponent_pdq" if kind == "duplicates" else "exponent_embedding")
            cores = _rate(self._figures, name, "cores")
            if seconds is None or growth is None or cores is None:
                cost.unknown.append(f"the signal kind {kind}")
                continue
            hours = seconds * cores * (stored / size) ** max(1.0, growth) / 3600
            cost.core_hours = (cost.core_hours or 0.0) + hours
            cost.sources.append(_made(f"{name}.{kind}", self._figures[name]))
        return self._closed(cost)

    def _whole(self, stage: str, pairs: float, times: float = 1.0, tables: Sequence[str] = ()) -> Cost:
        """Return a stage that was measured whole; `times` as much work as was measured on each pair."""
        cost = Cost(stage)
        rate = measured(self._figures, stage)
        self._ledger(cost, pairs * times, tables)
        if rate is None:
            cost.unknown.append(f"seconds of {stage} at two sizes (stages, scale)")
            return cost
        cost.core_hours = rate.core_seconds(pairs) * times / 3600
        cost.sources.append(rate.source)
        return self._closed(cost, rate.fixed)

    def _decide(self, pairs: float) -> Cost:
        cost = self._whole("decide", pairs * self._scope.stored, self._scope.filters / MEASURED_FILTERS, ["decisions"])
        cost.requests = math.ceil(pairs / self._scope.pairs_per_shard) * max(1, len(self._scope.signals))
        return cost

    def _blend(self, pairs: float) -> Cost:
        cost = self._whole("blend", pairs * self._scope.stored, len(self._scope.drawn), ["mixtures"])
        cost.requests = math.ceil(pairs / self._scope.pairs_per_shard) * len(self._scope.drawn)
        return cost

    def _export(self, pairs: float) -> Cost:
        """Of each mixture what is drawn is copied: read from shards, written to tars."""
        scope = self._scope
        drawn = pairs * sum(scope.drawn.values())
        cost = Cost("export", storage_bytes=drawn * scope.pair_bytes, egress_bytes=drawn * scope.pair_bytes)
        tars = sum(math.ceil(pairs * share / scope.pairs_per_tar) for share in scope.drawn.values())
        cost.requests = drawn + tars * math.ceil(scope.pairs_per_tar * scope.pair_bytes / PART)
        rate = measured(self._figures, "export")
        exported = self._figures.get("stages", {}).get("pairs", {})
        if rate is None or not exported:
            cost.unknown.append("seconds of export at two sizes (stages)")
            return cost
        # the seconds are those of the bytes that were exported, of the pairs that were there
        largest = max(exported, key=int)
        each = rate.each * int(largest) / exported[largest]["exported_bytes"]
        cost.core_hours = each * rate.cores * drawn * scope.pair_bytes / 3600
        cost.sources.append(rate.source)
        self._ledger(cost, drawn / MEASURED_SHARE, ["export_members"])
        return self._closed(cost, rate.fixed * len(scope.drawn))

    def _train(self) -> Cost:
        """The trainings see the samples that the experiment says, however many pairs there are."""
        cost, seen = Cost("train"), self._scope.samples_seen
        if not seen:
            cost.unknown.append("samples seen (training.epochs depends on the exports)")
        self._on_gpus(cost, TRAINED * seen, f"a training step at {TRAINED} forward ones")
        return self._closed(cost)

    def _evaluate(self) -> Cost:
        """Every model is asked about every image of the evaluation sets and of their synthetic shifts once."""
        cost = Cost("evaluate")
        self._on_gpus(cost, self._scope.evaluated, "one forward pass an image")
        return self._closed(cost)

    def _on_gpus(self, cost: Cost, passes: float, said: str) -> None:
        if self._gpu_rate is None:
            cost.unknown.append(f"samples a second of the trained model in {cost.stage} (give --gpu-rate)")
        else:
            cost.gpu_hours = passes / self._gpu_rate / 3600
            cost.sources.append(f"--gpu-rate {self._gpu_rate:g} samples/s, {said}")

    def _report(self) -> Cost:
        """In proportion to the trainings, of which it reads the predictions, and never less than was measured: on one
        core, of a small ledger.
        """
        cost = Cost("report")
        seconds, trainings = _rate(self._figures, "report", "seconds"), _rate(self._figures, "report", "trainings")
        if seconds is None or trainings is None:
            cost.unknown.append("seconds of a report (report)")
            return cost
        seconds *= max(1.0, self._scope.trainings / trainings)
        cost.core_hours, cost.wall_hours, cost.binds = seconds / 3600, seconds / 3600, ALONE
        cost.sources.append(_made("report", self._figures["report"]))
        return cost


MEASURED_FILTERS, MEASURED_SHARE, TRAINED = 2, 0.3, 3
"""Filters that `scale` and `stages` decide by, the share of pairs that they draw, and the forward passes that a step of
training costs: one forward and about two backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
