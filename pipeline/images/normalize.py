"""What is stored of a body: checked by its header, set upright, its faces blurred, resized by img2dataset's Resizer.

One parser measures an image and another decodes it only where both must read the same field (JPEG, PNG, WebP). All
other formats are decoded by Pillow, which measured them, and reach the Resizer as plain BMP; so do images that stand
on their side or that OpenCV reads wrongly. Of an animation the first frame is stored.
"""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from struct import error as StructError
from struct import iter_unpack, unpack_from
from types import FunctionType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.face_blur import NOT_BLURRED, TURNS, blurrer, upright
from pipeline.images.frame_count import frames
from pipeline.images.pdq import pdq
from pipeline.records import Box

RESULT_VERSION = 1
"""What img2dataset's Resizer, OpenCV and Pillow make of a body: raised where a new version gives other pixels."""


NONE = "none"
"""The mode in which a JPEG is stored byte for byte."""


_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is opened at all, by Pillow's names; its other parsers (one starts ghostscript) never see a body."""


_TO_OPENCV = frozenset({"JPEG", "MPO", "PNG", "WEBP"})


_JPEG = frozenset({"JPEG", "MPO"})


_ORIENTATION, _SHORT = 0x0112, 3


_DEEP = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2"}
"""Pillow's modes of one channel of 16 bits: their samples' type."""


_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


_MOST_MARKERS, _MOST_SCANS, _MOST_FILLED = 10_000, 100, 1 << 16
"""Of a JPEG: markers and scans (libjpeg's progressive script has 10), and bytes that fill the gaps before a scan."""


_MOST_CHUNKS = 50_000
"""Of a PNG."""


@dataclass(frozen=True)
class ImageRules:
    """What is stored: `mode` and `size` are img2dataset's resize modes and pixels, `quality` is JPEG's (1 to 100).

    Mode "none" stores a JPEG as it came, with all that stands in it beside the pixels (EXIF, ICC), unless it must be
    turned, blurred or converted; what is no JPEG is encoded at its own size.
    """

    mode: str
    size: int
    quality: int
    min_side: int
    max_pixels: int


@dataclass(frozen=True)
class Picture:
    """An image as stored (JPEG bytes) with its size and the upright original's, in pixels; `blurred` counts faces.

    `format` is that of the body it came in, Pillow's name in lower case, and `frames` how many pictures this shows.
    """

    jpg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    blurred: int = 0
    format: str = "jpeg"
    frames: int = 1

    @cached_property
    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """The stored image as RGB, (height, width, 3) uint8, decoded at the first use; None where it cannot be."""
        return decoded(self.jpg)

    @cached_property
    def fingerprint(self) -> tuple[bytes, int] | None:
        """PDQ of the stored image (32 bytes, quality 0 to 100), computed at the first use."""
        return None if self.pixels is None else pdq(self.pixels)

    @property
    def known_fingerprint(self) -> tuple[bytes | None, int | None]:
        """The fingerprint where something has asked for it, else nulls: of 256 pixels it takes longer than all else."""
        return vars(self).get("fingerprint") or (None, None)


def decoded(jpg: bytes) -> npt.NDArray[np.uint8] | None:
    """Return an image's pixels as RGB, (height, width, 3) uint8, as OpenCV decodes them; None where it cannot."""
    try:
        pixels = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # no bytes, or a header that says billions of pixels
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


@dataclass(frozen=True)
class Refused:
    """Why nothing is stored of a body: the outcome's name and what caused it, at most 200 characters."""

    outcome: str
    detail: str


