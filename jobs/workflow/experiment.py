"""The experiment file bound to the registries: everything it names exists before anything runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from filters.rules.base import Rule
from filters.rules.parser import RuleContext, parse_rule
from filters.signals.registry import SignalSpec, signal_spec
from jobs.workflow.evaluation_plan import check_sets, corruptions_of_sets
from pipeline.config.experiment import ExperimentFile
from pipeline.config.loader import build_section, override, read_yaml
from pipeline.config.tuning import recipe_values
from pipeline.errors import InputError, unknown_message
from pipeline.evaluation.datasets import EvaluationSet, open_set
from pipeline.mixtures.names import sized_name
from pipeline.mixtures.parts import ColumnCondition, filters_of, parts_of, signal_columns_of
from pipeline.models.checkpoint import check_folder
from pipeline.storage.object_store import glob_files
from pipeline.storage.store import Store
from pipeline.storage.uid_files import check_subset
from pipeline.training.recipe import check_flags
from sources.registry import FORMATS, source_format


@dataclass(frozen=True)
class Experiment:
    """A checked experiment: the file as written, its signals and rules as objects."""

    path: Path
    file: ExperimentFile
    signals: dict[str, SignalSpec]
    rules: dict[str, Rule]

    @property
    def name(self) -> str:
        """The experiment's name: the file's, without its suffix."""
        return self.path.stem

    @cached_property
    def store(self) -> Store:
        """The store it works in."""
        return Store(self.file.store)

    def source_files(self, source: str) -> dict[str, str]:
        """Return a source's published files, sorted: path to the name by which the ledger knows it.

        Raises InputError where a pattern matches none.
        """
        return self._files(source, "files", self.file.sources[source].files)

    def joined_files(self, source: str) -> dict[str, str]:
        """Return the files that a source's rows are joined to, as `source_files`."""
        return self._files(source, "joined", self.file.sources[source].joined)

    def _files(self, source: str, key: str, patterns: Sequence[str]) -> dict[str, str]:
        paths: list[str] = []
        for pattern in patterns:
            if not (matches := glob_files(pattern)):
                raise InputError(f"{self.path}: sources.{source}.{key}: no file matches {pattern}")
            paths.extend(path for path in matches if path not in paths)
        return file_names(paths)

    def evaluation_sets(self) -> dict[str, EvaluationSet]:
        """Return the evaluation sets, opened; raise InputError where one is not in CLIP_benchmark's layout."""
        return {name: open_set(name, Path(folder)) for name, folder in self.file.evaluation.sets.items()}

    def trained_mixtures(self) -> list[str]:
        """Return the mixtures that are trained on: those of `training.mixtures`, each in every size where it names any.

        A size of n pairs is a mixture of its own with that total, `name@n`: a smaller one is a part of a larger.
        """
        training = self.file.training
        return [sized_name(name, size) for name in training.mixtures for size in training.sizes] or list(
            training.mixtures
        )

    def mixture_sources(self, name: str) -> list[str]:
        """Return the sources that a mixture draws on."""
        mixture = self.file.mixtures[name]
        sources = mixture.sources or (() if mixture.by or mixture.parts else mixture.shares)
        part_sources = [part.sources for part in mixture.parts]
        if part_sources and all(part_sources) and not sources:  # no part asks for a pair of another source
            sources = tuple(source for source in self.file.sources if any(source in part for part in part_sources))
        return list(map(str, sources)) or list(self.file.sources)


def load_experiment(path: Path, settings: list[str]) -> Experiment:
    """Return the experiment of a file with `--set` settings; raise InputError at the first thing that is wrong."""
    data = override(read_yaml(path), settings)
    file: ExperimentFile = build_section(ExperimentFile, data, str(path))
    try:
        file = _with_sizes(file)
        signals = {name: signal_spec(name, config) for name, config in file.signals.items()}
        setting = RuleContext(file.seed, signals)
        rules = {name: parse_rule(name, config, setting) for name, config in file.filters.items()}
        experiment = Experiment(path, file, signals, rules)
        for check in (
            _check_sources,
            _check_signals,
            _check_filters,
            _check_mixtures,
            _check_models,
            _check_training,
            _check_evaluation,
        ):
            check(experiment)
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return experiment


