"""The section `evaluation` of the experiment file."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.base import Name, Section
from pipeline.errors import unknown


class Synthetic(Section):
    """Shifts that are computed on the images of the sets `of`: each kind at each severity is an evaluation of its own.

    Kinds are those of `pipeline.evaluation.corruptions`, all of them where none is named.
    """

    of: Annotated[tuple[Name, ...], Field(min_length=1)]
    kinds: tuple[str, ...] = ()
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)

    @model_validator(mode="after")
    def _each_once(self) -> "Synthetic":
        for key, given in (("of", self.of), ("kinds", self.kinds), ("severities", self.severities)):
            once(key, given)
        return self


def once(key: str, given: Sequence[str | int]) -> None:
    """Raise ValueError where a list names something twice."""
    if twice := [one for one, times in Counter(given).items() if times > 1]:
        raise ValueError(f"{key}: expected each once, found {twice[0]} {Counter(given)[twice[0]]} times")


class Split(Section):
    """Two sets of the same classes in CLIP_benchmark's layout: what a probe is fitted on, and what it is tested on."""

    train: str
    test: str


class Evaluation(Section):
    """Evaluation sets in CLIP_benchmark's layout, by name; `reference` is the one that shifts are measured from.

    A linear probe is fitted and tested for each split of `probe`, and captioned images of `retrieval` are looked for
    by their captions. `models` are names of the section `models`, which are evaluated as the trainings are.
    """

    reference: str
    sets: Annotated[dict[Name, str], Field(min_length=1)]
    synthetic: Synthetic | None = None
    probe: dict[Name, Split] = {}
    retrieval: dict[Name, str] = {}
    models: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> "Evaluation":
        if self.reference not in self.sets:
            raise ValueError(unknown("evaluation set", self.reference, self.sets))
        for name in self.synthetic.of if self.synthetic else ():
            if name not in self.sets:
                raise ValueError(f"synthetic.of: {unknown('evaluation set', name, self.sets)}")
        once("models", self.models)
        return self