@cache
def _resizer(rules: ImageRules) -> Callable[..., Any]:
    """Return img2dataset's Resizer as a function of (stream, boxes), safe in several threads.

    Its `__call__` points the process's stdout and stderr at /dev/null while it works: what other threads print is
    lost, and two at once can lose them for good. So it runs with a context that does nothing under that name. The
    decoders' own remarks (libjpeg's "Corrupt JPEG data") then reach stderr; OpenCV's are switched off.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the network for a newer version
    from img2dataset.resizer import Resizer

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    resizer = Resizer(
        image_size=rules.size,
        resize_mode="no" if rules.mode == NONE else rules.mode,
        resize_only_if_bigger=True,
        encode_quality=rules.quality,
        encode_format="jpg",
        blurrer=blurrer,
    )
    names = vars(sys.modules[Resizer.__module__]) | {"SuppressStdoutStderr": nullcontext}
    call = Resizer.__call__
    return partial(FunctionType(call.__code__, names, call.__name__, call.__defaults__, call.__closure__), resizer)


def ready(rules: ImageRules) -> None:
    """Load what resizing needs, which takes seconds, before an image waits for it."""
    _resizer(rules)


def _jpeg_fault(body: bytes) -> Refused | None:
    """Return what is wrong with a JPEG's markers: no end of image, or more of them than any camera writes.

    Decoders fill a cut image with grey and say nothing, and parsers take minutes for millions of empty segments or for
    thousands of scans. Goes from marker to marker (ITU-T T.81, annex B), over the length of those that have one: what
    was appended behind the end (a film, a second image) may hold any bytes.
    """
    at, scans, filled = 2, 0, 0
    for _ in range(_MOST_MARKERS):
        if not (found := _MARKER.search(body, at)):
            return Refused("truncated_image", f"{len(body)} bytes without an end of image")
        kind = found[1][0]
        filled += 0 if scans else found.start() - at
        at, scans = found.end(), scans + (kind == 0xDA)
        if kind == 0xD9:
            return None
        if scans > _MOST_SCANS or filled > _MOST_FILLED:
            break
        if kind not in (0x01, 0xD8):
            at += max(2, int.from_bytes(body[at : at + 2]))
    return Refused(
        "undecodable_image", f"more than {_MOST_MARKERS} markers, {_MOST_SCANS} scans or {_MOST_FILLED} bytes of gaps"
    )


def _png_fault(body: bytes) -> Refused | None:
    """Return what is wrong with a PNG's chunks: too many of them, each of which parsers stop at."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at >= len(body):
            return None
        at += 12 + int.from_bytes(body[at : at + 4])
    return Refused("undecodable_image", f"more than {_MOST_CHUNKS} chunks")


def _fault(body: bytes) -> Refused | None:
    """Return what is wrong with a body's frame, before any parser sees it."""
    if body.startswith(b"\xff\xd8\xff"):
        return _jpeg_fault(body)
    return _png_fault(body) if body.startswith(b"\x89PNG") else None


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none or none that is valid, as browsers do.

    Reads the first directory of the TIFF that EXIF is (CIPA DC-008, 4.6), as Pillow's reader takes 30 us for all of
    it. A TIFF is turned by Pillow itself, which also turns AVIF's own rotation into EXIF's.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):  # a PNG's text chunk may have that name
        return 1
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        start = unpack_from(f"{order}I", exif, 4)[0]
        count = unpack_from(f"{order}H", exif, start)[0]
        for tag, kind, number, value in iter_unpack(f"{order}HHIHxx", exif[start + 2 :][: 12 * count]):
            if tag == _ORIENTATION:
                return int(value) if order and (kind, number) == (_SHORT, 1) and value in TURNS else 1
    except StructError:
        pass
    return 1


def _readable(image: Image.Image, body: bytes, orientation: int) -> bool:
    """Tell whether OpenCV reads a body rightly: upright, of 8 bits, transparent only by an alpha or a palette.

    A PNG's bits a sample are the 9th byte of its header.
    """
    return (
        image.format in _TO_OPENCV
        and orientation == 1
        and image.mode not in _DEEP
        and not (image.format == "PNG" and ("transparency" in image.info or body[24] == 16))
    )


def _bmp(image: Image.Image, orientation: int) -> bytes:
    """Return an image as an upright BMP of 8 bits a sample: grey, colours, or colours and alpha.

    Raises ValueError for samples without a known range (32 bits, floats), and whatever Pillow raises.
    """
    if image.mode in _DEEP:
        pixels = (np.frombuffer(image.tobytes(), _DEEP[image.mode]) >> 8).astype(np.uint8).reshape(image.size[::-1])
    elif image.mode in ("I", "F"):
        raise ValueError(f"samples of mode {image.mode} have no known range")
    elif image.has_transparency_data:
        pixels = cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    elif image.mode in ("L", "1"):
        pixels = np.asarray(image.convert("L"))
    else:
        pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    swap, mirror_x, mirror_y = TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    pixels = pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
    return bytes(cv2.imencode(".bmp", np.ascontiguousarray(pixels))[1])


