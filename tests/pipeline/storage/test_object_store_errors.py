"""What is found of S3 in the environment, and what is said where it is not as it should be: one line, no secret."""

import uuid
from pathlib import Path
from typing import Any

import moto.settings
import pytest
import s3fs

from jobs.cli.main import main
from pipeline.errors import InputError
from pipeline.ledger.tables import Ledger
from pipeline.storage.object_store import delta_options, error_message, fs_options, glob_files, s3_settings
from pipeline.storage.store import Store
from tests.pipeline.ledger.test_tables import committed
from tests.support.road_experiment import write_experiment
from tests.support.s3 import BUCKET, S3, SECRET


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """s3fs keeps an instance, and with it the credentials that a process had at first; these tests change them."""
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def remote(s3: S3) -> Store:
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}/store")


def line(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run `cuvee` with these arguments, expect a code and one line; return the line."""
    assert main(list(arguments)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cuvee: ")
    assert printed.err.count("\n") == 1
    assert SECRET not in printed.err
    return printed.err


def no_bucket(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tests.pipeline.storage.test_object_store_errors.BUCKET", "no-such-bucket")


def unreachable(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")


def forbidden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)


def no_credentials(patch: pytest.MonkeyPatch) -> None:
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.delenv("AWS_SECRET_ACCESS_KEY")


def no_profile(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("AWS_PROFILE", "nobody")


WRONG = [
    (no_bucket, "bucket does not exist"),
    (unreachable, "http://127.0.0.1:9"),
    (forbidden, "Access Key Id you provided does not exist"),
    (no_credentials, "Unable to locate credentials"),
    (no_profile, "profile (nobody) could not be found"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_a_store_that_cannot_be_asked_or_written_is_one_line(
    s3: S3, wrong: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong(monkeypatch)
    root = f"s3://{BUCKET}/store"
    found = line(capsys, 2, "funnel", root)
    assert found.startswith(f"cuvee: {root}/tables/jobs: the table cannot be opened (")
    assert said in found or wrong is unreachable
    experiment = write_experiment(tmp_path, Path("store"), tmp_path / "web")
    found = line(capsys, 2, "run", str(experiment), "--set", f"store={root}")
    assert found.startswith(f"cuvee: {root}: the store cannot be written (")
    assert said in found


@pytest.mark.parametrize("wrong", [one for one, _ in WRONG if one is not no_bucket])
def test_sources_that_cannot_be_listed_are_one_line(s3: S3, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    with pytest.raises(InputError, match=r"^s3://bucket/m/\*\.tsv: cannot be listed \(.+\)$"):
        glob_files("s3://bucket/m/*.tsv")


def test_a_bucket_without_a_store_is_no_store(remote: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("funnel", "verify"):
        assert "no store" in line(capsys, 2, name, remote.root)
    assert "no store" in line(capsys, 2, "trace", remote.root, "0" * 32)


def test_an_endpoint_without_conditional_writes_is_refused(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    call = s3fs.S3FileSystem._call_s3

    async def ignore(self: Any, method: str, *given: Any, IfNoneMatch: str = "", **named: Any) -> Any:
        return await call(self, method, *given, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", ignore)
    with pytest.raises(InputError, match="ignores If-None-Match"):
        remote.check_writable()
    assert remote.files("") == []


def test_a_root_with_a_key_in_it_or_without_a_bucket_is_refused() -> None:
    with pytest.raises(InputError, match="expected credentials in the environment") as caught:
        Store(f"s3://key:{SECRET}@bucket/store")
    assert SECRET not in str(caught.value)
    for root in ("s3://", "s3:///"):
        with pytest.raises(InputError, match="expected s3://bucket/prefix"):
            Store(root)
    assert error_message(OSError(f"GET http://me:{SECRET}@host/x\n failed")) == "GET http://…@host/x failed"


def test_remote_globs_are_listed(remote: Store, tmp_path: Path) -> None:
    for name in ("a-1.tsv", "a-0.tsv", "b.tsv", "deeper/a-2.tsv"):
        remote.write(f"meta/{name}", b"")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for base in (f"{remote.root}/meta", str(tmp_path)):
        assert glob_files(f"{base}/a-*.tsv") == [f"{base}/a-0.tsv", f"{base}/a-1.tsv"]
        assert glob_files(f"{base}/b.tsv") == [f"{base}/b.tsv"]
        assert glob_files(f"{base}/*/a-?.tsv") == [f"{base}/deeper/a-2.tsv"]
        assert glob_files(f"{base}/c*.tsv") == glob_files(f"{base}/c.tsv") == []
    assert glob_files("https://host.test/rows?part=*") == ["https://host.test/rows?part=*"]
    assert glob_files("s3://no-such-bucket/*.tsv") == []


def test_plain_http_is_allowed_exactly_where_the_endpoint_is(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    found = delta_options("s3://bucket/store") or {}
    assert (found["allow_http"], found["aws_endpoint_url"], found["aws_region"]) == ("true", s3.endpoint, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://objects.test")
    found = delta_options("s3://bucket/store") or {}
    assert "allow_http" not in found
    assert found["aws_endpoint_url"] == fs_options("s3://bucket")["endpoint_url"] == "https://objects.test"
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    found = delta_options("s3://bucket/store") or {}
    assert not {"allow_http", "aws_endpoint_url"} & set(found)
    assert found["aws_region"] == fs_options("s3://bucket")["client_kwargs"]["region_name"] == "eu-west-3"
    assert "endpoint_url" not in fs_options("s3://bucket")
    assert SECRET not in repr((s3_settings(), fs_options("s3://bucket"), Store("s3://bucket/store")))
    assert delta_options("/a/folder") is None


def test_a_profile_serves_files_and_tables_alike(s3: S3, remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.config.write_text(
        f"[profile mine]\nregion = us-east-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = testing\naws_secret_access_key = {SECRET}\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert committed(Ledger(remote), "j", "a")
    assert Ledger(remote).read("exports")["tar"].to_pylist() == ["a"]
