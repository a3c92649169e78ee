"""Evaluation sets in the WebDataset layout that CLIP_benchmark reads.

<set>/classnames.txt    <set>/zeroshot_classification_templates.txt    <set>/test/nshards.txt
<set>/test/0.tar
"""

import io
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from sources.world.pictures import Picture
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES

# Some sets are not JPEG, as in CLIP_benchmark.
_FORMS = {"clipart": "png", "painting": "webp"}


TEMPLATES: dict[str, tuple[str, ...]] = {
    "photo": (
        "a photo of a {c}.",
        "a photograph of a {c}.",
        "a picture of a {c}.",
        "a snapshot of one {c}.",
        "the {c}.",
    ),
    "clipart": (
        "clip art of a {c}.",
        "a cartoon of a {c}.",
        "an illustration of a {c}.",
        "an icon of a {c}.",
        "the {c}.",
    ),
    "infrared": (
        "an infrared image of a {c}.",
        "a thermal image of a {c}.",
        "a picture of a {c}.",
        "a photo of a {c}.",
        "the {c}.",
    ),
    "lowlight": (
        "a night photo of a {c}.",
        "a dark photo of a {c}.",
        "a low light shot of a {c}.",
        "a photo of a {c}.",
        "the {c}.",
    ),
    "painting": (
        "a painting of a {c}.",
        "an oil painting of a {c}.",
        "a watercolour of a {c}.",
        "a picture of a {c}.",
        "the {c}.",
    ),
    "sketch": (
        "a sketch of a {c}.",
        "a pencil drawing of a {c}.",
        "a line drawing of a {c}.",
        "a picture of a {c}.",
        "the {c}.",
    ),
}


def evaluation_pictures(seed: int, count: int) -> dict[str, list[tuple[str, Picture]]]:
    """For each style `count` (key, picture) pairs; classes alternate, so that their counts differ by at most one."""
    return {
        style: [
            (
                f"{style}_{index:05d}",
                Picture((seed, 2, number, index), CLASSES[index % len(CLASSES)], style, _FORMS.get(style, "jpg")),
            )
            for index in range(count)
        ]
        for number, style in enumerate(STYLES)
    }


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a regular file; its header contains no time, owner or other property of this machine."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_evaluation_set(
    folder: Path,
    classes: Sequence[str],
    templates: Sequence[str],
    images: Iterable[tuple[str, str, bytes, int]],
) -> None:
    """Write one set; `images` are (key, extension, bytes, class index)."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n", encoding="utf-8")
    (folder / "test" / "nshards.txt").write_text("1", encoding="utf-8")
    with tarfile.open(folder / "test" / "0.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, extension, content, index in images:
            add_member(tar, f"{key}.{extension}", content)
            add_member(tar, f"{key}.cls", str(index).encode())
