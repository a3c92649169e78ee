"""The errors that a user sees, named by their consequence.

    CuveeError
    ├── InputError     the user's input is wrong: nothing was written, exit 2
    └── AnswerNo       the question was answered, and the answer is no: exit 1
        └── StageFailed    a stage could not finish; what it had finished is kept, and a new run resumes
            └── SomeFailed     some of its jobs failed independently; what needs none of them can continue

Each message is one line that names the file, the key, what was found and what was expected. A traceback that
reaches a user is a defect.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CuveeError(Exception):
    """Root of the errors that are printed as one line."""

    exit_code = 1


class InputError(CuveeError):
    """The user's input is wrong; nothing was written."""

    exit_code = 2


class CheckFailed(CuveeError):
    """The question was answered, and the answer is no (a verification found a difference)."""


class StageFailed(CheckFailed):
    """A stage could not finish; a new run resumes after what it had finished."""


class JobsFailed(StageFailed):
    """Some of a stage's jobs failed independently, after all were tried; what needs none of them can continue."""


def unknown_message(what: str, found: str, known: Iterable[str]) -> str:
    """Return "unknown <what> 'x': expected one of a, b, c", with the closest name first if there is one."""
    names = sorted(known)
    close_matches = get_close_matches(found, names, n=1)
    hint = f" (did you mean '{close_matches[0]}'?)" if close_matches else ""
    return f"unknown {what} '{found}'{hint}: expected one of {', '.join(names) or 'none, as none is declared'}"
