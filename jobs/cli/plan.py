"""The command `cuvee plan`: the cost of N pairs of an experiment by stage, on a cluster, from measured rates."""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from jobs.workflow.experiment import Experiment
    from pipeline.config.evaluation import EvaluationConfig
    from pipeline.operations.cost_model import Cluster, CostScope, StageCost


def shipped_rates() -> Traversable:
    """Return the shipped figures: beside this file in a wheel or zip, where benchmarks write them in a checkout."""
    packed = resources.files("jobs.cli").joinpath("rates.json")
    return packed if packed.is_file() else Path(__file__).parents[2] / "benchmarks" / "results.json"


DEFAULT_PAIRS = "1e6,1e9,1e10"


DESCRIPTION = (
    "Estimate the cost of N pairs for each stage of an experiment, from rates measured on a machine (make bench, make "
    "scale) and scaled to the number of pairs. Nothing is run, and no store is read."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `cuvee`."""
    parser = commands.add_parser(
        "plan", help="estimate the cost of N pairs from measured rates", description=DESCRIPTION
    )
    parser.add_argument("experiment", type=Path, help="the experiment file, such as experiments/demo.yaml")
    parser.add_argument(
        "--pairs", default=DEFAULT_PAIRS, metavar="N,N,…", help=f"published rows (default: {DEFAULT_PAIRS})"
    )
    parser.add_argument(
        "--rates", type=Path, metavar="FILE", help="figures as in benchmarks/results.json (default: the shipped ones)"
    )
    for name, default, text in (
        ("cores", "64", "cores of the cluster"),
        ("gpus", "0", "GPUs of the cluster"),
        ("bandwidth", "1.25e9", "bytes per second between the cluster, the web and the store"),
        ("stored", "1", "share of the published rows whose image is fetched and stored"),
        ("drawn", "1", "share of the published rows that each mixture draws"),
        ("fetched-bytes", "100e3", "bytes of an image as fetched"),
        ("pair-bytes", "20e3", "bytes of a stored pair, including its caption and metadata"),
        ("set-images", "10e3", "images of an evaluation set"),
    ):
        parser.add_argument(f"--{name}", default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument(
        "--gpu-rate", metavar="N", help="samples per second that a GPU embeds (default: CLIP runs on cores)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="set a key of the experiment file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _parse_number(name: str, text: str, least: float, most: float = 1e15, whole: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"--{name}: found {text!r}, expected {kind} from {least:g} to {most:g}")
    return value


def run_command(arguments: argparse.Namespace) -> int:
    """Print the plan; return the exit code."""
    from jobs.workflow.experiment import load_experiment
    from pipeline.operations.cost_model import Cluster, CostModel

    sizes = [int(_parse_number("pairs", text.strip(), 1, whole=True)) for text in arguments.pairs.split(",")]
    cluster = Cluster(
        int(_parse_number("cores", arguments.cores, 1, whole=True)),
        int(_parse_number("gpus", arguments.gpus, 0, whole=True)),
        _parse_number("bandwidth", arguments.bandwidth, 1),
    )
    gpu_rate = None if arguments.gpu_rate is None else _parse_number("gpu-rate", arguments.gpu_rate, 1e-6)
    if gpu_rate is not None and not cluster.gpus:
        raise InputError("--gpu-rate: found no --gpus beside it, expected 1 or more")
    shares = {
        "stored": _parse_number("stored", arguments.stored, 0, 1),
        "drawn": _parse_number("drawn", arguments.drawn, 0, 1),
        "fetched": _parse_number("fetched-bytes", arguments.fetched_bytes, 0),
        "pair": _parse_number("pair-bytes", arguments.pair_bytes, 0),
        "images": _parse_number("set-images", arguments.set_images, 0),
    }
    rates = arguments.rates or shipped_rates()
    figures = read_rates(rates)
    scope = scope_of(load_experiment(arguments.experiment, arguments.set), shares)
    costs = CostModel(figures, scope, cluster, gpu_rate)
    costs_by_size = {size: costs.of(size) for size in sizes}
    plan = {
        "assumptions": assumptions(scope, cluster),
        "rates": str(rates),
        "plans": [{"pairs": size, "stages": [cost.plain() for cost in costs_by_size[size]]} for size in sizes],
    }
    sys.stdout.write(
        (json.dumps(_finite(plan), indent=1) if arguments.json else _format_text(plan, costs_by_size)) + "\n"
    )
    return 0


def read_rates(path: Traversable) -> dict[str, Any]:
    """Return the figures in a file; raise InputError where it has none."""
    try:
        figures = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--rates: {path}: {getattr(error, 'strerror', None) or 'expected JSON'}") from None
    if not isinstance(figures, dict) or not all(isinstance(figure, dict) for figure in figures.values()):
        raise InputError(f"--rates: {path}: expected figures by name, as benchmarks/results.json has them")
    return figures


def scope_of(experiment: "Experiment", shares: Mapping[str, float]) -> "CostScope":
    """Return the work that an experiment needs for each pair."""
    from pipeline.operations.cost_model import CostScope

    file, signals = experiment.file, experiment.signals.values()
    over_shards = [signal.kind for signal in signals if signal.scope == "shard"]
    mixtures = dict.fromkeys(file.mixtures, shares["drawn"])
    trainings = len(set(experiment.trained_mixtures())) * len(file.training.seeds)
    samples_seen = (file.training.samples_seen or 0) * trainings
    samples_seen += (
        sum(model.trained.samples_seen for model in file.models.values() if model.trained) if samples_seen else 0
    )
    return CostScope(
        stored=shares["stored"],
        drawn=mixtures,
        fetched_bytes=shares["fetched"],
        pair_bytes=shares["pair"],
        pairs_per_shard=file.ingest.pairs_per_shard,
        pairs_per_tar=file.export.pairs_per_tar,
        filters=len(file.filters),
        signals=tuple(sorted({kind for kind in over_shards if kind != "clip"})),
        corpus=tuple(sorted({signal.kind for signal in signals if signal.scope != "shard"})),
        clip=over_shards.count("clip"),
        samples_seen=samples_seen,
        trainings=trainings,
        evaluated=int(
            (trainings + len(file.evaluation.models)) * _count_evaluations(file.evaluation) * shares["images"]
        ),
    )


def _count_evaluations(section: "EvaluationConfig") -> int:
    """Return the number of sets that a model is evaluated on, synthetic shifts included."""
    from pipeline.evaluation.corruptions import CORRUPTION_KINDS

    synthetic = section.synthetic
    corrupted_sets = (
        len(synthetic.of) * len(synthetic.kinds or CORRUPTION_KINDS) * len(synthetic.severities) if synthetic else 0
    )
    return len(section.sets) + corrupted_sets + 2 * len(section.probe) + len(section.retrieval)


def assumptions(scope: "CostScope", cluster: "Cluster") -> list[str]:
    """Return the assumptions of the plan, a sentence each."""
    from pipeline.operations.cost_model import MEASURED_FILTERS

    return [
        f"the cluster has {cluster.cores} cores as fast as the measured ones and {cluster.gpus} GPUs, and transfers "
        f"{cluster.bandwidth:,.0f} bytes per second; work is distributed without loss",
        "work grows in proportion to the pairs; signals over the whole corpus by their measured exponent where that is "
        "above 1",
        f"of the published rows {scope.stored:.0%} are stored, at {scope.pair_bytes:,.0f} bytes, and fetched as "
        f"{scope.fetched_bytes:,.0f}; each of {len(scope.drawn)} mixtures draws {min(scope.drawn.values()):.0%}",
        f"each of {scope.filters} filters costs as much as each of the {MEASURED_FILTERS} measured ones",
        f"{scope.trainings} models are trained and evaluated on {scope.evaluated:,} images in total",
        "no site asks to wait: the rate limits of ingest.per_host are not included in the time of ingest",
        "requests are those for images and those to a bucket: for parts of 8 MiB, for a file of each table and shard, "
        "and one for each exported pair",
        "egress counts the image bytes that stages read from the store, without rows of the ledger",
    ]


COLUMNS = ("core-hours", "GPU-hours", "storage", "requests", "download", "egress", "wall", "binds")


def _format_text(plan: Mapping[str, Any], costs_by_size: Mapping[int, "list[StageCost]"]) -> str:
    lines = [f"rates: {plan['rates']}", "assumptions:", *(f"  - {line}" for line in plan["assumptions"])]
    for pairs, costs in costs_by_size.items():
        lines += ["", f"{pairs:,} pairs", f"  {'stage':<20}" + "".join(f"{name:>13}" for name in COLUMNS)]
        for cost in costs:
            bound = "≥" if cost.unknown and cost.core_hours else ""  # the unknown part is not included
            cells = [
                bound + _format_number(cost.core_hours),
                _format_number(cost.gpu_hours),
                _format_bytes(cost.storage_bytes),
            ]
            cells += [
                _format_number(cost.requests),
                _format_bytes(cost.download_bytes),
                _format_bytes(cost.egress_bytes),
            ]
            cells += [_format_hours(cost.wall_hours), cost.binds or "unknown"]
            lines.append(f"  {cost.stage:<20}" + "".join(f"{cell:>13}" for cell in cells))
            lines += [f"    unknown: {line}" for line in cost.unknown]
    sources = dict.fromkeys(source for costs in costs_by_size.values() for cost in costs for source in cost.sources)
    return "\n".join([*lines, "", "sources of the rates:", *(f"  - {source}" for source in sources)])


def _finite(value: Any) -> Any:
    """Return plain data with null in place of infinite values: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if 100 <= value < 1e8 else f"{value:.3g}"


def _format_bytes(value: float | None) -> str:
    if not value:
        return "-" if value is None else "0"
    power = min(5, int(math.log(max(value, 1), 1000)))
    return f"{value / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def _format_hours(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-" if value is None else "never"
    return f"{value * 3600:.0f} s" if value < 1 / 6 else f"{value:.1f} h" if value < 100 else f"{value / 24:,.0f} d"
