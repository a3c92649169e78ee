"""Object stores: S3 as the standard AWS environment configures it, errors as one line, listings, range reads.

botocore resolves endpoint, region, credentials and profiles (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_PROFILE, roles …), and s3fs and deltalake are given the same values: deltalake by itself reads
only some of these settings, not a profile's endpoint or AWS_EC2_METADATA_DISABLED. None of this is kept in a store or
pickled to tasks: each process reads its own environment.
"""

import glob
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import InputError

SCHEMES = ("s3", "s3a")


_ANSI = re.compile(r"\x1b\[[0-9;]*m")


_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(frozen=True)
class S3Settings:
    """S3 settings from the environment. `endpoint` is empty where it is Amazon's own; `session` is botocore's."""

    endpoint: str
    region: str
    session: Any = field(repr=False)


def s3_settings() -> S3Settings:
    """Return the S3 settings of this process's current environment."""
    return _resolve(tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@cache
def _resolve(environment: tuple[tuple[str, str], ...]) -> S3Settings:
    """Return botocore's settings for these AWS variables (name, value); one session for each environment."""
    import botocore.session

    session = botocore.session.get_session()
    region = dict(environment).get("AWS_REGION") or session.get_config_variable("region") or "us-east-1"
    endpoint = session.create_client("s3", region_name=region).meta.endpoint_url
    is_amazon = (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return S3Settings("" if is_amazon else endpoint, region, session)


def is_s3(url: str) -> bool:
    """Tell whether a URL is an S3 URL."""
    return url.partition("://")[0] in SCHEMES


def fs_options(url: str) -> dict[str, Any]:
    """Return fsspec's options for a URL, none of them secret: s3fs gets the credentials from botocore itself.

    Listings are never cached, so that what other processes write is seen.
    """
    if not is_s3(url):
        return {}
    s3 = s3_settings()
    options: dict[str, Any] = {"use_listings_cache": False, "client_kwargs": {"region_name": s3.region}}
    return options | ({"endpoint_url": s3.endpoint} if s3.endpoint else {})


def open_source(path: str) -> Any:
    """Return a file, local or at a URL, to be opened for reading bytes by `with` or by its `open()`."""
    return fsspec.open(path, "rb", **fs_options(path))


def delta_options(url: str) -> dict[str, str] | None:
    """Return deltalake's options for a URL, None where it needs none; raise NoCredentialsError without credentials.

    A commit is a conditional put (If-None-Match), so of two writers of a version one is refused and tries the next.
    Both keys of the endpoint are set, as deltalake would read a missing one from the environment.
    """
    if not is_s3(url):
        return None
    from botocore.exceptions import NoCredentialsError

    s3 = s3_settings()
    credentials = s3.session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    frozen = credentials.get_frozen_credentials()
    options = {
        "aws_access_key_id": frozen.access_key,
        "aws_secret_access_key": frozen.secret_key,
        "aws_region": s3.region,
        "aws_conditional_put": "etag",
    }
    if frozen.token:
        options["aws_session_token"] = frozen.token
    if s3.endpoint:
        options |= {"aws_endpoint_url": s3.endpoint, "aws_endpoint_url_s3": s3.endpoint}
        if s3.endpoint.startswith("http://"):
            options["allow_http"] = "true"
    return options


def io_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the exception types that a file system raises, and `more`; botocore's are not OSErrors."""
    exceptions: Any = sys.modules.get("botocore.exceptions")
    botocore_errors = (exceptions.BotoCoreError, exceptions.ClientError) if exceptions else ()
    return (OSError, *botocore_errors, *more)


def error_message(error: Exception) -> str:
    """Return an error's message on one line: S3's message out of deltalake's coloured tree, no user info of a URL."""
    text = _ANSI.sub("", str(error))
    code, message = (re.search(rf"<{tag}>([^<]*)</{tag}>", text) for tag in ("Code", "Message"))
    if code and message:
        text = f"{message[1]} ({code[1]})"
    elif isinstance(error, OSError) and error.strerror and not text.startswith("Kernel error"):
        text = error.strerror
    elif "↳" in text:  # the outermost and the innermost of the nested causes
        causes = [line.strip(" ↳") for line in text.splitlines() if line.strip(" ↳")]
        text = f"{causes[0]}: {causes[-1]}"
    return _USERINFO.sub("…@", " ".join(text.split())) or type(error).__name__


def glob_files(pattern: str) -> list[str]:
    """Return the files that a glob matches, sorted: local paths, or URLs where the pattern is a URL.

    Raises InputError where an object store cannot be listed. An HTTP URL is returned unchanged, as it cannot be listed.
    """
    if "://" not in pattern:
        return sorted(glob.glob(pattern))
    if pattern.startswith(("http://", "https://")):
        return [pattern]
    try:
        fs, path = fsspec.core.url_to_fs(pattern, **fs_options(pattern))
        entries = fs.glob(path, detail=True)
    except FileNotFoundError:
        return []
    except io_errors() as error:
        raise InputError(f"{pattern}: cannot be listed ({error_message(error)})") from None
    return sorted(str(fs.unstrip_protocol(name)) for name, info in entries.items() if info["type"] == "file")


class RangeReader(io.RawIOBase):
    """An object read by ranges: short ones where the reader seeks, longer ones where it reads sequentially.

    `fetch` returns the bytes from a start to an end. `LEAST` and `MOST` are a range's bytes. s3fs's own file fetches
    50 MB after every seek.
    """

    LEAST, MOST = 256 << 10, 8 << 20

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        self._size, self._fetch = size, fetch
        self._position, self._end, self._step = 0, -1, self.LEAST

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position; return the new one, in bytes."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readall(self) -> bytes:
        """Return all remaining bytes, by one request."""
        data = self._fetch(self._position, self._size) if self._position < self._size else b""
        self._position = self._end = self._position + len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Read at most as many bytes as the buffer holds; return their number, 0 at the end."""
        self._step = min(4 * self._step, self.MOST) if self._position == self._end else self.LEAST
        end = min(self._position + min(len(buffer), self._step), self._size)
        if end <= self._position:
            return 0
        data = self._fetch(self._position, end)
        buffer[: len(data)] = data
        self._position = self._end = self._position + len(data)
        return len(data)
