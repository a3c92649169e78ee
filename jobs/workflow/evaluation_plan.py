"""What a model is evaluated on: the part of the plan that the section `evaluation` asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.evaluation import Evaluation
from pipeline.errors import InputError, unknown
from pipeline.evaluation.corruptions import KINDS, Shift
from pipeline.evaluation.datasets import EvaluationSet, open_captions, open_set


@dataclass(frozen=True)
class Asked:
    """One evaluation, of whatever model: its name in the ledger, and what of a job's configuration shapes it."""

    name: str
    task: str  # of `jobs.workflow.stages.ROOTS`
    config: dict[str, Any]
    roots: tuple[str, ...] = ()  # of its code, beside those of the task


def asked(section: Evaluation, sets: Mapping[str, EvaluationSet], digests: Mapping[str, str]) -> list[Asked]:
    """Return every evaluation of a model, the sets first; `digests` are the sets'.

    A synthetic shift of a set is an evaluation beside it, photo+fog_3 say; so are probe:photo and retrieval:photo.
    """
    found = []
    for name in section.sets:
        config: dict[str, Any] = {"set": name, "sha256": digests[name]}
        if name == section.reference and (some := subsets(name, sets)):
            config["subsets"] = some
        found.append(Asked(name, "zero_shot", config))
    for name, shift in synthetic(section):
        config = {"set": name, "sha256": digests[name], "corruption": shift.kind, "severity": shift.severity}
        found.append(Asked(f"{name}+{shift.name}", "zero_shot", config, (shift.entry,)))
    for name in section.probe:
        train, test = open_split(section, name)
        found.append(Asked(f"probe:{name}", "probe", {"probe": name, "train": train.digest(), "test": test.digest()}))
    for name, folder in section.retrieval.items():
        config = {"retrieval": name, "sha256": open_captions(name, Path(folder)).digest()}
        found.append(Asked(f"retrieval:{name}", "retrieval", config))
    return found


def open_split(section: Evaluation, name: str) -> tuple[EvaluationSet, EvaluationSet]:
    """Return the sets that a probe is fitted and tested on; raise InputError where their classes are not the same."""
    given, where = section.probe[name], f"evaluation.probe.{name}"
    train = open_set(f"{name} (train)", Path(given.train), f"{where}.train")
    test = open_set(name, Path(given.test), f"{where}.test")
    if train.classes != test.classes:
        said = f"found {len(train.classes)} and {len(test.classes)}, or others, or in another order"
        raise InputError(f"{where}: expected the same classnames.txt in {given.train} and {given.test}, {said}")
    return train, test


def check_sets(section: Evaluation) -> None:
    """Raise InputError at the first set that is not in its layout."""
    for name, folder in section.sets.items():
        open_set(name, Path(folder))
    for name in section.probe:
        open_split(section, name)
    for name, folder in section.retrieval.items():
        open_captions(name, Path(folder))


def synthetic(section: Evaluation) -> Iterator[tuple[str, Shift]]:
    """Yield each set and each shift that is computed on its images; raise InputError where there is no such kind."""
    given = section.synthetic
    if given is None:
        return
    for name in given.of:
        for place, kind in enumerate(given.kinds or KINDS):
            if kind not in KINDS:
                raise InputError(f"evaluation.synthetic.kinds.{place}: {unknown('kind of shift', kind, KINDS)}")
            for severity in given.severities:
                yield name, Shift(kind, severity)


def subsets(reference: str, sets: Mapping[str, EvaluationSet]) -> dict[str, list[int]]:
    """Return, by set, the numbers of the reference's classes that it holds, for sets that hold fewer and no other.

    Classes are told by their names. A set with a class that the reference lacks has no fair subset of it.
    """
    number = {name: place for place, name in enumerate(sets[reference].classes)}
    return {
        name: sorted({number[one] for one in held.classes})
        for name, held in sets.items()
        if set(held.classes) < number.keys()
    }
