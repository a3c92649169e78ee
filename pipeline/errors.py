"""The errors a person sees, named by what follows from them.

    CuveeError
    ├── InputError     what the user gave is wrong: nothing was written, exit 2
    └── AnswerNo       the question was answered, and the answer is no: exit 1
        └── StageFailed    a stage could not finish; what it had finished is kept, and a new run resumes
            └── SomeFailed     of its jobs some failed, each by itself; what needs none of them can go on

Each message is one line that names the file, the key, what was found and what was expected. A traceback that
reaches a person is a defect.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class CuveeError(Exception):
    """Root of the errors that are printed as one line."""

    exit_code = 1


class InputError(CuveeError):
    """What the user gave is wrong; nothing was written."""

    exit_code = 2


class AnswerNo(CuveeError):
    """The question was answered, and the answer is no (a verification found a difference)."""


class StageFailed(AnswerNo):
    """A stage could not finish; a new run resumes behind what it had finished."""


class SomeFailed(StageFailed):
    """Of a stage's jobs some failed, each by itself, and all were tried; what needs none of them can go on."""


def unknown(what: str, found: str, known: Iterable[str]) -> str:
    """Return "unknown <what> 'x': expected one of a, b, c", with the closest name first if there is one."""
    names = sorted(known)
    near = get_close_matches(found, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"unknown {what} '{found}'{hint}: expected one of {', '.join(names) or 'none, as none is declared'}"
