"""Credentials in URLs: detection, and removal from URLs and texts."""

import re
from urllib.parse import parse_qsl

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
    """Return scheme, authority, path and query of a URL, "" for each that is missing."""
    match = _URL_PARTS.fullmatch(url)
    return tuple(part or "" for part in match.groups()) if match else ("", "", "", "")  # type: ignore[return-value]


def holds_secret(url: str) -> bool:
    """Tell whether `url` carries a credential: user:password@, or a query field that is typical of signed URLs.

    Such a URL is never written to a ledger, log or report; `strip_secret` returns what is kept in its place.
    """
    _, authority, _, query = _url_parts(url)
    if "@" in authority:
        return True
    return any(key.lower() in _SECRET_QUERY_KEYS for key, _ in parse_qsl(query, keep_blank_values=True))


def strip_secret(url: str) -> str:
    """Return `url` without user, password, query and fragment."""
    scheme, authority, path, _ = _url_parts(url)
    return f"{scheme}://{authority.rpartition('@')[2]}{path}"


def redact(text: str) -> str:
    """Return `text` with every URL in it that holds a secret replaced by its `strip_secret`."""
    return _URL_IN_TEXT.sub(lambda match: strip_secret(match[0]) if holds_secret(match[0]) else match[0], text)
