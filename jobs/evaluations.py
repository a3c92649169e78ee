"""What a model is evaluated on: the part of the plan that the section `evaluation` asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, unknown
from pipeline.evaluation_section import Evaluation
from pipeline.evaluation_sets import EvaluationSet
from pipeline.shifts import KINDS, Shift


@dataclass(frozen=True)
class Asked:
    """One evaluation, of whatever model: its name in the ledger, and what of a job's configuration shapes it."""

    name: str
    config: dict[str, Any]


def asked(section: Evaluation, sets: Mapping[str, EvaluationSet], digests: Mapping[str, str]) -> list[Asked]:
    """Return every evaluation of a model, the sets first; `digests` are the sets'.

    A synthetic shift of a set is an evaluation beside it, photo+fog_3 say.
    """
    found = []
    for name in section.sets:
        config: dict[str, Any] = {"set": name, "sha256": digests[name]}
        if name == section.reference and (some := subsets(name, sets)):
            config["subsets"] = some
        found.append(Asked(name, config))
    for name, shift in synthetic(section):
        config = {"set": name, "sha256": digests[name], "corruption": shift.kind, "severity": shift.severity}
        found.append(Asked(f"{name}+{shift.name}", config))
    return found


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
        name: sorted(number[one] for one in held.classes)
        for name, held in sets.items()
        if set(held.classes) < number.keys()
    }
