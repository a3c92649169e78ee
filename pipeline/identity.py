"""Identity is computed, never assigned: uids of pairs, digests of configurations and of files."""

import hashlib
import json
import re
from typing import Any, BinaryIO
from urllib.parse import parse_qsl

SEPARATOR = "\x1f"
"""U+001F, the unit separator: it stands between the four parts of a uid and in none of them (`clean`)."""


def clean(text: str) -> str:
    """Return `text` with the separator and NUL replaced by spaces, so that no two rows can share a joined form.

    A lone surrogate (JSON's "\\ud800") becomes "?": no table and no file could hold it.
    """
    return text.replace(SEPARATOR, " ").replace("\0", " ").encode("utf-8", "replace").decode()


def uid(source: str, record_id: str, url: str, caption: str) -> str:
    """Return the pair's uid: the first 32 hex digits of SHA-256 over the four parts joined by U+001F.

    `uid_sql` is the same value in Spark SQL; 128-bit hex is what DataComp's subset tools read.
    """
    joined = SEPARATOR.join((source, record_id, url, caption))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def uid_sql(source: str, record_id: str, url: str, caption: str) -> str:
    """Return the Spark SQL expression of `uid` over four column expressions, none of which may be null."""
    return f"substr(sha2(concat_ws('\\u001F', {source}, {record_id}, {url}, {caption}), 256), 1, 32)"


def digest(value: Any) -> str:
    """Return SHA-256 (64 hex digits) over `value` as canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stream_sha256(stream: BinaryIO) -> tuple[str, int]:
    """Return (SHA-256 as 64 hex digits, length in bytes) of what is left in `stream`, read in blocks of 1 MiB."""
    state, size = hashlib.sha256(), 0
    while block := stream.read(1 << 20):
        state.update(block)
        size += len(block)
    return state.hexdigest(), size


_SECRET_QUERY_KEYS = frozenset(
    [
        "signature",
        "sig",
        "x-amz-signature",
        "x-amz-credential",
        "x-amz-security-token",
        "x-goog-signature",
        "x-goog-credential",
        "awsaccesskeyid",
        "access_token",
        "token",
        "auth",
        "apikey",
        "api_key",
        "key-pair-id",
        "policy",
        "password",
        "secret",
        "sv",
        "se",
        "sp",
    ]
)


_URL_PARTS = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
"""RFC 3986, appendix B: scheme, authority, path, query of any text; `urlsplit` raises for some that hold a secret."""
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def _url_parts(url: str) -> tuple[str, str, str, str]:
    found = _URL_PARTS.fullmatch(url)
    return tuple(part or "" for part in found.groups()) if found else ("", "", "", "")  # type: ignore[return-value]


def holds_secret(url: str) -> bool:
    """Tell whether `url` carries a credential: user:password@, or a query field by which signed URLs are known.

    Such a URL is never written to a ledger, log or report; `without_secret` is what is kept in its place.
    """
    _, authority, _, query = _url_parts(url)
    if "@" in authority:
        return True
    return any(key.lower() in _SECRET_QUERY_KEYS for key, _ in parse_qsl(query, keep_blank_values=True))


def without_secret(url: str) -> str:
    """Return `url` without user, password, query and fragment."""
    scheme, authority, path, _ = _url_parts(url)
    return f"{scheme}://{authority.rpartition('@')[2]}{path}"


def redacted(text: str) -> str:
    """Return `text` with every URL in it that holds a secret replaced by what `without_secret` leaves of it."""
    return _URL_IN_TEXT.sub(lambda found: without_secret(found[0]) if holds_secret(found[0]) else found[0], text)
