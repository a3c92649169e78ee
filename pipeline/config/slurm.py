"""The section `training.slurm` of the experiment file."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from pipeline.config.base import ConfigSection, Count

SlurmName = Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.,-]*)?$")]
"""A name of Slurm's. It is written into a line of the sbatch file, so it holds only letters, digits and _ . , -"""


class SlurmConfig(ConfigSection):
    """How Slurm runs the grid of trainings: settings that differ between clusters and change no result.

    A training that Slurm ends at its time limit continues from its last whole epoch, as does a cancelled one.
    """

    partition: SlurmName = ""
    """Slurm partition. Default: empty, the cluster's default. Example: `gpu`."""

    account: SlurmName = ""
    """Slurm account that the time is charged to. Default: empty, the cluster's default. Example: `vision`."""

    qos: SlurmName = ""
    """Slurm quality of service. Default: empty, the cluster's default. Example: `long`."""

    constraint: SlurmName = ""
    """Node features that Slurm must find. Default: empty, no constraint. Example: `a100`."""

    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d+){0,2}$")] = "24:00:00"
    """Time limit of one task, in Slurm's notation: minutes, or hours:minutes:seconds, either with `days-` before it; in
    quotes, as YAML reads 24:00:00 as a number. Default: `"24:00:00"`. Example: `"2-00:00:00"`."""

    cpus: Count | None = None
    """CPU cores of one task. Default: null, `training.threads` for each of `training.processes`. Example: `16`."""

    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of one task; with `training.device: cuda` at least `training.processes`. Default: `0`. Example: `4`."""

    memory: Annotated[str, Field(pattern=r"^(\d+[KMGT]?)?$")] = ""
    """Memory of one task, in megabytes or with the suffix K, M, G or T. Default: empty, the cluster's default. Example:
    `64G`."""

    array_limit: Count = 16
    """Most tasks of the job array that run at the same time. Default: `16`. Example: `4`."""

    attempts: Count = 3
    """Most tasks that one training may take, the first included, when Slurm ends or cancels it. Default: `3`. Example:
    `5`."""

    poll: Annotated[float, Field(gt=0)] = 15.0
    """Seconds between two queries of the tasks' state by the launcher. Default: `15`. Example: `60`."""

    @field_validator("time", mode="before")
    @classmethod
    def _reject_unquoted(cls, value: Any) -> Any:
        if isinstance(value, int):  # YAML reads 24:00:00 as the number 86400
            raise ValueError(f'expected text, in quotes, such as "24:00:00", found the number {value}')
        return value
