"""The export job: the same bytes for any number of threads and after any kill, and every damage to them is found."""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from jobs.export.stage import ONE_MACHINE_MAX_BYTES, execute, thread_count
from jobs.workflow.plan import export_folder
from pipeline.ledger.tables import Ledger
from pipeline.provenance.verify import verify
from pipeline.shards.tar_format import TAR_END, read_pairs
from pipeline.storage.store import Store
from tests.support.ingested_store import draw, facts_of, ingest, jpg_of, opened, pairs, score, write_experiment


def test_threads_copy_what_one_machine_copies_as_well_and_spark_the_rest() -> None:
    assert [thread_count(master, 1 << 40) for master in ("local", "local[1]", "local[3]", "local[2, 4]")] == [
        1,
        1,
        3,
        2,
    ]
    assert thread_count("local[*]", 1) == thread_count("spark://x:7077", ONE_MACHINE_MAX_BYTES) == os.cpu_count()
    assert (
        thread_count("spark://x:7077", ONE_MACHINE_MAX_BYTES + 1)
        == thread_count("local-cluster[2,1,1024]", 1 << 40)
        == 0
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a store with a mixture that is not yet exported; return its experiment file."""
    path = write_experiment(tmp_path_factory.mktemp("drawn"))
    with opened(path) as run:
        ingest(run)
        score(run)
        times = {one.uid: 1 + one.number % 2 for one in pairs() if one.source != "laion" and not one.wrong}
        draw(run, "everything", times, {"yfcc": "yfcc", "wit": "wit"})
    return path


def copied(path: Path, folder: Path) -> Path:
    """Return a copy of an experiment's file, with its store."""
    shutil.copytree(path.parent, folder)
    text = path.read_text("utf-8").replace(f"store: {path.parent}/", f"store: {folder}/")
    (folder / path.name).write_text(text, "utf-8")
    return folder / path.name


def exported_files(path: Path, *settings: str) -> dict[str, bytes]:
    """Export; return the files by their names. Nothing but rows that a killed run left may be too much in the store."""
    with opened(path, *settings) as run:
        job = run.plan.export("everything")
        execute(run, [job])
        left = verify(run.ledger, True, lambda done, of: None)
        assert [one for one in left if not (one.leftover and one.what.startswith("tables/export"))] == []
        folder = export_folder(job)
        found = {file.removeprefix(f"{folder}/"): run.store.read(file) for file in run.store.files(folder)}
    return found


def test_an_export_holds_its_pairs_for_any_number_of_threads(drawn: Path, tmp_path: Path) -> None:
    found = [
        exported_files(copied(drawn, tmp_path / name), f"spark.master={name}") for name in ("local[1]", "local[3]")
    ]
    assert found[0] == found[1]
    wanted = {one.uid: 1 + one.number % 2 for one in pairs() if one.source != "laion" and not one.wrong}
    counted = Counter[str]()
    images = {one.uid: jpg_of(one) for one in pairs()}
    for name, data in found[0].items():
        if name.endswith(".tar"):
            for pair in read_pairs(io.BytesIO(data)):
                counted[pair.uid] += 1
                assert pair.jpg == images[pair.uid]
    assert counted == wanted
    assert {"README.md", "croissant.json", "manifest.json", "sizes.json"} < found[0].keys()


def test_the_members_lie_where_the_ledger_says(drawn: Path, tmp_path: Path) -> None:
    path = copied(drawn, tmp_path / "copy")
    exported_files(path)
    with opened(path) as run:
        job = run.plan.export("everything")
        rows = run.ledger.read("export_members", jobs=[job.id]).to_pylist()
        assert len(rows) == sum(one["pairs"] for one in run.ledger.read("exports", jobs=[job.id]).to_pylist())
        for row in rows:
            data = run.store.read(f"{export_folder(job)}/{row['tar']}")[row["offset"] : row["offset"] + row["size"]]
            assert next(iter(read_pairs(io.BytesIO(data)))).uid == row["uid"]
        assert facts_of(run, job)["about"]["factors"] == {}


def test_by_weights_an_export_says_how_to_read_it(drawn: Path, tmp_path: Path) -> None:
    path = copied(drawn, tmp_path / "copy")
    with opened(path, "mixtures.everything.repeat_as=weights") as run:
        job = run.plan.export("everything")
        assert job.id not in (run.plan.blend("everything").id, None)
        execute(run, [job])
        said = json.loads(run.store.read(f"{export_folder(job)}/manifest.json"))
        assert verify(run.ledger, False, lambda done, of: None) == []
    mine = [one for one in pairs() if one.source != "laion" and not one.wrong]
    assert said["pairs"] == len(mine)
    factors = {
        source: sum(1 + one.number % 2 for one in mine if one.source == source)
        / sum(one.source == source for one in mine)
        for source in ("wit", "yfcc")
    }
    assert said["upsampling_factors"] == f"{factors['wit']!r}::{factors['yfcc']!r}"
    assert said["train_data"].count("::") == 1


def damaged(path: Path, change: Callable[[Path], None]) -> list[str]:
    """Return what is found in an exported store once `change` has been at its export's folder."""
    with opened(path) as run:
        job = run.plan.export("everything")
        change(Path(run.store.path(export_folder(job))))
        return [one.what for one in verify(Ledger(run.store), False, lambda done, of: None)]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_behind_a_pair(path: Path) -> None:
    """Leave a whole tar with one pair less: what no reader of tars finds wrong."""
    data = path.read_bytes()
    last = list(read_pairs(io.BytesIO(data)))[-1]
    path.write_bytes(data[: last.offset] + TAR_END)
    assert list(read_pairs(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: flip(folder / "00000001.tar"), "00000001.tar: SHA-256 is"),
        (lambda folder: cut_behind_a_pair(folder / "00000000.tar"), "00000000.tar: "),
        (lambda folder: (folder / "00000002.tar").unlink(), "00000002.tar: missing"),
        (lambda folder: (folder / "00000077.tar").write_bytes(TAR_END), "00000077.tar: no finished job owns it"),
        (lambda folder: flip(folder / "README.md"), "README.md: SHA-256 is"),
        (lambda folder: flip(folder / "croissant.json"), "croissant.json: SHA-256 is"),
        (lambda folder: (folder / "sizes.json").unlink(), "sizes.json: missing"),
    ],
)
def test_every_damage_to_an_export_is_found(
    drawn: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    path = copied(drawn, tmp_path / "copy")
    exported_files(path)
    (found,) = damaged(path, change)
    assert said in found


class Killed(BaseException):
    """Stands for the end of the process."""


class Deadly:
    """Raises at the n-th write of any kind, and at every one after it, as a process that is gone writes no more."""

    def __init__(self, patch: pytest.MonkeyPatch, after: int) -> None:
        self.left = after
        create, commit, finish = Store.create, Ledger.commit, Ledger.finish

        @contextmanager
        def creating(store: Store, *arguments: Any) -> Iterator[BinaryIO]:
            self.step()
            with create(store, *arguments) as stream:
                yield Writer(stream, self)  # type: ignore[misc]
                self.step()  # before it is renamed

        patch.setattr(Store, "create", creating)
        for cls, name, call in ((Ledger, "commit", commit), (Ledger, "finish", finish)):
            patch.setattr(cls, name, self._before(call))

    def _before(self, call: Any) -> Any:
        def run(*arguments: Any) -> Any:
            self.step()
            return call(*arguments)

        return run

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class Writer:
    """A stream whose writes count."""

    def __init__(self, stream: BinaryIO, deadly: Deadly) -> None:
        self._stream, self._deadly = stream, deadly

    def write(self, data: Any) -> int:
        self._deadly.step()
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def test_killed_at_any_write_and_run_again_an_export_is_the_same(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("spark.master=local[1]", "export.pairs_per_tar=80")
    expected = exported_files(copied(drawn, tmp_path / "whole"), *settings)
    died, after = 0, 0
    while True:
        path = copied(drawn, tmp_path / f"killed-{after}")
        with monkeypatch.context() as patch, opened(path, *settings) as run:
            deadly = Deadly(patch, after)
            try:
                execute(run, [run.plan.export("everything")])
            except Killed:
                died += 1
        if deadly.left >= 0:
            break
        assert exported_files(path, *settings) == expected, after
        shutil.rmtree(path.parent)
        after += 17  # of 200 writes or so; ends in each kind of them
    assert died > 10
