"""Evaluation sets in the WebDataset layout of CLIP_benchmark, read as untrusted data: labelled or captioned images.

Captioned images, for retrieval, have a `.txt` instead of `.cls`, with one caption a line.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.shards.tar_format import BadTar, read_members

IMAGE_SUFFIXES = ("jpg", "png", "webp")


_NUMBER = re.compile(r"[0-9]{1,6}")
"""The accepted form of a label or a number of tars; a larger number would be opened as that many files."""


@dataclass(frozen=True)
class EvaluationImage:
    """One image: its key, the index of its class, and its bytes."""

    key: str
    label: int
    data: bytes


@dataclass(frozen=True)
class EvaluationSet:
    """A set's name, class names and prompt templates (with ``{c}`` for the class), and its tars."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    tars: tuple[Path, ...]

    @property
    def chance(self) -> float:
        """The chance accuracy, 1 / number of classes, 0 to 1."""
        return 1 / len(self.classes)

    def prompts(self, name: str) -> list[str]:
        """Return one class's prompts."""
        return [template.replace("{c}", name) for template in self.templates]

    def images(self) -> Iterator[EvaluationImage]:
        """Yield the images in the order of the tars; raise InputError where one does not follow the layout."""
        for tar, key, contents in read_examples(f"evaluation set {self.name}", self.tars, (*IMAGE_SUFFIXES, "cls")):
            label = contents.get("cls", b"").decode("ascii", "replace").strip()
            if "image" not in contents or not _NUMBER.fullmatch(label) or int(label) >= len(self.classes):
                message = f"expected an image and a .cls below {len(self.classes)}, found {label[:80]!r}"
                raise InputError(f"evaluation set {self.name}: {tar}: {key}: {message}")
            yield EvaluationImage(key, int(label), contents["image"])

    def digest(self) -> str:
        """Return SHA-256 over the digests of its files, in order."""
        return files_digest("\n".join((*self.classes, "", *self.templates)), self.tars)


def files_digest(text: str, files: Sequence[Path]) -> str:
    """Return SHA-256 over a text and the digests of files, in this order."""
    state = hashlib.sha256(text.encode())
    for file in files:
        with file.open("rb") as stream:
            state.update(hashlib.file_digest(stream, "sha256").digest())
    return state.hexdigest()


def read_examples(
    where: str, tars: Sequence[Path], suffixes: tuple[str, ...]
) -> Iterator[tuple[Path, str, dict[str, bytes]]]:
    """Yield (tar, key, contents by suffix) for the members of each key, in order; an image's suffix is "image".

    Raises InputError where a tar does not follow the layout.
    """
    for tar in tars:
        try:
            with tar.open("rb") as stream:
                contents: dict[str, bytes] = {}
                current_key = ""
                for key, suffix, data, _ in read_members(stream, suffixes):
                    if key != current_key and contents:
                        yield tar, current_key, contents
                        contents = {}
                    current_key = key
                    contents["image" if suffix in IMAGE_SUFFIXES else suffix] = data
                if contents:
                    yield tar, current_key, contents
        except (BadTar, OSError) as error:
            raise InputError(f"{where}: {tar}: {error}") from None


def _read_lines(path: Path, where: str) -> tuple[str, ...]:
    try:
        lines = tuple(line for line in path.read_text("utf-8").splitlines() if line.strip())
    except OSError as error:
        raise InputError(f"{where}: {path}: {error.strerror or error}; expected CLIP_benchmark's layout") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: {path}: not UTF-8; expected CLIP_benchmark's layout") from None
    if not lines:
        raise InputError(f"{where}: {path}: no lines; expected at least one")
    return lines


def open_set(name: str, folder: Path, where: str = "") -> EvaluationSet:
    """Return the set in `folder`; raise InputError naming the file that is missing or wrong, and the key `where`."""
    where = where or f"evaluation.sets.{name}"
    classes = _read_lines(folder / "classnames.txt", where)
    templates = _read_lines(folder / "zeroshot_classification_templates.txt", where)
    if wrong_templates := [line for line in templates if "{c}" not in line]:
        raise InputError(f"{where}: zeroshot_classification_templates.txt: expected {{c}} in {wrong_templates[0]!r}")
    return EvaluationSet(name, classes, templates, find_tars(folder, where))


def find_tars(folder: Path, where: str) -> tuple[Path, ...]:
    """Return the tars of a set; raise InputError where there are fewer than nshards.txt says."""
    count = _read_lines(folder / "test" / "nshards.txt", where)[0].strip()
    if not _NUMBER.fullmatch(count) or int(count) < 1:
        raise InputError(f"{where}: test/nshards.txt: expected a number of tars, found {count[:80]!r}")
    tars = tuple(folder / "test" / f"{number}.tar" for number in range(int(count)))
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise InputError(f"{where}: {missing[0]}: no such file; nshards.txt says {count}")
    return tars


@dataclass(frozen=True)
class CaptionedImage:
    """One image: its key, its bytes, and its captions, at least one."""

    key: str
    data: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class CaptionSet:
    """A set's name and its tars."""

    name: str
    tars: tuple[Path, ...]

    def images(self) -> Iterator[CaptionedImage]:
        """Yield the images in the order of the tars; raise InputError where one does not follow the layout."""
        where = f"captioned images {self.name}"
        for tar, key, contents in read_examples(where, self.tars, (*IMAGE_SUFFIXES, "txt")):
            try:
                lines = contents.get("txt", b"").decode("utf-8").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{where}: {tar}: {key}.txt: not UTF-8") from None
            captions = tuple(line.strip() for line in lines if line.strip())
            if "image" not in contents or not captions:
                found = f"{'an' if 'image' in contents else 'no'} image and {len(captions)} captions"
                raise InputError(f"{where}: {tar}: {key}: expected an image and a .txt of captions, found {found}")
            yield CaptionedImage(key, contents["image"], captions)

    def digest(self) -> str:
        """Return SHA-256 over the digests of its files, in order."""
        return files_digest("", self.tars)


def open_captions(name: str, folder: Path) -> CaptionSet:
    """Return the set in `folder`; raise InputError naming the file that is missing or wrong."""
    return CaptionSet(name, find_tars(folder, f"evaluation.retrieval.{name}"))
