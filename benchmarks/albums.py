"""Evaluation images, copies of them by each alteration, and clean images: drawn ones, and the real ones of PACS.

All but the evaluation images are as the demo stores them: saved as JPEG by whoever publishes them, then resized.
"""

import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.images.normalize import ImageRules, StoredImage, to_stored_image
from sources.world.alterations import ALTERATIONS, AlterationFunction
from sources.world.pictures import Picture as Drawn
from sources.world.pictures import draw_picture, render_file
from sources.world.shapes import CLASSES
from sources.world.styles import STYLES

Image = npt.NDArray[np.uint8]


REAL = Path(__file__).parents[2] / "shared/data/domains"


DOMAINS = ("photo", "art_painting", "cartoon", "sketch")


KNOWN = Path(__file__).with_name("pacs_copies.json")
"""Pairs of PACS that show one picture, [train key, test key] by domain; each was looked at."""


_DRAWN_RULES = ImageRules("keep_ratio", 128, 92, 32, 40_000_000)


_REAL_RULES = ImageRules("keep_ratio", 96, 95, 32, 40_000_000)
"""What experiments/demo.yaml and experiments/domains.yaml store."""


@dataclass(frozen=True)
class Shown:
    """An image, RGB (height, width, 3) uint8: its set or domain, its key there, and what a caption says of it."""

    group: str
    key: str
    caption: str
    image: Image


@dataclass(frozen=True)
class Album:
    """Evaluation images; by alteration copies of some, named as their originals; and images that are no copies."""

    evaluation: Sequence[Shown]
    copies: dict[str, Sequence[Shown]]
    clean: Sequence[Shown]


def transformations() -> dict[str, AlterationFunction]:
    """Return what is done to a copy, by name: functions of an image and a random generator to an image."""
    return dict(ALTERATIONS)


def _read(data: bytes) -> Image:
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


def stored(image: Image, rules: ImageRules) -> Image:
    """Return an image as it is stored of a JPEG of quality 88."""
    jpeg = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    found = to_stored_image(jpeg, rules, ())
    assert isinstance(found, StoredImage), found
    return _read(found.jpg)


def _copies(originals: Sequence[Shown], rules: ImageRules) -> dict[str, Sequence[Shown]]:
    def copy(name: str, alter: AlterationFunction, one: Shown) -> Shown:
        rng = np.random.default_rng([zlib.crc32(name.encode()), zlib.crc32(f"{one.group}/{one.key}".encode())])
        return Shown(one.group, one.key, one.caption, stored(alter(one.image, rng), rules))

    return {name: [copy(name, alter, one) for one in originals] for name, alter in transformations().items()}


def drawn_album(seed: int, evaluation: int, copied: int, clean: int) -> Album:
    """Draw so many images of each of the six styles of the demo's world, and copies of `copied` evaluation images."""

    def pictures(part: int, count: int) -> Iterator[tuple[str, int, Drawn]]:
        for number, style in enumerate(STYLES):
            for index in range(count):
                yield style, index, Drawn((seed, part, number, index), CLASSES[index % len(CLASSES)], style)

    originals = [
        Shown(style, f"{style}_{index:05d}", f"{style} of a {drawn.class_name}", _read(render_file(drawn)[0]))
        for style, index, drawn in pictures(2, evaluation)
    ]
    others = [
        Shown(style, str(index), f"{style} of a {drawn.class_name}", stored(draw_picture(drawn), _DRAWN_RULES))
        for style, index, drawn in pictures(1, clean)
    ]
    chosen = [one for place, one in enumerate(originals) if place % evaluation < copied]
    return Album(originals, _copies(chosen, _DRAWN_RULES), others)


def _tar(domain: str, split: str) -> list[Shown]:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(REAL / f"{domain}-{split}.tar") as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            content: Any = tar.extractfile(member)
            members.setdefault(key, {})[suffix] = content.read()
    parts = sorted(members.items())
    return [Shown(domain, key, f"{domain} of a {one['cls'].decode().strip()}", _read(one["jpg"])) for key, one in parts]


def real_album(copied: int, clean: int | None = None) -> Album:
    """Return PACS: its test images as evaluation images, evenly chosen ones of each domain copied, its training images.

    Known copies between the two are left out of the clean images. `clean` limits the images of a domain.
    """
    tests = {domain: _tar(domain, "test") for domain in DOMAINS}
    chosen = [one for shown in tests.values() for one in shown[:: max(1, len(shown) // copied)][:copied]]
    known = {(domain, train) for domain, pairs in json.loads(KNOWN.read_text("utf-8")).items() for train, _ in pairs}
    others = []
    for domain in DOMAINS:
        own = [one for one in _tar(domain, "train") if (domain, one.key) not in known]
        step = 1 if clean is None else max(1, len(own) // clean)
        others += [Shown(domain, one.key, one.caption, stored(one.image, _REAL_RULES)) for one in own[::step][:clean]]
    return Album([one for shown in tests.values() for one in shown], _copies(chosen, _REAL_RULES), others)
