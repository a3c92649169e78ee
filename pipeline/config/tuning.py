"""The section `training.tuning`: which numbers of the recipe are searched for, where, and at what cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.config.base import Count, Section

Values = dict[str, float | int]
"""What a trial sets, by key: `lr`, `wd`, `warmup`, or `flags.NAME` for a flag of open_clip_train."""


@dataclass(frozen=True)
class Range:
    """Where a number is looked for, both ends included; `log` by its logarithm, `whole` among whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Ends = tuple[float, float]


class Tuning(Section):
    """A search before the comparison: for each mixture, in its largest size, `trials` trainings by the first seed.

    `lr`, `wd`, `warmup` and `flags` (of open_clip_train) are ranges, both ends included; `lr` and `wd` are searched by
    their logarithm. `held_out` is the share of the mixture's pairs that the trials do not train on and are judged by.
    `samples_seen` are a trial's, none: the recipe's budget. The best trial's numbers are used for every size and seed.
    """

    trials: Count = 10
    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    samples_seen: Count | None = None
    lr: Ends | None = None
    wd: Ends | None = None
    warmup: tuple[int, int] | None = None
    flags: dict[str, Ends] = {}

    @model_validator(mode="after")
    def _ranges(self) -> "Tuning":
        found = list(self._given())
        if not found:
            raise ValueError("expected a range of lr, wd, warmup or flags, found none")
        for key, (low, high) in found:
            if not low < high:
                raise ValueError(f"{key}: expected two numbers, the lower first, found {low} and {high}")
            if low < 0 or (low == 0 and key in ("lr", "wd")):
                raise ValueError(f"{key}: expected numbers above 0, found {low}")
        return self

    def _given(self) -> Iterator[tuple[str, tuple[float, float]]]:
        for key in ("lr", "wd", "warmup"):
            if (ends := getattr(self, key)) is not None:
                yield key, ends
        yield from ((f"flags.{key}", ends) for key, ends in self.flags.items())

    def ranges(self) -> dict[str, Range]:
        """Return the ranges by key, as `pipeline.training.tuning.search` takes them."""
        return {
            key: Range(float(low), float(high), log=key in ("lr", "wd"), whole=key == "warmup")
            for key, (low, high) in self._given()
        }

    def start(self, written: Values) -> Values:
        """Return what of the recipe as it is written is searched for; raise ValueError where it lies outside."""
        found = {key: value for key, value in written.items() if key in self.ranges()}
        for key, value in found.items():
            one = self.ranges()[key]
            if not one.low <= value <= one.high:
                raise ValueError(
                    f"{key}: expected a range that holds the recipe's own {value}, found {one.low} to {one.high}"
                )
        return found


def recipe_values(lr: float, wd: float, warmup: int, flags: Mapping[str, Any]) -> Values:
    """Return the numbers of a recipe that could be searched for, by the keys of the ranges."""
    numbers = {key: one for key, one in flags.items() if isinstance(one, int | float) and not isinstance(one, bool)}
    return {"lr": lr, "wd": wd, "warmup": warmup} | {f"flags.{key}": value for key, value in numbers.items()}
