"""Which concepts of a list a caption names: MetaCLIP's substring matching (Xu et al. 2023, arXiv 2309.16671, sec. 3).

MetaCLIP pads entry and caption with spaces, and spaces off seven signs of punctuation, so that an entry is found as
whole words. Here every sign that is no letter, digit or underscore stands by itself, in the list as in the caption,
and case is folded: `U.S.` is found in `the u.s. navy`, `dog` in `(dog)`, `art` not in `party`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import pyarrow as pa

from filters.signals.base import ColumnValues, PairBatch
from filters.signals.caption_text import normalise_caption
from pipeline.errors import InputError
from pipeline.storage.object_store import error_message, io_errors, open_source

MAX_BYTES = 16 << 20
"""Of a list: twice what 500,000 concepts (MetaCLIP's number) of 16 characters take. An automaton has at most a node of
46 bytes for each character, as measured, so 0.8 GB at the most."""


MATCH_MODES = ("words", "anywhere")


_TOKEN = re.compile(r"\w+|[^\w\s]")


def word_form(text: str) -> str:
    """Return a normalised text's words and signs in lower case, with one space before, between and behind them."""
    return f" {' '.join(_TOKEN.findall(text.casefold()))} "


def character_form(text: str) -> str:
    """Return a normalised text in lower case."""
    return text.casefold()


_FORMS = {"words": word_form, "anywhere": character_form}


@dataclass(frozen=True)
class Concepts:
    """Settings: `file`, a text file in UTF-8 with one concept a line, and `match`.

    With "words" a concept is found where its words and signs stand in a row; with "anywhere" also inside a word, as
    languages that put no spaces between words need it. A concept's number is that of its line, from 0.
    """

    file: str
    match: str = "words"

    columns: ClassVar[pa.Schema] = pa.schema([("concepts", pa.list_(pa.int32())), ("concept_count", pa.int32())])

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not self.file:
            raise InputError(f"file: expected a text file with one concept a line, found {self.file!r}")
        if self.match not in MATCH_MODES:
            raise InputError(f"match: expected one of {', '.join(MATCH_MODES)}, found {self.match!r}")
        read_concepts(self.file, self.match)

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns: the numbers of the concepts found, sorted, each once, and how many they are."""
        automaton, form = _automaton(*_with_stamp(self.file), self.match), _FORMS[self.match]
        matches = [
            sorted({number for _, number in automaton.iter(form(caption))})
            for caption in batch.captions(normalise_caption)
        ]
        return {"concepts": matches, "concept_count": [len(numbers) for numbers in matches]}


def read_concepts(path: str, match: str) -> tuple[str, ...]:
    """Return a list's concepts as they are searched for, in the order of its lines.

    Raises InputError where the file cannot be read, is larger than MOST_BYTES, is not UTF-8, has no line, an empty
    line, or a concept that a line above has already, as `match` tells them apart.
    """
    return _read(*_with_stamp(path), match)


def _with_stamp(path: str) -> tuple[str, Any]:
    """Return a path with a stamp that changes when its file does."""
    try:
        file = open_source(path)
        return path, file.fs.ukey(file.path)
    except io_errors(ValueError, ImportError) as error:
        raise InputError(f"file: {path}: cannot be read: {error_message(error)}") from None


@lru_cache(2)
def _read(path: str, stamp: Any, match: str) -> tuple[str, ...]:
    try:
        with open_source(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except io_errors() as error:
        raise InputError(f"file: {path}: cannot be read: {error_message(error)}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"file: {path}: expected at most {MAX_BYTES} bytes, found more")
    return tuple(_parse(path, data, match))


def _parse(path: str, data: bytes, match: str) -> Iterator[str]:
    lines: dict[str, int] = {}
    rows = data.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    for number, row in enumerate(rows, 1):
        try:
            text = row.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"file: {path}: line {number}: expected UTF-8: {error.reason}") from None
        concept = _FORMS[match](normalise_caption(text))
        if not concept.strip():
            raise InputError(f"file: {path}: line {number}: expected a concept, found an empty line")
        first = lines.setdefault(concept, number)
        if first != number:
            message = f"found {text.strip()!r}, already in line {first}"
            raise InputError(f"file: {path}: line {number}: expected each concept once, {message}")
        yield concept


@lru_cache(2)
def _automaton(path: str, stamp: Any, match: str) -> Any:
    """Return an Aho-Corasick automaton (Aho and Corasick 1975) of a list, built once in each process.

    Of 500,000 concepts, 8 MB, it took 2 s to read and build, and 260 MB; a caption of 71 characters then takes 16 us.
    """
    import ahocorasick

    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
    for number, concept in enumerate(_read(path, stamp, match)):
        automaton.add_word(concept, number)
    automaton.make_automaton()
    return automaton
