"""Takedown in a bucket: the same as in a folder, object by object."""

from pathlib import Path

from pipeline.ledger.tables import Ledger
from pipeline.provenance.verify import verify
from pipeline.storage.store import Store
from pipeline.takedown.request import parse_request
from pipeline.takedown.takedown import CodeVersion, plan_takedown, take_down
from tests.support.s3 import BUCKET, S3
from tests.support.takedown_store import build, content, rows

BY_NAME = {one.name: one for one in rows()}


MADE = [BY_NAME[name] for name in ("alpha0", "beta0", "named", "same_url", "alike", "late", "not_the_site")]


def taken(root: str) -> Store:
    ledger = build(root, MADE)
    intent, places = plan_takedown(ledger, parse_request(BY_NAME["named"].uid, "list"), "asked", 31)
    take_down(ledger, intent, CodeVersion("code", {}), places)
    return ledger.store


def test_a_bucket_ends_as_a_folder_does(s3: S3, tmp_path: Path) -> None:
    local, remote = taken(str(tmp_path / "store")), taken(f"s3://{BUCKET}/takedown/store")
    here, there = content(local), content(remote)
    assert there.keys() == {key for key in here if not key.startswith("takedowns/")}
    for key, value in here.items():
        assert there[key] == value or key == "jobs", key
    assert verify(Ledger(remote), False, lambda done, total: None) == []
    gone = [BY_NAME[name] for name in ("named", "same_url", "alike", "late")]
    held = s3.keys()
    for key in held:
        data = s3.get(key)
        for one in gone:
            assert one.url.encode() not in data
            assert one.caption.encode() not in data
            assert one.jpg not in data
