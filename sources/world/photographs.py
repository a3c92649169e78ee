"""Publish a web of real images: four visual domains as four sources, each in its own published format.

The images are WebDataset tars (`<domain>-train.tar`, `<domain>-test.tar`, members `<key>.cls` with the class name and
`<key>.jpg`). They are written only to the published folder, never into the repository.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sources.world.captions import Caption
from sources.world.catalogue import SOURCES, SourceSettings
from sources.world.evaluation import write_evaluation_set
from sources.world.planning import PlannedRow, make_url, site_key
from sources.world.publish import is_published, replace_web, store_file, write_metadata

_MISSING_SHARE = 0.01  # rows whose URL answers 404, in addition to the images


_DUPLICATE_SHARE = 0.02  # rows that publish another row's bytes again


@dataclass(frozen=True)
class Domain:
    """A visual domain: the source that publishes it, its captions and its prompts over {c}, the class."""

    name: str
    source: str
    captions: tuple[str, ...]
    prompts: tuple[str, ...]


# The class is among the first words, as a small model reads at most 16 tokens.
DOMAINS: tuple[Domain, ...] = (
    Domain(
        "photo",
        "yfcc",
        (
            "a photo of a {c}",
            "{c}, photograph",
            "photo: {c}",
            "a {c} outdoors",
            "picture of a {c}",
            "snapshot, {c}",
        ),
        (
            "a photo of a {c}.",
            "a photograph of a {c}.",
            "a picture of a {c}.",
            "a snapshot of a {c}.",
            "a {c}.",
        ),
    ),
    Domain(
        "art_painting",
        "wit",
        (
            "{c} in oil on canvas",
            "a painting of a {c}",
            "{c}, painting",
            "the {c}, watercolour",
            "art showing a {c}",
        ),
        (
            "a painting of a {c}.",
            "an oil painting of a {c}.",
            "art of a {c}.",
            "a {c} in a painting.",
            "a {c}.",
        ),
    ),
    Domain(
        "cartoon",
        "redcaps",
        (
            "a cartoon {c}",
            "my {c} cartoon",
            "cartoon of a {c}",
            "comic style {c}",
            "a {c} drawn as a cartoon",
        ),
        ("a cartoon of a {c}.", "a cartoon {c}.", "a comic of a {c}.", "an illustration of a {c}.", "a {c}."),
    ),
    Domain(
        "sketch",
        "shutterstock",
        (
            "pencil sketch, {c}",
            "a sketch of a {c}",
            "{c}, line drawing",
            "drawing of a {c}",
            "{c} sketch on white",
        ),
        (
            "a sketch of a {c}.",
            "a pencil drawing of a {c}.",
            "a line drawing of a {c}.",
            "a drawn {c}.",
            "a {c}.",
        ),
    ),
)


def _tar_path(folder: Path, domain: Domain, split: str) -> Path:
    return folder / f"{domain.name}-{split}.tar"


def _read_tar(tar: Path) -> list[tuple[str, str, bytes]]:
    """(key, class name, JPEG bytes) of every image in a tar, by key."""
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                key, _, extension = Path(member.name).name.partition(".")
                members.setdefault(key, {})[extension] = content.read()
    return [(key, parts["cls"].decode().strip(), parts["jpg"]) for key, parts in sorted(members.items())]


def _caption(domain: Domain, class_name: str, rng: np.random.Generator) -> Caption:
    text = domain.captions[int(rng.integers(len(domain.captions)))].format(c=class_name)
    return Caption(text, "right")


def _publish_train(
    folder: Path, domain: Domain, images: list[tuple[str, str, bytes]], seed: int, first_group: int
) -> tuple[list[PlannedRow], list[tuple[int, int]]]:
    """Store one domain's images and return its rows with their (width, height) in px, in a random order."""
    number, settings = _source_settings(domain.source)
    rng = np.random.default_rng((seed, 20, number))
    duplicates = rng.choice(len(images), max(1, round(_DUPLICATE_SHARE * len(images))), replace=False).tolist()
    missing = rng.choice(len(images), max(1, round(_MISSING_SHARE * len(images))), replace=False).tolist()
    groups = {image: first_group + group for group, image in enumerate(duplicates)}
    # The image and behaviour of each row: every image once, then the copies, then URLs that answer 404.
    entries = [(image, "none", "ok") for image in range(len(images))]
    entries += [(image, "exact_duplicate", "ok") for image in duplicates]
    entries += [(image, "none", "http_404") for image in missing]
    rows, sizes = [], []
    for index, entry in enumerate(rng.permutation(len(entries)).tolist()):
        image, plant, behaviour = entries[entry]
        _, class_name, content = images[image]
        url = make_url(settings, index, "jpg", rng)
        row = PlannedRow(
            domain.source,
            index,
            url,
            _caption(domain, class_name, rng),
            class_name,
            domain.name,
            site_key(url),
            plant=plant,
        )
        if behaviour == "http_404":
            row = replace(row, stored_at="", behaviour=behaviour, response={"behaviour": behaviour})
        else:
            row = replace(row, plant_group=groups.get(image, -1))
            store_file(folder, row.stored_at, content)
        with Image.open(io.BytesIO(content)) as picture:
            sizes.append(picture.size)
        rows.append(row)
    return rows, sizes


def _source_settings(source: str) -> tuple[int, SourceSettings]:
    return next((number, settings) for number, settings in enumerate(SOURCES) if settings.name == source)


def publish_domains(
    folder: Path, tars: Path, *, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Publish the real images in `tars` into `folder`, laid out as `publish_world` does.

    Does nothing if that web already exists. `on_progress` is called with the number of tars done and their total.
    Raises FileNotFoundError naming the first missing tar, before anything is written.
    """
    files = [_tar_path(tars, domain, split) for domain in DOMAINS for split in ("train", "test")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: not found, expected a WebDataset tar of real images")
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    arguments = {"kind": "domains", "seed": seed, "tars": digests}
    if is_published(folder, arguments):
        return
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(files))

    with replace_web(folder, arguments):
        rows: list[PlannedRow] = []
        sizes: list[tuple[int, int]] = []
        classes: set[str] = set()
        for domain in DOMAINS:
            images = _read_tar(_tar_path(tars, domain, "train"))
            classes |= {class_name for _, class_name, _ in images}
            first_group = 1 + max((row.plant_group for row in rows), default=-1)
            own_rows, own_sizes = _publish_train(folder, domain, images, seed, first_group)
            rows += own_rows
            sizes += own_sizes
            report()
        write_metadata(folder, rows, sizes)
        names = sorted(classes)
        for domain in DOMAINS:
            test = [
                (f"{domain.name}_{index:05d}", "jpg", content, names.index(class_name))
                for index, (_, class_name, content) in enumerate(_read_tar(_tar_path(tars, domain, "test")))
            ]
            write_evaluation_set(folder / "evaluation" / domain.name, names, domain.prompts, test)
            report()
