"""The section `training` of the experiment file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Count, Section
from pipeline.config.slurm import Slurm
from pipeline.config.tuning import Tuning


class Training(Section):
    """One recipe for all mixtures, each with each of `sizes` (pairs; none: whole) and `seeds`.

    Of every mixture `samples_seen` are seen, in `checkpoints` equal parts, or `epochs` passes are made over each; a run
    that was stopped goes on from its last whole part or pass. `parallel` trainings run at once, each in `processes` of
    `threads` that share `batch_size`. `device` auto is cuda where torch sees one; `precision` is open_clip's, or auto:
    amp_bf16 where it is quick, else fp32. `flags` go to open_clip_train, `model` holds `open_clip_config.json`. With
    `slurm` each training is a task of a Slurm job array, and `parallel` means nothing. With `tuning`, numbers of the
    recipe are searched for each mixture first.
    """

    model: str
    mixtures: Annotated[tuple[str, ...], Field(min_length=1)]
    sizes: tuple[Count, ...] = ()
    samples_seen: Count | None = None
    epochs: Count | None = None
    checkpoints: Count = 1
    batch_size: Count = 128
    lr: Annotated[float, Field(gt=0)] = 1e-3
    wd: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 30
    precision: Literal["auto", "fp32", "amp", "amp_bf16", "bf16"] = "fp32"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: Count = 1
    parallel: Count = 1
    threads: Count = 2
    flags: dict[str, str | int | float | bool] = {}
    slurm: Slurm | None = None
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> "Training":
        if (self.samples_seen is None) == (self.epochs is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected exactly one of samples_seen and epochs, found {found}")
        if self.slurm and self.device == "cuda" and self.slurm.gpus < self.processes:
            raise ValueError(f"slurm.gpus: expected {self.processes}, one for each process, found {self.slurm.gpus}")
        return self