def _with_sizes(file: ExperimentFile) -> ExperimentFile:
    """Return the file with a mixture for each size in which one is trained on."""
    added = {}
    for name, size in product(file.training.mixtures, file.training.sizes):
        if (mixture := file.mixtures.get(name)) is None:
            continue  # an unknown name is reported by the other checks
        if mixture.total != "all" and size > mixture.total:
            raise InputError(f"training.sizes: found {size}, expected at most mixtures.{name}.total, {mixture.total}")
        added[sized_name(name, size)] = mixture.model_copy(update={"total": size})
    return file.model_copy(update={"mixtures": file.mixtures | added})


def file_names(paths: Sequence[str]) -> dict[str, str]:
    """Return each path with its name: its part below the folder that all share, so that names are unique."""
    folders = zip(*(path.split("/")[:-1] for path in paths), strict=False)  # commonpath would join the "//" of a URL
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, folders))
    return {path: "/".join(path.split("/")[shared:]).lstrip("/") for path in paths}


def _check_known(where: str, what: str, name: str, known: Any) -> None:
    if name not in known:
        raise InputError(f"{where}: {unknown_message(what, name, known)}")


def _check_sources(experiment: Experiment) -> None:
    for name, source in experiment.file.sources.items():
        try:
            reader = source_format(source.format, source.options)
        except InputError as error:
            key = "format" if source.format not in FORMATS else "options"
            raise InputError(f"sources.{name}.{key}: {str(error).removeprefix('options: ')}") from None
        if bool(reader.joins) != bool(source.joined):
            expected = f"the {reader.joins} files to join the rows to" if reader.joins else "none"
            joined = ", ".join(source.joined) or "none"
            raise InputError(f"sources.{name}.joined: {source.format}: expected {expected}, found {joined}")
        if experiment.file.web is None:
            experiment.source_files(name)


def _check_signals(experiment: Experiment) -> None:
    for name, spec in experiment.signals.items():
        for kind, input_name in spec.inputs().items():
            _check_known(f"signals.{name}.{kind}", "signal", input_name, experiment.signals)
            input_spec = experiment.signals[input_name]
            if input_spec.kind != kind:
                raise InputError(
                    f"signals.{name}.{kind}: expected a signal of the kind {kind}, found {input_spec.kind}"
                )
            if kind == "clusters" and input_spec.settings["clip"] != spec.settings["clip"]:
                message = f"expected clusters of {spec.settings['clip']}, found those of {input_spec.settings['clip']}"
                raise InputError(f"signals.{name}.clusters: {message}")
        if "model" in spec.settings:
            _check_known(f"signals.{name}.model", "model", spec.settings["model"], experiment.file.models)
        if spec.kind == "published":
            sources = experiment.file.sources.values()
            scores = {score for source in sources for score in source_format(source.format, source.options).scores}
            for column in (*spec.settings["numbers"], *spec.settings["texts"]):
                _check_known(f"signals.{name}", "published column", column, scores)


def _check_filters(experiment: Experiment) -> None:
    for name, rule in experiment.rules.items():
        for other in rule.filters():
            _check_known(f"filters.{name}", "filter", other, experiment.rules)
        for signal, columns in rule.signals().items():
            _check_known(f"filters.{name}", "signal", signal, experiment.signals)
            for column in columns:
                present = experiment.signals[signal].column_names()
                _check_known(f"filters.{name}", f"column of {signal}", column, present)
        for signal, column in (number for part in rule.walk() for number in part.numbers()):
            kind = experiment.signals[signal].columns().field(column).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise InputError(f"filters.{name}: expected a column of numbers, found {signal}.{column} ({kind})")
        for source in rule.sources():
            _check_known(f"filters.{name}", "source", source, experiment.file.sources)
        for path in rule.files():
            try:
                check_subset(path)
            except InputError as error:
                raise InputError(f"filters.{name}: {error}") from None
    for name in experiment.rules:
        _check_acyclic(experiment, name, ())


def _check_acyclic(experiment: Experiment, name: str, path: tuple[str, ...]) -> None:
    if name in path:
        raise InputError(f"filters.{name}: built on itself: {' -> '.join((*path, name))}")
    for other in experiment.rules[name].filters():
        _check_acyclic(experiment, other, (*path, name))


def _check_mixtures(experiment: Experiment) -> None:
    for name, mixture in experiment.file.mixtures.items():
        where = f"mixtures.{name}"
        parts = parts_of(name, mixture, experiment.mixture_sources(name))
        for other in filters_of(mixture):
            _check_known(f"{where}.filter", "filter", other, experiment.rules)
        for source in (*mixture.sources, *(source for part in parts for source in part.sources)):
            _check_known(where, "source", source, experiment.file.sources)
        for part in parts:
            if not set(part.sources) & set(experiment.mixture_sources(name)):
                raise InputError(f"{where}: the part {part.name!r} is of no source of the mixture")
            if part.condition:
                _check_column(experiment, where, part.condition)


