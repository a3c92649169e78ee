"""A road of two sources whose store is a bucket: the tables and the export of one whose store is a folder."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.workflow.demo_web import publish
from jobs.workflow.experiment import load_experiment
from jobs.workflow.progress import Display
from pipeline.ledger.tables import Ledger
from pipeline.storage.store import Store
from tests.end_to_end.test_killed import VOLATILE
from tests.support.road_experiment import answered, cuvee, write_experiment
from tests.support.s3 import BUCKET, S3, SECRET

pytestmark = pytest.mark.slow  # two roads, one of them in a bucket


ROOT = f"s3://{BUCKET}/roads/first"


CHANGES = {
    "web": {
        "kind": "world",
        "seed": 5,
        "pairs": 32,
        "sizes": {"laion": 60, "shutterstock": 60},
        "evaluation_images": 12,
    },
    "models": {},
    "signals": {"caption_v1": None, "image_v1": None, "pdq_v1": None, "duplicates_v1": {"pdq": "pdq_v1"}},
    "filters": {"filtered": {"drop_when": {"short": "caption_v1.words < 2", "small": "image_v1.short_side < 64"}}},
    "mixtures": {"both": {"filter": "filtered"}},
    "training": {"mixtures": ["both"]},
    "export": {"pairs_per_tar": 30},
}


SOURCES = {
    "laion": {"format": "laion", "files": ["build/demo/web/published/laion/*.parquet"]},
    "shutterstock": {"format": "shutterstock", "files": ["build/demo/web/published/shutterstock/*.tsv"]},
}


@dataclass(frozen=True)
class Roads:
    """The same experiment in a folder and in the bucket, and what the second run printed."""

    experiment: Path
    local: Store
    remote: Store
    settings: list[str]
    printed: str


@pytest.fixture(scope="module")
def roads(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Roads:
    folder = tmp_path_factory.mktemp("s3")
    experiment = write_experiment(folder, folder / "store", folder / "web", sources=SOURCES, **CHANGES)
    web = load_experiment(experiment, []).file.web
    assert web is not None
    publish(web, Display())
    for path in (folder / "web" / "published" / "laion").glob("*.parquet"):
        s3.client.put_object(Bucket=BUCKET, Key=f"published/laion/{path.name}", Body=path.read_bytes())
    settings = ["--set", f"store={ROOT}", "--set", f"sources.laion.files=[s3://{BUCKET}/published/laion/*.parquet]"]
    with ThreadPoolExecutor(2) as pool:  # much of a small run is waiting
        runs = [pool.submit(cuvee, "run", str(experiment), *given, "--until", "export") for given in ([], settings)]
    for done in (run.result() for run in runs):
        assert done.returncode == 0, done.stderr
    printed = runs[1].result().stdout + runs[1].result().stderr
    return Roads(experiment, Store(str(folder / "store")), Store(ROOT), settings, printed)


def test_the_jobs_and_tables_are_those_of_a_folder(roads: Roads) -> None:
    local, remote = Ledger(roads.local), Ledger(roads.remote)
    assert {job.job for job in remote.jobs()} == {job.job for job in local.jobs()}
    assert remote.tables() == local.tables()
    for table in local.tables():
        if table == "jobs":
            continue
        columns = [name for name in local.read(table).column_names if name not in VOLATILE]
        expected = sorted(map(repr, local.read(table, columns).to_pylist()))
        assert expected
        assert sorted(map(repr, remote.read(table, columns).to_pylist())) == expected, table


def test_shards_and_exports_are_the_same_bytes_and_no_other_file_lies_there(roads: Roads) -> None:
    for top in ("shards", "exports", "lineage", "staging"):
        files = roads.local.files(top)
        assert roads.remote.files(top) == files
        for path in files:
            if path.endswith((".tar", "sizes.json", "croissant.json")):
                assert roads.remote.read(path) == roads.local.read(path), path
    digests = [
        [job.facts["digest"] for job in Ledger(store).jobs() if job.stage == "export"]
        for store in (roads.local, roads.remote)
    ]
    assert digests[0] == digests[1] != []


def test_the_bucket_answers_as_the_folder_does(roads: Roads) -> None:
    assert answered("funnel", ROOT) == answered("funnel", roads.local.root)
    assert answered("verify", ROOT) == {"differences": [], "leftovers": []}
    member = Ledger(roads.remote).read("export_members").to_pylist()[0]
    life, other = (answered("trace", root, member["uid"])[0] for root in (ROOT, roads.local.root))
    assert life["exports"] == other["exports"] != []
    assert life["stored"] == other["stored"]


def test_what_is_damaged_in_the_bucket_is_found(roads: Roads, s3: S3) -> None:
    path = next(path for path in roads.remote.files("exports") if path.endswith(".tar"))
    data = roads.remote.read(path)
    s3.client.put_object(Bucket=BUCKET, Key=f"roads/first/{path}", Body=data[:-1] + b"x")
    done = cuvee("verify", ROOT, "--json")
    s3.client.put_object(Bucket=BUCKET, Key=f"roads/first/{path}", Body=data)
    assert done.returncode == 1
    assert json.loads(done.stdout)["differences"] == [
        f"{path}: SHA-256 is {hashlib.sha256(data[:-1] + b'x').hexdigest()[:12]}…, the ledger says "
        f"{hashlib.sha256(data).hexdigest()[:12]}…"
    ]


def test_a_second_run_has_nothing_to_do(roads: Roads, s3: S3) -> None:
    before = s3.keys()
    done = cuvee("run", str(roads.experiment), *roads.settings, "--until", "export")
    assert (done.returncode, "nothing to do" in done.stderr) == (0, True), done.stderr
    assert s3.keys() == before


def test_no_secret_is_kept_or_printed(roads: Roads, s3: S3) -> None:
    assert SECRET not in roads.printed
    keys = s3.keys()
    assert len(keys) > 50
    for key in keys:
        assert SECRET.encode() not in s3.get(key), key
