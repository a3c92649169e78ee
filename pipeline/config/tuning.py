"""The section `training.tuning`: which hyperparameters of the recipe are searched, in which ranges, at what cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, model_validator

from pipeline.config.base import ConfigSection, Count

HyperparameterValues = dict[str, float | int]
"""What a trial sets, by key: `lr`, `wd`, `warmup`, or `flags.NAME` for a flag of open_clip_train."""


@dataclass(frozen=True)
class SearchRange:
    """A search range, both ends included; `log`: searched on a logarithmic scale, `whole`: among integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


RangeEnds = tuple[float, float]


class TuningConfig(ConfigSection):
    """A hyperparameter search before the comparison: for each mixture, in its largest size, with the first seed.

    The best trial's values are used for every size and seed of the mixture. Each range is given by its two ends, both
    included, the lower first, and must hold the recipe's own value. At least one of `lr`, `wd`, `warmup` and `flags` is
    required.
    """

    trials: Count = 10
    """Trainings of the search, for each mixture. Default: `10`. Example: `20`."""

    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the mixture's pairs that the trials do not train on and are judged by, above 0 and up to 0.5.
    Default: `0.1`. Example: `0.05`."""

    samples_seen: Count | None = None
    """Samples that each trial sees. Default: null, the recipe's budget. Example: `6400`."""

    lr: RangeEnds | None = None
    """Range of the learning rate, above 0, searched on a logarithmic scale. Default: null, not searched.
    Example: `[1.0e-4, 3.0e-3]`."""

    wd: RangeEnds | None = None
    """Range of the weight decay, above 0, searched on a logarithmic scale. Default: null, not searched.
    Example: `[0.01, 1]`."""

    warmup: tuple[int, int] | None = None
    """Range of the warm-up, in steps, searched among integers. Default: null, not searched. Example: `[0, 200]`."""

    flags: dict[str, RangeEnds] = {}
    """Ranges of flags of open_clip_train, numbers from 0 on, by the flag's name. Default: none.
    Example: `{beta2: [0.9, 0.99]}`."""

    @model_validator(mode="after")
    def _valid_ranges(self) -> "TuningConfig":
        ends_by_key = list(self._ends())
        if not ends_by_key:
            raise ValueError("expected a range of lr, wd, warmup or flags, found none")
        for key, (low, high) in ends_by_key:
            if not low < high:
                raise ValueError(f"{key}: expected two numbers, the lower first, found {low} and {high}")
            if low < 0 or (low == 0 and key in ("lr", "wd")):
                raise ValueError(f"{key}: expected numbers above 0, found {low}")
        return self

    def _ends(self) -> Iterator[tuple[str, tuple[float, float]]]:
        for key in ("lr", "wd", "warmup"):
            if (ends := getattr(self, key)) is not None:
                yield key, ends
        yield from ((f"flags.{key}", ends) for key, ends in self.flags.items())

    def ranges(self) -> dict[str, SearchRange]:
        """Return the ranges by key, as `pipeline.training.tuning.search` takes them."""
        return {
            key: SearchRange(float(low), float(high), log=key in ("lr", "wd"), whole=key == "warmup")
            for key, (low, high) in self._ends()
        }

    def start(self, written: HyperparameterValues) -> HyperparameterValues:
        """Return the recipe's own values of the hyperparameters that are searched, where the search starts.

        `written` are all numbers of the recipe. Raises ValueError where a value lies outside its range.
        """
        ranges = self.ranges()
        values = {key: value for key, value in written.items() if key in ranges}
        for key, value in values.items():
            bounds = ranges[key]
            if not bounds.low <= value <= bounds.high:
                raise ValueError(
                    f"{key}: expected a range that holds the recipe's own {value}, found {bounds.low} to {bounds.high}"
                )
        return values


def recipe_values(lr: float, wd: float, warmup: int, flags: Mapping[str, Any]) -> HyperparameterValues:
    """Return the numbers of a recipe that can be searched, by the keys of the ranges."""
    numbers = {
        name: value for name, value in flags.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {"lr": lr, "wd": wd, "warmup": warmup} | {f"flags.{name}": value for name, value in numbers.items()}
