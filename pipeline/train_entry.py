"""`python -m pipeline.train_entry ARGS…`: open_clip_train's own main, made repeatable and safe to abandon.

Two things are added around it. Its loader shuffles with a generator seeded by the clock; here the seed comes from
torch's, so the same arguments give the same batches. And it ends when the process that started it ends, which is
seen by the end of standard input, so that a killed launcher leaves no training behind.
"""

import os
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
import webdataset
from webdataset.filters import _shuffle, pipelinefilter

_calls = count()


def _seeded_shuffle(data: Iterable[Any], bufsize: int = 1000, initial: int = 100) -> Iterator[Any]:
    """Shuffle as webdataset does, with a generator seeded by this process's torch seed and the pass's number."""
    rng = random.Random(f"{torch.initial_seed()}:{next(_calls)}")  # noqa: S311 - the order of samples is no secret
    yield from _shuffle(iter(data), bufsize, initial, rng)


def _end_with_parent() -> None:
    while os.read(0, 1):  # the descriptor, not sys.stdin, whose lock a forked loader would find taken
        pass
    os._exit(1)


def main() -> None:
    """Run open_clip_train with the process's arguments."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    webdataset.shuffle = pipelinefilter(_seeded_shuffle)
    from open_clip_train.main import main as open_clip_main

    open_clip_main(sys.argv[1:])


if __name__ == "__main__":
    main()
