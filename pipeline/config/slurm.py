"""The section `training.slurm` of the experiment file."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.config.base import Count, Section

Word = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.,-]*)?$")]
"""A name of Slurm's: it stands in a line of the sbatch file, so it is nothing but letters, digits and _ . , -"""


class Slurm(Section):
    """How Slurm is asked to run the grid: what of a task's may differ between two clusters, and shapes no result.

    What is empty is the cluster's default. `cpus` null is `threads` for each of `processes`; `gpus` and `memory`
    (megabytes, or with K, M, G or T) are a task's too. `time` is Slurm's own form: minutes, or hours:minutes:seconds,
    with days- before it; a training that it ends goes on from its last whole epoch, as does one that was cancelled, in
    up to `attempts` tasks. At most `array_limit` tasks run at once. The launcher looks every `poll` seconds.
    """

    partition: Word = ""
    account: Word = ""
    qos: Word = ""
    constraint: Word = ""
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = "24:00:00"
    cpus: Count | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    memory: Annotated[str, Field(pattern=r"^(\d+[KMGT]?)?$")] = ""
    array_limit: Count = 16
    attempts: Count = 3
    poll: Annotated[float, Field(gt=0)] = 15.0

    @field_validator("time", mode="before")
    @classmethod
    def _in_quotes(cls, given: Any) -> Any:
        if isinstance(given, int):  # to YAML 24:00:00 is the number 86400
            raise ValueError(f'expected text, in quotes, such as "24:00:00", found the number {given}')
        return given
