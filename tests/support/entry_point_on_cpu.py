"""`pipeline.training.entry_point` for several processes without a GPU: open_clip_train hands its
DistributedDataParallel the CPU as `device_ids`, which torch refuses, so the product does too; without them the same
code runs over gloo.
"""

from typing import Any

import torch

from pipeline.training.entry_point import main

_Parallel = torch.nn.parallel.DistributedDataParallel


class OnCpu(_Parallel):
    """DistributedDataParallel that is told no device."""

    def __init__(self, module: torch.nn.Module, device_ids: Any = None, **more: Any) -> None:
        super().__init__(module, **more)


if __name__ == "__main__":
    torch.nn.parallel.DistributedDataParallel = OnCpu
    main()
