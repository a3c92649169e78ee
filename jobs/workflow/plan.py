"""The plan: every job of an experiment with its id, known before anything runs.

A job's id is a digest over its stage and name, its part of the configuration, the digests of the files it reads, its
code, and the ids of the jobs whose rows it reads. So the same inputs have the same id wherever the store lies, a job
that is finished is not run again, and a changed threshold touches only what comes after it. Takedowns are part
of no id: a takedown edits existing rows, and must not make an ingest run again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from jobs.workflow.evaluation_plan import planned_evaluations
from jobs.workflow.experiment import Experiment
from jobs.workflow.stages import STAGES, code_of, rule_roots, signal_roots
from pipeline.config.ingest import RESULT_NEUTRAL_KEYS
from pipeline.core.code_version import data_digest
from pipeline.core.digests import digest
from pipeline.evaluation.datasets import EvaluationSet, open_set
from pipeline.ledger.tables import Ledger
from pipeline.mixtures.names import base_name, sized_name
from pipeline.mixtures.parts import filters_of, parts_of, signal_columns_of
from pipeline.models.checkpoint import CONFIG_FILE
from pipeline.storage.file_digests import file_digests, folder_digest
from pipeline.storage.store import Store
from sources.registry import source_entry, source_format

T = TypeVar("T")

GRID_KEYS, BUDGET_KEYS = ("mixtures", "sizes", "seeds"), ("samples_seen", "epochs", "checkpoints")
"""Keys of `training` that say which trainings there are, and how long one is."""


@dataclass(frozen=True)
class Job:
    """One job. `config` shapes its result and is in its id; `local` is how this machine runs it, and is not."""

    stage: str
    name: str
    config: dict[str, Any]
    needs: "tuple[Job, ...]"
    code: str
    local: dict[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def id(self) -> str:
        """The job's id, 64 hex digits."""
        inputs = sorted(job.id for job in self.needs)
        return digest([self.stage, self.name, self.config, inputs, self.code])

    @property
    def short(self) -> str:
        """The id's first 16 digits, which name its folders."""
        return self.id[:16]

    def __hash__(self) -> int:
        return hash(self.id)


def export_folder(job: Job) -> str:
    """Return where an export lies in the store."""
    return f"exports/{job.name}/{job.short}"


def model_reference(store: Store, local: str) -> str:
    """Return a model reference that `pipeline.models.clip.load_clip` takes, from a job's `local` entry."""
    return f"local-dir:{store.local_folder(local.removeprefix('store:'))}" if local.startswith("store:") else local


