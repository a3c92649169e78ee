"""The names of the outcomes of a published row, and the outcome of one fetch attempt."""

from dataclasses import dataclass

VERDICT_NO_HASH, VERDICT_MATCH, VERDICT_SAME_PICTURE, VERDICT_MISMATCH = "", "match", "same_picture", "mismatch"


VERDICT_UNREADABLE_HASH, VERDICT_TOO_FLAT = "unreadable_hash", "too_flat"


VERDICTS = (
    VERDICT_NO_HASH,
    VERDICT_MATCH,
    VERDICT_SAME_PICTURE,
    VERDICT_MISMATCH,
    VERDICT_UNREADABLE_HASH,
    VERDICT_TOO_FLAT,
)


STORED = "stored"


TAKEN_DOWN = "taken_down"
"""The outcome of a row that a takedown forbids; it is final, so it is never tried again."""


TRANSIENT = frozenset(
    {
        *("http_408", "http_425", "http_429", "http_500", "http_502", "http_503", "http_504"),
        *("timeout", "connection", "robots_unreachable", "retry_later", "out_of_time"),
        *(
            "out_of_files",
            "unforeseen",
        ),  # no site's fault: this machine's limits, and unexpected errors
    }
)
"""Transient outcomes, which another attempt may change; `cuvee ingest --retry-failed` tries them again."""


@dataclass(frozen=True)
class Attempt:
    """The outcome of one attempt.

    `outcome` is `STORED` where `body` holds the whole body; `status` is HTTP's, 0 without a response; `detail` is the
    cause, verbatim; `seconds` were spent on the network; `retry_after` are the seconds that the site asked to wait.
    """

    outcome: str
    status: int = 0
    detail: str = ""
    body: bytes = b""
    seconds: float = 0.0
    retry_after: float | None = None
