"""The section `evaluation` of the experiment file."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.base import ConfigSection, Name
from pipeline.errors import unknown_message


class CorruptionConfig(ConfigSection):
    """Synthetic corruptions of evaluation images: each kind at each severity is an evaluation of its own.

    They are computed from the images during evaluation; nothing is stored.
    """

    of: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of the evaluation sets (keys of `evaluation.sets`) whose images are corrupted; each at most once.
    Required. Example: `[photo]`."""

    kinds: tuple[str, ...] = ()
    """Kinds of corruption, those of `pipeline.evaluation.corruptions`; each at most once. Default: empty, which means
    all kinds. Example: `[fog, gaussian_noise]`."""

    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 3, 5)
    """Severities, from 1 (weakest) to 5 (strongest); each at most once. Default: `[1, 3, 5]`. Example: `[5]`."""

    @model_validator(mode="after")
    def _no_duplicates(self) -> "CorruptionConfig":
        for key, values in (("of", self.of), ("kinds", self.kinds), ("severities", self.severities)):
            check_unique(key, values)
        return self


def check_unique(key: str, given: Sequence[str | int]) -> None:
    """Raise ValueError where the list at `key` holds a value twice."""
    if repeated := [value for value, times in Counter(given).items() if times > 1]:
        raise ValueError(f"{key}: expected each once, found {repeated[0]} {Counter(given)[repeated[0]]} times")


class ProbeConfig(ConfigSection):
    """Two evaluation sets of the same classes in CLIP_benchmark's layout, for a linear probe."""

    train: str
    """Folder of the set on which the probe is fitted. Required. Example: `sets/photo_train`."""

    test: str
    """Folder of the set on which the probe is tested; it must share no image with `train`. Required.
    Example: `sets/photo`."""


class EvaluationConfig(ConfigSection):
    """What the models are evaluated on, in CLIP_benchmark's WebDataset layout."""

    reference: str
    """Name of the reference set, a key of `sets`: distribution shifts are measured from it. Required.
    Example: `photo`."""

    sets: Annotated[dict[Name, str], Field(min_length=1)]
    """Folder of each zero-shot evaluation set, by name. Required, at least one.
    Example: `{photo: sets/photo, sketch: sets/sketch}`."""

    synthetic: CorruptionConfig | None = None
    """Synthetic corruptions to evaluate as well. Default: null, none.
    Example: `{of: [photo], kinds: [fog], severities: [1, 3, 5]}`, reported as `photo+fog_1` and so on."""

    probe: dict[Name, ProbeConfig] = {}
    """Linear probes by name; one is fitted and tested for each pair of sets, and reported as `probe:<name>`. Default:
    none. Example: `{photo: {train: sets/photo_train, test: sets/photo}}`."""

    retrieval: dict[Name, str] = {}
    """Folder of each retrieval set by name: tars of captioned images, which are searched by their captions; reported as
    `retrieval:<name>`. Default: none. Example: `{captions: sets/captions}`."""

    models: tuple[str, ...] = ()
    """Names of the section `models` that are evaluated as the trained models are; each at most once. Default: none.
    Example: `[clip]`."""

    @model_validator(mode="after")
    def _known_names(self) -> "EvaluationConfig":
        if self.reference not in self.sets:
            raise ValueError(unknown_message("evaluation set", self.reference, self.sets))
        for name in self.synthetic.of if self.synthetic else ():
            if name not in self.sets:
                raise ValueError(f"synthetic.of: {unknown_message('evaluation set', name, self.sets)}")
        check_unique("models", self.models)
        return self
