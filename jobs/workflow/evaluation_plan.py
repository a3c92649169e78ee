"""What a model is evaluated on: the part of the plan that the section `evaluation` configures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import EvaluationConfig
from pipeline.errors import InputError, unknown_message
from pipeline.evaluation.corruptions import CORRUPTION_KINDS, Corruption
from pipeline.evaluation.datasets import EvaluationSet, open_captions, open_set


@dataclass(frozen=True)
class PlannedEvaluation:
    """One evaluation of any model: its name in the ledger, and its part of a job's configuration."""

    name: str
    task: str  # of `jobs.workflow.stages.CODE_ROOTS`
    config: dict[str, Any]
    roots: tuple[str, ...] = ()  # of its code, beside those of the task


def planned_evaluations(
    section: EvaluationConfig, sets: Mapping[str, EvaluationSet], digests: Mapping[str, str]
) -> list[PlannedEvaluation]:
    """Return every evaluation of a model, the sets first; `digests` are the sets'.

    A synthetic corruption of a set is another evaluation, such as photo+fog_3; so are probe:photo and retrieval:photo.
    """
    evaluations = []
    for name in section.sets:
        config: dict[str, Any] = {"set": name, "sha256": digests[name]}
        if name == section.reference and (class_subsets := subsets(name, sets)):
            config["subsets"] = class_subsets
        evaluations.append(PlannedEvaluation(name, "zero_shot", config))
    for name, shift in corruptions_of_sets(section):
        config = {"set": name, "sha256": digests[name], "corruption": shift.kind, "severity": shift.severity}
        evaluations.append(PlannedEvaluation(f"{name}+{shift.name}", "zero_shot", config, (shift.entry,)))
    for name in section.probe:
        train, test = open_split(section, name)
        evaluations.append(
            PlannedEvaluation(f"probe:{name}", "probe", {"probe": name, "train": train.digest(), "test": test.digest()})
        )
    for name, folder in section.retrieval.items():
        config = {"retrieval": name, "sha256": open_captions(name, Path(folder)).digest()}
        evaluations.append(PlannedEvaluation(f"retrieval:{name}", "retrieval", config))
    return evaluations


def open_split(section: EvaluationConfig, name: str) -> tuple[EvaluationSet, EvaluationSet]:
    """Return the sets that a probe is fitted and tested on; raise InputError where their classes are not the same."""
    probe, key = section.probe[name], f"evaluation.probe.{name}"
    train = open_set(f"{name} (train)", Path(probe.train), f"{key}.train")
    test = open_set(name, Path(probe.test), f"{key}.test")
    if train.classes != test.classes:
        message = f"found {len(train.classes)} and {len(test.classes)}, or different classes, or another order"
        raise InputError(f"{key}: expected the same classnames.txt in {probe.train} and {probe.test}, {message}")
    return train, test


def check_sets(section: EvaluationConfig) -> None:
    """Raise InputError at the first set that is not in its layout."""
    for name, folder in section.sets.items():
        open_set(name, Path(folder))
    for name in section.probe:
        open_split(section, name)
    for name, folder in section.retrieval.items():
        open_captions(name, Path(folder))


def corruptions_of_sets(section: EvaluationConfig) -> Iterator[tuple[str, Corruption]]:
    """Yield each set with each corruption of its images; raise InputError at an unknown kind."""
    corruptions = section.synthetic
    if corruptions is None:
        return
    for name in corruptions.of:
        for position, kind in enumerate(corruptions.kinds or CORRUPTION_KINDS):
            if kind not in CORRUPTION_KINDS:
                raise InputError(
                    f"evaluation.synthetic.kinds.{position}: {unknown_message('kind of shift', kind, CORRUPTION_KINDS)}"
                )
            for severity in corruptions.severities:
                yield name, Corruption(kind, severity)


def subsets(reference: str, sets: Mapping[str, EvaluationSet]) -> dict[str, list[int]]:
    """Return, by set, the numbers of the reference's classes that it holds, for sets that hold fewer and no other.

    Classes are identified by their names. A set with a class that the reference lacks has no fair subset of it.
    """
    class_ids = {name: class_id for class_id, name in enumerate(sets[reference].classes)}
    return {
        name: sorted({class_ids[class_name] for class_name in evaluation_set.classes})
        for name, evaluation_set in sets.items()
        if set(evaluation_set.classes) < class_ids.keys()
    }
