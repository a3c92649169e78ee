"""An S3 endpoint on loopback with one bucket, and the environment that leads to it; for the tests that need one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import botocore.session
import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


SECRET = "s3cr3t-do-not-keep-me"
"""The secret key of the tests: nothing that is written or printed may hold it."""


@dataclass(frozen=True)
class S3:
    """The endpoint, a client of it that knows nothing of ours, and a file that stands for ~/.aws/config."""

    endpoint: str
    client: Any
    config: Path

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


@cache
def endpoint() -> str:
    """Return the URL of this process's S3 server, which is started at the first use and ends with the process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


@contextmanager
def bucket(folder: Path) -> Iterator[S3]:
    """Serve a new bucket, with this process's environment set to find it by the variables that everybody knows.

    Behind it the server forgets all that it held.
    """
    url = endpoint()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, str(folder / name))
        client = botocore.session.get_session().create_client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        try:
            yield S3(url, client, folder / "AWS_CONFIG_FILE")
        finally:
            urlopen(Request(f"{url}/moto-api/reset", method="POST"), timeout=60).close()
            s3fs.S3FileSystem.clear_instance_cache()  # else it would answer from what it has listed here
