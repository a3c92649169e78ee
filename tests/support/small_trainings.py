"""Small real trainings: an export of drawn pairs, a recipe of seconds, and how to find and wait for their processes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import StageFailed
from pipeline.export.manifest import manifest, sizes_json
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store
from pipeline.training.recipe import TrainingRecipe
from sources.world.pictures import Picture, render_file
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES
from tests.support.road_experiment import ROOT

MODEL = ROOT / "experiments" / "models" / "resnet_64px"


RECIPE = TrainingRecipe(
    samples_seen=190, batch_size=8, lr=1e-3, wd=0.1, warmup=2, precision="fp32", seed=3, threads=1, flags={}, epochs=4
)


def write_export(folder: Path, per_tar: tuple[int, ...]) -> Path:
    """Write an export of drawn pairs with so many in each tar."""
    tars, store, number = [], Store(str(folder)), 0
    for tar, count in enumerate(per_tar):
        name = f"{tar:08d}.tar"
        with store.create(name) as stream:
            writer = ShardWriter(stream)
            for _ in range(count):
                kind, style = CLASSES[number % len(CLASSES)], list(STYLES)[number % len(STYLES)]
                jpg = render_file(Picture((9, number), kind, style))[0]
                writer.append(pair_bytes(f"{number:032x}", jpg, f"a {style} of a {kind}", {"n": number}))
                number += 1
            digest = writer.close()
        tars.append({"tar": name, "pairs": count, "bytes": writer.bytes, "sha256": digest})
    store.write("manifest.json", manifest("m", "job", {}, tars))
    store.write("sizes.json", sizes_json(tars))
    return folder


def refused(call: Callable[[], object], kind: type[Exception] = StageFailed) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def processes_of(folder: Path) -> list[int]:
    """Return the processes, zombies aside, whose arguments name a training's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def wait_until(reached: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.01)
    return False