def _check_column(experiment: Experiment, where: str, condition: ColumnCondition) -> None:
    _check_known(f"{where}.by", "signal", condition.signal, experiment.signals)
    columns = experiment.signals[condition.signal].columns()
    _check_known(f"{where}.by", f"column of {condition.signal}", condition.column, columns.names)
    kind = columns.field(condition.column).type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if condition.values and not pa.types.is_string(kind):
        raise InputError(f"{where}.by: expected a column of text, found {condition.column} ({kind}); cut it by buckets")
    if not condition.values and not number:
        raise InputError(f"{where}.by: expected a column of numbers, found {condition.column} ({kind})")


def _check_models(experiment: Experiment) -> None:
    for name, model in experiment.file.models.items():
        if model.trained is not None:
            mixture = model.trained.mixture
            _check_known(f"models.{name}.trained.mixture", "mixture", mixture, experiment.file.mixtures)
            needed = models_of_mixture(experiment, mixture)
            if name in needed:
                raise InputError(f"models.{name}.trained.mixture: {mixture} is filtered by a signal of this same model")
        if model.folder:
            check_folder(Path(model.folder), f"models.{name}.folder")


def signals_of_filter(experiment: Experiment, filter_name: str) -> set[str]:
    """Return every signal that a filter depends on, directly or through others."""
    todo_filters, signals = [filter_name], list[str]()
    while todo_filters:
        rule = experiment.rules[todo_filters.pop()]
        todo_filters.extend(rule.filters())
        signals.extend(rule.signals())
    return _with_inputs(experiment, signals)


def _with_inputs(experiment: Experiment, signals: Sequence[str]) -> set[str]:
    """Return these signals and all their inputs, direct and indirect."""
    closure, todo = set[str](), list(signals)
    while todo:
        name = todo.pop()
        if name not in closure:
            closure.add(name)
            todo.extend(experiment.signals[name].inputs().values())
    return closure


def models_of_mixture(experiment: Experiment, mixture: str) -> set[str]:
    """Return the models whose signals a mixture depends on: those of its filters and those that it is split by."""
    config = experiment.file.mixtures[mixture]
    signals = {name for filter_name in filters_of(config) for name in signals_of_filter(experiment, filter_name)}
    for name in signal_columns_of(parts_of(mixture, config, experiment.mixture_sources(mixture))):
        signals |= _with_inputs(experiment, [name])
    return {experiment.signals[signal].settings.get("model", "") for signal in signals} - {""}


def _check_training(experiment: Experiment) -> None:
    training = experiment.file.training
    for name in training.mixtures:
        _check_known("training.mixtures", "mixture", name, experiment.file.mixtures)
    if repeated := [size for size, count in Counter(training.sizes).items() if count > 1]:
        raise InputError(f"training.sizes: found {repeated[0]} more than once")
    if training.epochs is not None and training.checkpoints != 1:
        message = f"found {training.checkpoints} with training.epochs, expected checkpoints with samples_seen only"
        raise InputError(f"training.checkpoints: {message}: each epoch is one")
    if training.batch_size % training.processes:
        expected = f"expected a multiple of training.processes, {training.processes}"
        raise InputError(f"training.batch_size: found {training.batch_size}, {expected}")
    check_folder(Path(training.model), "training.model")
    check_flags(training.flags, "training.flags")
    if tuning := training.tuning:
        check_flags({key: low for key, (low, _) in tuning.flags.items()}, "training.tuning.flags")
        try:
            tuning.start(recipe_values(training.lr, training.wd, training.warmup, training.flags))
        except ValueError as error:
            raise InputError(f"training.tuning.{error}") from None
    _check_known("report.filter", "filter", experiment.file.report.filter, experiment.rules)
    for name in experiment.file.report.baseline:
        _check_known("report.baseline", "trained mixture", name, training.mixtures)


def _check_evaluation(experiment: Experiment) -> None:
    section = experiment.file.evaluation
    list(corruptions_of_sets(section))
    for name in section.models:
        _check_known("evaluation.models", "model", name, experiment.file.models)
    if experiment.file.web is None:
        check_sets(section)
