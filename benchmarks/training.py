"""What the launcher costs on top of bare `open_clip_train`: the same arguments, the same data, the same seed.

2,000 drawn pairs in 2 tars, a small model, 4,800 samples in batches of 32, one thread: about a minute each. The bare
run is `python -m open_clip_train.main`, and again with the launcher's optimizer, which is what the launcher is compared
with: its own work is to scan and hash the tars before, and after it to count what was seen, to keep the weights as
safetensors and hash them. Of two rounds, each of the three after one another, the quickest of each counts. That this
process imports torch, once for a whole grid, is not in it: it has done so before.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.export.manifest import manifest, sizes_json
from pipeline.shards.tar_format import ShardWriter, pair_bytes
from pipeline.storage.store import Store
from pipeline.training.export_scan import scan_export
from pipeline.training.launcher import DONE, train, training_environment
from pipeline.training.recipe import TrainingRecipe, open_clip_arguments
from sources.world.pictures import Picture, render_file
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES

PAIRS, TARS, ROUNDS = 2_000, 2, 2


MODEL = Path(__file__).parents[1] / "experiments/models/resnet_64px"


RECIPE = TrainingRecipe(
    samples_seen=4_800,
    batch_size=32,
    lr=1e-3,
    wd=0.1,
    warmup=20,
    precision="auto",
    seed=0,
    threads=1,
    flags={},
    epochs=2,
)


def _export(store: Store) -> None:
    tars, styles = [], list(STYLES)
    for tar in range(TARS):
        name = f"{tar:08d}.tar"
        with store.create(name) as stream:
            writer = ShardWriter(stream)
            for number in range(tar, PAIRS, TARS):
                kind, style = CLASSES[number % len(CLASSES)], styles[number % len(styles)]
                jpg = render_file(Picture((3, number), kind, style))[0]
                writer.append(pair_bytes(f"{number:032x}", jpg, f"a {style} of a {kind}", {"n": number}))
            digest = writer.close()
        tars.append({"tar": name, "pairs": PAIRS // TARS, "bytes": writer.bytes, "sha256": digest})
    store.write("manifest.json", manifest("bench", "bench", {}, tars))
    store.write("sizes.json", sizes_json(tars))


BARE = ["-m", "open_clip_train.main"]


FUSED = [
    "-c",
    "import sys; from pipeline.training.entry_point import use_fused_adamw; use_fused_adamw()\n"
    "from open_clip_train.main import main; main(sys.argv[1:])",
]


def _bare(how: list[str], export: Path, folder: Path) -> None:
    argv = open_clip_arguments(RECIPE, scan_export(export, RECIPE.batch_size), MODEL, folder)
    folder.mkdir()
    command = [sys.executable, *how, *argv]
    with (folder / "train.log").open("wb") as log:
        subprocess.run(command, stdout=log, stderr=log, env=training_environment(RECIPE.threads), check=True)


def _launched(export: Path, folder: Path) -> None:
    result = train(RECIPE, export, MODEL, folder)
    if result.outcome != DONE:
        raise RuntimeError(f"the training ended with {result.outcome}: {result.reason}")


def _seconds(work: Callable[[Path, Path], None], export: Path, folder: Path) -> tuple[float, float]:
    """Return the seconds that passed, and those that cores worked on it, in this process and in what it started."""
    started, before = time.perf_counter(), os.times()
    work(export, folder)
    passed, after = time.perf_counter() - started, os.times()
    shutil.rmtree(folder)
    return passed, sum(after[:4]) - sum(before[:4])


def measure() -> dict[str, Any]:
    """Return the seconds of each, their ratio by the clock and by the cores' work; the load is the last minute's."""
    kinds = {"bare": partial(_bare, BARE), "fused": partial(_bare, FUSED), "launched": _launched}
    with tempfile.TemporaryDirectory() as name:
        export, rounds = Path(name) / "export", dict[str, list[tuple[float, float]]]()
        export.mkdir()
        _export(Store(str(export)))
        for number in range(ROUNDS):
            for kind, work in kinds.items():
                rounds.setdefault(kind, []).append(_seconds(work, export, Path(name) / f"{kind}{number}"))
    wall, cores = ({kind: min(one[at] for one in times) for kind, times in rounds.items()} for at in (0, 1))
    return {
        "launcher_over_open_clip_train": {
            "samples": RECIPE.samples,
            "launched_seconds": round(wall["launched"], 2),
            "bare_seconds": round(wall["bare"], 2),
            "bare_seconds_with_its_optimizer": round(wall["fused"], 2),
            "overhead": round(wall["launched"] / wall["fused"] - 1, 4),
            "overhead_in_core_seconds": round(cores["launched"] / cores["fused"] - 1, 4),
            "seconds_of_each_round": {kind: [round(one[0], 2) for one in times] for kind, times in rounds.items()},
            "load": round(os.getloadavg()[0], 1),
        },
    }
