"""Captioned images for retrieval, in the WebDataset layout of CLIP_benchmark, read without trust.

`test/nshards.txt` and `test/<number>.tar` are as an evaluation set's, but for a `.txt` in the place of `.cls`: a
caption a line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.evaluation_sets import IMAGE_SUFFIXES, files_digest, members, tars_of


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
        """Yield the images in the order of the tars; raise InputError where one is not as the layout says."""
        where = f"captioned images {self.name}"
        for tar, key, parts in members(where, self.tars, (*IMAGE_SUFFIXES, "txt")):
            try:
                lines = parts.get("txt", b"").decode("utf-8").splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{where}: {tar}: {key}.txt: not UTF-8") from None
            captions = tuple(line.strip() for line in lines if line.strip())
            if "image" not in parts or not captions:
                found = f"{'an' if 'image' in parts else 'no'} image and {len(captions)} captions"
                raise InputError(f"{where}: {tar}: {key}: expected an image and a .txt of captions, found {found}")
            yield CaptionedImage(key, parts["image"], captions)

    def digest(self) -> str:
        """Return SHA-256 over the digests of its files, in order."""
        return files_digest("", self.tars)


def open_captions(name: str, folder: Path) -> CaptionSet:
    """Return the set in `folder`; raise InputError naming the file that is missing or wrong."""
    return CaptionSet(name, tars_of(folder, f"evaluation.retrieval.{name}"))
