"""The command `cuvee plan`: what N pairs of an experiment cost for each stage, on a cluster, from measured rates."""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from jobs.workflow.experiment import Experiment
    from pipeline.config.evaluation import Evaluation
    from pipeline.operations.cost_model import Cluster, Cost, Scope


RATES = Path(__file__).parents[1] / "benchmarks" / "results.json"


PAIRS = "1e6,1e9,1e10"


TEXT = (
    "Tell what N pairs cost for each stage of an experiment, from the rates that a machine measured (make bench, make "
    "scale), by what grows in proportion to the pairs. Nothing is run, and no store is asked."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    one = commands.add_parser("plan", help="what N pairs would cost, from measured rates", description=TEXT)
    one.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    one.add_argument("--pairs", default=PAIRS, metavar="N,N,…", help=f"published rows (default: {PAIRS})")
    one.add_argument("--rates", type=Path, default=RATES, metavar="FILE", help="figures as in benchmarks/results.json")
    for name, default, text in (
        ("cores", "64", "cores of the cluster"),
        ("gpus", "0", "GPUs of the cluster"),
        ("bandwidth", "1.25e9", "bytes a second between the cluster, the web and the store"),
        ("stored", "1", "share of the published rows whose image is fetched and stored"),
        ("drawn", "1", "share of the published rows that each mixture draws"),
        ("fetched-bytes", "100e3", "bytes of an image as it is fetched"),
        ("pair-bytes", "20e3", "bytes of a stored pair, its caption and metadata included"),
        ("set-images", "10e3", "images of an evaluation set"),
    ):
        one.add_argument(f"--{name}", default=default, metavar="N", help=f"{text} (default: {default})")
    one.add_argument("--gpu-rate", metavar="N", help="samples a second that a GPU embeds; without it CLIP is on cores")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the experiment file")
    one.add_argument("--json", action="store_true", help="print JSON for programs")


def _number(name: str, text: str, least: float, most: float = 1e15, whole: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"--{name}: found {text!r}, expected {kind} from {least:g} to {most:g}")
    return value


def answer(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    from jobs.workflow.experiment import load
    from pipeline.operations.cost_model import Cluster, Costs

    sizes = [int(_number("pairs", text.strip(), 1, whole=True)) for text in arguments.pairs.split(",")]
    cluster = Cluster(
        int(_number("cores", arguments.cores, 1, whole=True)),
        int(_number("gpus", arguments.gpus, 0, whole=True)),
        _number("bandwidth", arguments.bandwidth, 1),
    )
    gpu_rate = None if arguments.gpu_rate is None else _number("gpu-rate", arguments.gpu_rate, 1e-6)
    if gpu_rate is not None and not cluster.gpus:
        raise InputError("--gpu-rate: found no --gpus to go with it, expected 1 or more")
    shares = {
        "stored": _number("stored", arguments.stored, 0, 1),
        "drawn": _number("drawn", arguments.drawn, 0, 1),
        "fetched": _number("fetched-bytes", arguments.fetched_bytes, 0),
        "pair": _number("pair-bytes", arguments.pair_bytes, 0),
        "images": _number("set-images", arguments.set_images, 0),
    }
    figures = read_rates(arguments.rates)
    scope = scope_of(load(arguments.experiment, arguments.set), shares)
    costs = Costs(figures, scope, cluster, gpu_rate)
    found = {size: costs.of(size) for size in sizes}
    told = {
        "assumptions": assumptions(scope, cluster),
        "rates": str(arguments.rates),
        "plans": [{"pairs": size, "stages": [cost.plain() for cost in found[size]]} for size in sizes],
    }
    sys.stdout.write((json.dumps(_finite(told), indent=1) if arguments.json else _text(told, found)) + "\n")
    return 0


def read_rates(path: Path) -> dict[str, Any]:
    """Return the figures of a file; raise InputError where it has none."""
    try:
        figures = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--rates: {path}: {getattr(error, 'strerror', None) or 'expected JSON'}") from None
    if not isinstance(figures, dict) or not all(isinstance(one, dict) for one in figures.values()):
        raise InputError(f"--rates: {path}: expected figures by name, as benchmarks/results.json has them")
    return figures


def scope_of(experiment: "Experiment", shares: Mapping[str, float]) -> "Scope":
    """Return what an experiment asks of each pair."""
    from pipeline.operations.cost_model import Scope

    file, signals = experiment.file, experiment.signals.values()
    over_shards = [one.kind for one in signals if one.scope == "shard"]
    mixtures = dict.fromkeys(file.mixtures, shares["drawn"])
    trainings = len(set(experiment.trained_mixtures())) * len(file.training.seeds)
    seen = (file.training.samples_seen or 0) * trainings
    seen += sum(model.trained.samples_seen for model in file.models.values() if model.trained) if seen else 0
    return Scope(
        stored=shares["stored"],
        drawn=mixtures,
        fetched_bytes=shares["fetched"],
        pair_bytes=shares["pair"],
        pairs_per_shard=file.ingest.pairs_per_shard,
        pairs_per_tar=file.export.pairs_per_tar,
        filters=len(file.filters),
        signals=tuple(sorted({kind for kind in over_shards if kind != "clip"})),
        corpus=tuple(sorted({one.kind for one in signals if one.scope != "shard"})),
        clip=over_shards.count("clip"),
        samples_seen=seen,
        trainings=trainings,
        evaluated=int((trainings + len(file.evaluation.models)) * _evaluations(file.evaluation) * shares["images"]),
    )


def _evaluations(section: "Evaluation") -> int:
    """Return on how many sets a model is evaluated, synthetic shifts among them."""
    from pipeline.evaluation.corruptions import KINDS

    made = section.synthetic
    shifts = len(made.of) * len(made.kinds or KINDS) * len(made.severities) if made else 0
    return len(section.sets) + shifts + 2 * len(section.probe) + len(section.retrieval)


def assumptions(scope: "Scope", cluster: "Cluster") -> list[str]:
    """Return what the plan takes for granted."""
    from pipeline.operations.cost_model import MEASURED_FILTERS

    return [
        f"the cluster has {cluster.cores} cores as quick as those that were measured, {cluster.gpus} GPUs, and moves "
        f"{cluster.bandwidth:,.0f} bytes a second; work is spread over it without loss",
        "work grows in proportion to the pairs; signals over the whole corpus by their measured exponent where that is "
        "above 1",
        f"of the published rows {scope.stored:.0%} are stored, at {scope.pair_bytes:,.0f} bytes, and fetched as "
        f"{scope.fetched_bytes:,.0f}; each of {len(scope.drawn)} mixtures draws {min(scope.drawn.values()):.0%}",
        f"{scope.filters} filters cost as much each as the {MEASURED_FILTERS} that were measured",
        f"{scope.trainings} models are trained, and asked about {scope.evaluated:,} images together",
        "no site asks to wait: the limits of ingest.per_host are not in the time of ingest",
        "requests are those for images, and those of a bucket for parts of 8 MiB, a file of each table and shard, and "
        "one for each pair that is exported",
        "egress is what stages read of images from the store; rows of the ledger are left out of it",
    ]


COLUMNS = ("core-hours", "GPU-hours", "storage", "requests", "download", "egress", "wall", "binds")


def _text(told: Mapping[str, Any], found: Mapping[int, "list[Cost]"]) -> str:
    lines = [f"rates: {told['rates']}", "assumed:", *(f"  - {line}" for line in told["assumptions"])]
    for pairs, costs in found.items():
        lines += ["", f"{pairs:,} pairs", f"  {'stage':<20}" + "".join(f"{name:>13}" for name in COLUMNS)]
        for cost in costs:
            least = "≥" if cost.unknown and cost.core_hours else ""  # what is unknown comes on top
            cells = [least + _plain(cost.core_hours), _plain(cost.gpu_hours), _bytes(cost.storage_bytes)]
            cells += [_plain(cost.requests), _bytes(cost.download_bytes), _bytes(cost.egress_bytes)]
            cells += [_hours(cost.wall_hours), cost.binds or "unknown"]
            lines.append(f"  {cost.stage:<20}" + "".join(f"{cell:>13}" for cell in cells))
            lines += [f"    unknown: {line}" for line in cost.unknown]
    sources = dict.fromkeys(source for costs in found.values() for cost in costs for source in cost.sources)
    return "\n".join([*lines, "", "where the rates are from:", *(f"  - {source}" for source in sources)])


def _finite(value: Any) -> Any:
    """Return plain data in which what never ends is null: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if 100 <= value < 1e8 else f"{value:.3g}"


def _bytes(value: float | None) -> str:
    if not value:
        return "-" if value is None else "0"
    power = min(5, int(math.log(max(value, 1), 1000)))
    return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def _hours(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-" if value is None else "never"
    return f"{value * 3600:.0f} s" if value < 1 / 6 else f"{value:.1f} h" if value < 100 else f"{value / 24:,.0f} d"
