"""The section `training` of the experiment file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import ConfigSection, Count
from pipeline.config.slurm import SlurmConfig
from pipeline.config.tuning import TuningConfig


class TrainingConfig(ConfigSection):
    """One recipe for all mixtures: a training for each mixture, size and seed.

    A training that was stopped continues from its last whole epoch, or from its last checkpoint with `samples_seen`.
    """

    model: str
    """Folder with `open_clip_config.json`, the architecture. Required. Example: `experiments/models/resnet_64px`."""

    mixtures: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the mixtures to train on, keys of the section `mixtures`. Required, at least one.
    Example: `[yfcc_only, all_filtered]`."""

    sizes: tuple[Count, ...] = ()
    """Nested subsets of each mixture to train on, in pairs; a subset is named `mixture@size`. Default: empty, each
    mixture whole. Example: `[1000, 4000]`."""

    samples_seen: Count | None = None
    """Samples that each training sees in total, the same for every mixture and size. Default: null. Exactly one of
    `samples_seen` and `epochs` is required. Example: `19200`."""

    epochs: Count | None = None
    """Passes over the data of each training. Default: null. Exactly one of `samples_seen` and `epochs` is required.
    Example: `32`."""

    checkpoints: Count = 1
    """Number of equal parts of `samples_seen`, with a checkpoint after each, from which a stopped training continues.
    Default: `1`. Example: `4`."""

    batch_size: Count = 128
    """Pairs in a batch, over all `processes` of a training together. Default: `128`. Example: `4096`."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate of AdamW. Default: `1.0e-3`. Example: `5.0e-4`."""

    wd: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of AdamW. Default: `0.1`. Example: `0.2`."""

    warmup: Annotated[int, Field(ge=0)] = 30
    """Steps in which the learning rate rises to its peak. Default: `30`. Example: `2000`."""

    precision: Literal["auto", "fp32", "amp", "amp_bf16", "bf16"] = "fp32"
    """Precision as open_clip_train's `--precision`; `auto` is amp_bf16 where the hardware computes it fast, else fp32.
    Default: `fp32`. Example: `auto`."""

    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Random seeds; each mixture and size is trained once with each. Default: `[0]`. Example: `[0, 1, 2]`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the trainings; `auto` is cuda where torch finds such a device, else cpu. Default: `auto`. Example:
    `cuda`."""

    processes: Count = 1
    """Processes of one training, by torchrun; with `device: cuda` one for each GPU. Default: `1`. Example: `8`."""

    parallel: Count = 1
    """Trainings that run at the same time on this machine; without effect with `slurm`. Default: `1`. Example: `2`."""

    threads: Count = 2
    """CPU threads of each process. Default: `2`. Example: `4`."""

    flags: dict[str, str | int | float | bool] = {}
    """Further flags of open_clip_train, without the leading dashes. Default: none. Example: `{beta2: 0.95}`."""

    slurm: SlurmConfig | None = None
    """Run each training as a task of a Slurm job array. Default: null, on this machine.
    Example: `{partition: gpu, gpus: 1}`."""

    tuning: TuningConfig | None = None
    """Search hyperparameters for each mixture before the trainings. Default: null, no search.
    Example: `{trials: 10, lr: [1.0e-4, 3.0e-3]}`."""

    @model_validator(mode="after")
    def _one_budget(self) -> "TrainingConfig":
        if (self.samples_seen is None) == (self.epochs is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected exactly one of samples_seen and epochs, found {found}")
        if self.slurm and self.device == "cuda" and self.slurm.gpus < self.processes:
            raise ValueError(f"slurm.gpus: expected {self.processes}, one for each process, found {self.slurm.gpus}")
        return self
