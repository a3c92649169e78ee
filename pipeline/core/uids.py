"""The uid of a pair: computed, never assigned."""

import hashlib

SEPARATOR = "\x1f"
"""U+001F, the unit separator: it separates the four parts of a uid and occurs in none of them (`clean`)."""


def clean_text(text: str) -> str:
    """Return `text` with the separator and NUL replaced by spaces, so that no two rows can have the same joined form.

    A lone surrogate (JSON's "\\ud800") becomes "?": no table and no file can store it.
    """
    return text.replace(SEPARATOR, " ").replace("\0", " ").encode("utf-8", "replace").decode()


def uid(source: str, record_id: str, url: str, caption: str) -> str:
    """Return the pair's uid: the first 32 hex digits of SHA-256 over the four parts joined by U+001F.

    `uid_sql` is the same value in Spark SQL; 128-bit hex is the form that DataComp's subset tools read.
    """
    joined = SEPARATOR.join((source, record_id, url, caption))
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def uid_sql(source: str, record_id: str, url: str, caption: str) -> str:
    """Return the Spark SQL expression of `uid` over four column expressions, none of which may be null."""
    return f"substr(sha2(concat_ws('\\u001F', {source}, {record_id}, {url}, {caption}), 256), 1, 32)"