class Plan:
    """The jobs of an experiment; each is built once, with those it needs.

    With a ledger, the finished retries of an ingest count as part of it. With `failed`, so does the next retry of each
    source in which something failed for transient reasons: `failed` tells whether the given ingest jobs have any.
    """

    def __init__(
        self,
        experiment: Experiment,
        ledger: Ledger | None = None,
        failed: Callable[[list[str]], bool] | None = None,
    ) -> None:
        self.experiment = experiment
        self._ledger = ledger
        self._failed = failed
        self._cache: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        if key not in self._cache:
            self._cache[key] = make()
        result: T = self._cache[key]
        return result

    def ingest(self, source: str) -> list[Job]:
        """The job that ingests a source, and its retries."""
        return self._once(("ingest", source), lambda: list(self._ingest(source)))

    def _ingest(self, source: str) -> Iterable[Job]:
        source_config = self.experiment.file.sources[source]
        paths = self.experiment.source_files(source)
        joined = self.experiment.joined_files(source)
        fetch = self.experiment.file.ingest.model_dump(mode="json", exclude=set(RESULT_NEUTRAL_KEYS))
        source_settings = source_config.model_dump(mode="json", exclude={"files", "joined"})
        config = {
            "source": source,
            "files": file_digests({**paths, **joined}),
            "fetch": fetch,
            "about": source_settings,
        }
        reader = source_format(source_config.format, source_config.options)
        readers = [source_entry(name) for name in (source_config.format, reader.joins) if name]
        local = {"paths": paths, "joined": joined}
        jobs = [Job("ingest", source, config, (), code_of("ingest", readers), local)]
        yield jobs[0]
        while self._ledger is not None and self._ledger.finished(jobs[0].id) is not None:
            attempt = {"of": jobs[0].id, "number": len(jobs)}
            name = f"{source}/retry-{len(jobs)}"
            retry = {"source": source, "retry": attempt, "fetch": fetch}
            job = Job("ingest", name, retry, tuple(jobs), code_of("retry"), local)
            if self._ledger.finished(job.id) is None:
                if self._failed is not None and self._failed([previous.id for previous in jobs]):
                    yield job
                return
            jobs.append(job)
            yield job

    def ingests(self) -> tuple[Job, ...]:
        """The ingest jobs of all sources, their retries included."""
        return tuple(job for source in self.experiment.file.sources for job in self.ingest(source))

    def signal(self, name: str) -> tuple[Job, ...]:
        """The jobs that compute a signal: one for each source, or one for all where it looks at the whole corpus."""
        return self._once(("signal", name), lambda: tuple(self._signal(name)))

    def _signal(self, name: str) -> Iterable[Job]:
        spec = self.experiment.signals[name]
        config: dict[str, Any] = {"signal": name, "kind": spec.kind, "settings": spec.settings}
        local: dict[str, Any] = {}
        needs: tuple[Job, ...] = ()
        if "model" in spec.settings:
            model, needs, local = self.model(spec.settings["model"])
            config["model"] = model
        if files := spec.files():
            config["files"] = [file["sha256"] for file in file_digests(dict.fromkeys(files, ""))]
        if spec.scope == "shard":
            for ingest in self.ingests():
                version, shard_local = code_of((), signal_roots(spec.kind)), local | {"over": "shards"}
                yield Job("score", f"{name}/{ingest.name}", config, (ingest, *needs), version, shard_local)
            return
        inputs = tuple(job for other in spec.inputs().values() for job in self.signal(other))
        if spec.evaluation:
            config["evaluation_sets"] = list(self.evaluation_digests().items())  # their order shapes the rows
        if folders := spec.sets():
            config["sets"] = [open_set(name, Path(folder)).digest() for folder in folders]
        if spec.evaluation:
            needs = self.indexes(name)
        elif folders:
            clip = self.experiment.signals[spec.settings["clip"]]
            model, needs, local = self.model(clip.settings["model"])
            config["model"] = model
        version = code_of((), signal_roots(spec.kind))
        yield Job("score", name, config, (*inputs, *self.ingests(), *needs), version, local)

    def indexes(self, name: str) -> tuple[Job, ...]:
        """The jobs that build what a signal searches: an index of each evaluation set, in the order of the file."""
        sets = self.experiment.evaluation_sets().values()
        return tuple(self.index(evaluation, self.experiment.signals[name].settings) for evaluation in sets)

    def index(self, evaluation: EvaluationSet, settings: Mapping[str, Any]) -> Job:
        """The job that builds the index of a set by the model of the signal that the setting `clip` names."""
        clip = self.experiment.signals[settings["clip"]].settings
        model, needs, local = self.model(clip["model"])
        config = {"set": evaluation.digest(), "model": model, "precision": clip["precision"]}
        config |= {key: settings[key] for key in ("min_recall", "index_mb")}
        return Job("score", f"index/{evaluation.name}", config, needs, code_of("index"), local | {"set": evaluation})

    def evaluation_digests(self) -> dict[str, str]:
        """The digest of each evaluation set."""
        return self._once(
            ("sets",),
            lambda: {name: evaluation.digest() for name, evaluation in self.experiment.evaluation_sets().items()},
        )

    def model(self, name: str) -> tuple[Any, tuple[Job, ...], dict[str, Any]]:
        """A model's part of a job's configuration, the jobs it depends on, and how to find it on this machine."""
        model_config = self.experiment.file.models[name]
        if model_config.trained is not None:
            job = self.train(
                model_config.trained.mixture, self.experiment.file.training.seeds[0], model_config.trained.samples_seen
            )
            return {"trained": True}, (job,), {"model": f"store:trainings/{job.short}/model"}
        if model_config.folder:
            return (
                {"folder": folder_digest(Path(model_config.folder))},
                (),
                {"model": f"local-dir:{model_config.folder}"},
            )
        weights = {"name": model_config.name, "pretrained": model_config.pretrained}
        return weights, (), {"model": f"{model_config.name}::{model_config.pretrained}"}

    def decide(self, name: str) -> Job:
        """The job that decides by a filter."""
        return self._once(("decide", name), lambda: self._decide(name))

    def _decide(self, name: str) -> Job:
        rule = self.experiment.rules[name]
        signals = [job for signal in sorted(rule.signals()) for job in self.signal(signal)]
        parts = [self.decide(other) for other in rule.filters()]
        needs = (*parts, *signals, *(self.ingests() if not parts else ()))
        config = dict(self.experiment.file.filters[name])
        if rule.seeded():
            config["seed"] = self.experiment.file.seed
        if files := rule.files():
            config["files"] = [file["sha256"] for file in file_digests(dict.fromkeys(files, ""))]
        return Job("decide", name, config, needs, code_of((), rule_roots(rule)))

    def blend(self, name: str) -> Job:
        """The job that selects the pairs of a mixture."""
        return self._once(("blend", name), lambda: self._blend(name))

    def _blend(self, name: str) -> Job:
        mixture = self.experiment.file.mixtures[name]
        sources = self.experiment.mixture_sources(name)
        shaping = mixture.model_dump(mode="json", exclude={"uids", "missing", "repeat_as"})
        config = shaping | {"seed": self.experiment.file.seed, "of": sources}
        if mixture.uids:
            config["uids"] = file_digests({mixture.uids: ""})[0]["sha256"]
        ingests = tuple(job for source in sources for job in self.ingest(source))
        decisions = tuple(self.decide(other) for other in filters_of(mixture))
        signals = [job for signal in signal_columns_of(parts_of(name, mixture, sources)) for job in self.signal(signal)]
        return Job("blend", name, config, (*decisions, *signals, *ingests), code_of("blend"))

    def export(self, name: str) -> Job:
        """The job that exports a mixture."""
        return self._once(("export", name), lambda: self._export(name))

    def _export(self, name: str) -> Job:
        file = self.experiment.file
        config = file.export.model_dump(mode="json") | {"seed": file.seed, "repeat_as": file.mixtures[name].repeat_as}
        ingests = tuple(job for source in self.experiment.mixture_sources(name) for job in self.ingest(source))
        return Job("export", name, config, (self.blend(name), *ingests), code_of("export"))

    def tune(self, mixture: str) -> Job:
        """The job that searches the hyperparameters for a mixture, on its largest size and by the first seed."""
        return self._once(("tune", mixture), lambda: self._tune(mixture))

    def _tune(self, mixture: str) -> Job:
        training = self.experiment.file.training
        assert training.tuning is not None
        largest = max(training.sizes, default=None)
        name = sized_name(mixture, largest) if largest else mixture
        samples = training.tuning.samples_seen or training.samples_seen
        recipe, local = self._recipe(name, training.seeds[0], samples)
        config = recipe | {"tuning": training.tuning.model_dump(mode="json", exclude={"samples_seen"})}
        return Job("tune", mixture, config, (self.export(name),), code_of(("tune", "train")), local)

    def train(self, mixture: str, seed: int, samples_seen: int | None, tuned: bool = False) -> Job:
        """The job that trains on a mixture, on so many samples, or by the recipe's epochs where they are None; `tuned`:
        with the hyperparameters that were found for the mixture.
        """
        key = ("train", mixture, seed, samples_seen, tuned)
        return self._once(key, lambda: self._train(mixture, seed, samples_seen, tuned))

    def _train(self, mixture: str, seed: int, samples_seen: int | None, tuned: bool) -> Job:
        config, local = self._recipe(mixture, seed, samples_seen)
        needs = (self.export(mixture), *((self.tune(base_name(mixture)),) if tuned else ()))
        return Job("train", f"{mixture}/{seed}", config, needs, code_of("train"), local)

    def _recipe(self, mixture: str, seed: int, samples_seen: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recipe's part of a job's configuration, and where this machine finds what it trains."""
        training = self.experiment.file.training
        recipe = training.model_dump(
            mode="json", exclude={*GRID_KEYS, *BUDGET_KEYS, "parallel", "model", "slurm", "tuning"}
        )
        budget = {"samples_seen": samples_seen, "checkpoints": training.checkpoints}
        if samples_seen is None:
            budget = {"epochs": training.epochs}
        architecture = file_digests({f"{training.model.rstrip('/')}/{CONFIG_FILE}": CONFIG_FILE})[0]["sha256"]
        return recipe | budget | {"seed": seed, "model": architecture}, {"model": training.model, "mixture": mixture}

    def grid(self) -> list[Job]:
        """The trainings that are compared: every mixture in every size with every seed."""
        training = self.experiment.file.training
        names = self.experiment.trained_mixtures()
        tuned = training.tuning is not None
        return [self.train(name, seed, training.samples_seen, tuned) for name in names for seed in training.seeds]

    def evaluate(self, training: Job) -> list[Job]:
        """The jobs that evaluate a training: one for each evaluation that is configured."""
        local = {"model": f"store:trainings/{training.short}/model", "training": training.short}
        local["mixture"] = training.local["mixture"]
        return self._once(
            ("evaluate", training.id), lambda: list(self._evaluate(training.name, {}, (training,), local))
        )

    def evaluate_model(self, name: str) -> list[Job]:
        """The jobs that evaluate a model beside the trainings: the same evaluations, under the model's name."""
        model, needs, model_local = self.model(name)
        local = {**model_local, "training": name, "mixture": ""}
        return self._once(
            ("evaluate", name), lambda: list(self._evaluate(f"model:{name}", {"model": model}, needs, local))
        )

    def _evaluate(
        self, name: str, extra: dict[str, Any], needs: tuple[Job, ...], local: dict[str, Any]
    ) -> Iterable[Job]:
        section, sets = self.experiment.file.evaluation, self.experiment.evaluation_sets()
        for evaluation in self._once(("asked",), lambda: planned_evaluations(section, sets, self.evaluation_digests())):
            version = code_of(evaluation.task, evaluation.roots)
            yield Job("evaluate", f"{name}/{evaluation.name}", evaluation.config | extra, needs, version, local)

    def report(self) -> Job:
        """The report's job; it needs all others."""
        return self._once(("report",), self._report)

    def _report(self) -> Job:
        file = self.experiment.file
        config = file.report.model_dump(mode="json") | {"title": file.title, "question": file.question}
        needs = [job for stage in STAGES[:-1] for job in self.targets(stage)]
        version = digest([code_of("report"), data_digest("pipeline.report", "templates")])
        return Job("report", self.experiment.name, config, tuple(needs), version)

    def targets(self, stage: str) -> list[Job]:
        """The jobs of a stage, without those they need."""
        file = self.experiment.file
        if stage == "ingest":
            return list(self.ingests())
        if stage == "score":
            return [job for name in self.experiment.signals for job in self.signal(name)]
        if stage == "decide":
            return [self.decide(name) for name in self.experiment.rules]
        if stage == "blend":
            return [self.blend(name) for name in file.mixtures]
        if stage == "export":
            return [self.export(name) for name in file.mixtures]
        if stage == "tune":
            training = file.training
            return [self.tune(name) for name in training.mixtures] if training.tuning else []
        if stage == "train":
            return self.grid()
        if stage == "evaluate":
            models = [job for name in file.evaluation.models for job in self.evaluate_model(name)]
            return [*(job for training in self.grid() for job in self.evaluate(training)), *models]
        return [self.report()]

    def until(self, stage: str) -> list[Job]:
        """All jobs up to a stage and all that they need, each after those it needs."""
        ordered: dict[str, Job] = {}

        def visit(job: Job) -> None:
            if job.id not in ordered:
                for other in job.needs:
                    visit(other)
                ordered[job.id] = job

        for name in STAGES[: STAGES.index(stage) + 1]:
            for job in self.targets(name):
                visit(job)
        return list(ordered.values())


def needs_of_stage(job: Job, stage: str) -> list[Job]:
    """Return the jobs of a stage that a job needs directly."""
    return [other for other in job.needs if other.stage == stage]
