"""What becomes of a published row: the names of outcomes, and what one attempt came to."""

from dataclasses import dataclass

NO_HASH, MATCH, SAME, MISMATCH = "", "match", "same_picture", "mismatch"


UNREADABLE, TOO_FLAT = "unreadable_hash", "too_flat"


VERDICTS = (NO_HASH, MATCH, SAME, MISMATCH, UNREADABLE, TOO_FLAT)


STORED = "stored"


TAKEN_DOWN = "taken_down"
"""Of a row that a takedown forbids; it never changes, so it is never tried again."""


TRANSIENT = frozenset(
    {
        *("http_408", "http_425", "http_429", "http_500", "http_502", "http_503", "http_504"),
        *("timeout", "connection", "robots_unreachable", "retry_later", "out_of_time"),
        *("out_of_files", "unforeseen"),  # no site's fault: this machine's limits, and errors that have no name yet
    }
)
"""Outcomes that another attempt may change; `cuvee ingest --retry-failed` tries them again."""


@dataclass(frozen=True)
class Attempt:
    """What one request came to.

    `outcome` is `STORED` for a body in hand; `status` is HTTP's, 0 where no answer came; `detail` is the cause,
    verbatim; `seconds` were spent on the network; `retry_after` are the seconds that the site asked us to wait.
    """

    outcome: str
    status: int = 0
    detail: str = ""
    body: bytes = b""
    seconds: float = 0.0
    retry_after: float | None = None