def _kept(body: bytes, size: tuple[int, int]) -> Picture | Refused:
    """Return a JPEG as it came, once its scans are read at an eighth of its size: all of them, with little else."""
    try:
        small = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error as error:
        return Refused("undecodable_image", str(error)[:200])
    if small is None or small.shape != (-(-size[1] // 8), -(-size[0] // 8)):
        return Refused("undecodable_image", "Image decoding error")
    return Picture(body, *size, *size)


def _resized(data: bytes, rules: ImageRules, size: tuple[int, int], boxes: Sequence[Box]) -> Picture | Refused:
    """Return the image that the Resizer makes of data whose upright size is known."""
    jpg, width, height, *original, fault = _resizer(rules)(io.BytesIO(data), boxes or None)
    if fault is not None:
        return Refused(
            NOT_BLURRED if fault.startswith(NOT_BLURRED) else "undecodable_image", fault[:200] or "no cause given"
        )
    if tuple(original) != size:
        return Refused("undecodable_image", f"decoded as {original[0]} x {original[1]}, its header says {size}")
    return Picture(jpg, width, height, *size, len(boxes))


def _checked(image: Image.Image, body: bytes, rules: ImageRules) -> Refused | None:
    """Return what an opened image's header forbids."""
    width, height = image.size
    if width * height > rules.max_pixels:
        return Refused("too_many_pixels", f"{width} x {height}, expected at most {rules.max_pixels} pixels")
    if min(width, height) < rules.min_side:
        return Refused("image_too_small", f"{width} x {height}, expected sides of at least {rules.min_side} pixels")
    if image.format == "PNG" and body[16:24] != width.to_bytes(4) + height.to_bytes(4):  # Pillow takes the last IHDR
        return Refused("undecodable_image", "more than one header")
    return None


def _made(image: Image.Image, body: bytes, rules: ImageRules, faces: Sequence[Box]) -> Picture | Refused:
    """Return what is stored of an opened image that passed its checks."""
    orientation = _orientation(image)
    try:
        boxes = upright(faces, orientation)
    except (TypeError, ValueError) as error:
        return Refused(NOT_BLURRED, str(error)[:200])
    if rules.mode == NONE and image.format == "JPEG" and image.mode != "CMYK" and orientation == 1 and not boxes:
        return _kept(body, image.size)
    size = image.size[::-1] if TURNS[orientation][0] else image.size
    try:
        data = body if _readable(image, body, orientation) else _bmp(image, orientation)
    except Exception as error:  # noqa: BLE001 - as at its opening
        return Refused("undecodable_image", str(error)[:200] or type(error).__name__)
    return _resized(data, rules, size, boxes)


def opened(body: bytes) -> Image.Image | Refused:
    """Return an image of which only the header was read, or why there is none; nothing is raised.

    Outcomes: truncated_image, undecodable_image, too_many_pixels and not_an_image.
    """
    if fault := _fault(body):
        return fault
    try:
        return Image.open(io.BytesIO(body), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Refused("too_many_pixels", str(error)[:200])
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise anything, and one image must not end a shard
        return Refused("not_an_image", type(error).__name__)


def made_of(
    image: Image.Image | Refused, body: bytes, rules: ImageRules, faces: Sequence[Box] = ()
) -> Picture | Refused:
    """Return what is stored of a body that was `opened`, or why there is nothing; nothing is raised.

    Outcomes: too_many_pixels and image_too_small before anything is decoded, then undecodable_image and
    face_not_blurred. `faces` are boxes to blur, in the image as it came (not turned upright).
    """
    if isinstance(image, Refused):
        return image
    with image:
        made = _checked(image, body, rules) or _made(image, body, rules, faces)
        if isinstance(made, Refused) or image.format in _JPEG:
            return made
        return replace(made, format=str(image.format).lower(), frames=frames(image, body))


def to_picture(body: bytes, rules: ImageRules, faces: Sequence[Box] = ()) -> Picture | Refused:
    """Return what is stored of a body, or why there is nothing; whatever the bytes are, nothing is raised."""
    return made_of(opened(body), body, rules, faces)
