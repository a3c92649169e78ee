"""The stored image of a body: checked by its header, set upright, its faces blurred, resized by img2dataset's Resizer.

An image is measured by one parser and decoded by another only where both must read the same field (JPEG, PNG, WebP).
All other formats are decoded by Pillow, which measured them, and reach the Resizer as plain BMP; so do images that are
not upright or that OpenCV reads wrongly. Of an animation the first frame is stored.
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

from pipeline.images.face_blur import EXIF_ORIENTATIONS, FACE_NOT_BLURRED, blur_for_resizer, orient_boxes
from pipeline.images.frame_count import count_frames
from pipeline.images.pdq import pdq_fingerprint
from pipeline.records import Box

RESULT_VERSION = 1
"""The version of the results of img2dataset's Resizer, OpenCV and Pillow: raised where a new version of one of them
gives other pixels."""


MODE_NONE = "none"
"""The mode in which a JPEG is stored byte for byte."""


_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The formats that are opened, by Pillow's names; its other parsers (one starts ghostscript) never see a body."""


_OPENCV_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP"})


_JPEG_FORMATS = frozenset({"JPEG", "MPO"})


_ORIENTATION_TAG, _TIFF_SHORT = 0x0112, 3


_SIXTEEN_BIT_MODES = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2"}
"""Pillow's modes of one 16-bit channel, and the dtype of their samples."""


_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")


_MAX_MARKERS, _MAX_SCANS, _MAX_FILLED_BYTES = 10_000, 100, 1 << 16
"""Limits for a JPEG: markers, scans (libjpeg's progressive script has 10), and bytes in gaps before the first scan."""


_MAX_CHUNKS = 50_000
"""Limit for a PNG."""


@dataclass(frozen=True)
class ImageRules:
    """What is stored: `mode` and `size` are img2dataset's resize modes and pixels, `quality` is JPEG's (1 to 100).

    Mode "none" stores a JPEG as it came, with all its metadata (EXIF, ICC), unless it must be turned, blurred or
    converted; other formats are encoded at their own size.
    """

    mode: str
    size: int
    quality: int
    min_side: int
    max_pixels: int


@dataclass(frozen=True)
class StoredImage:
    """An image as stored (JPEG bytes) with its size and the upright original's, in pixels; `blurred` counts faces.

    `format` is the body's (Pillow's name in lower case), and `frames` its number of frames.
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
        """The stored image as RGB, (height, width, 3) uint8, decoded at the first use; None where that fails."""
        return decode_rgb(self.jpg)

    @cached_property
    def fingerprint(self) -> tuple[bytes, int] | None:
        """PDQ of the stored image (32 bytes, quality 0 to 100), computed at the first use."""
        return None if self.pixels is None else pdq_fingerprint(self.pixels)

    @property
    def computed_fingerprint(self) -> tuple[bytes | None, int | None]:
        """The fingerprint if it was computed, else nulls: at 256 pixels it takes longer than all other steps."""
        return vars(self).get("fingerprint") or (None, None)


def decode_rgb(jpg: bytes) -> npt.NDArray[np.uint8] | None:
    """Return an image's pixels as RGB, (height, width, 3) uint8, as OpenCV decodes them; None where it fails."""
    try:
        pixels = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # no bytes, or a header with billions of pixels
        return None
    return None if pixels is None else np.asarray(pixels, np.uint8)


@dataclass(frozen=True)
class RefusedImage:
    """Why no image is stored of a body: the outcome's name and the cause, at most 200 characters."""

    outcome: str
    detail: str


@cache
def _resizer(rules: ImageRules) -> Callable[..., Any]:
    """Return img2dataset's Resizer as a function of (stream, boxes), safe in several threads.

    Its `__call__` points the process's stdout and stderr at /dev/null while it works: what other threads print is
    lost, and two at once can lose them for good. So it runs with a context manager that does nothing in its place.
    The decoders' own warnings (libjpeg's "Corrupt JPEG data") then reach stderr; OpenCV's are switched off.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
    from img2dataset.resizer import Resizer

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    resizer = Resizer(
        image_size=rules.size,
        resize_mode="no" if rules.mode == MODE_NONE else rules.mode,
        resize_only_if_bigger=True,
        encode_quality=rules.quality,
        encode_format="jpg",
        blurrer=blur_for_resizer,
    )
    names = vars(sys.modules[Resizer.__module__]) | {"SuppressStdoutStderr": nullcontext}
    call = Resizer.__call__
    return partial(FunctionType(call.__code__, names, call.__name__, call.__defaults__, call.__closure__), resizer)


def load_resizer(rules: ImageRules) -> None:
    """Load the libraries for resizing, which takes seconds, before an image waits for them."""
    _resizer(rules)


def _jpeg_fault(body: bytes) -> RefusedImage | None:
    """Return what is wrong with a JPEG's markers: no end of image, or more of them than any camera writes.

    Decoders silently fill a truncated image with grey, and parsers take minutes for millions of empty segments or for
    thousands of scans. Goes from marker to marker (ITU-T T.81, annex B) and skips the length of those that have one.
    Data appended behind the end (a film, a second image) may hold any bytes.
    """
    offset, scans, filled_bytes = 2, 0, 0
    for _ in range(_MAX_MARKERS):
        if not (marker := _MARKER.search(body, offset)):
            return RefusedImage("truncated_image", f"{len(body)} bytes without an end of image")
        code = marker[1][0]
        filled_bytes += 0 if scans else marker.start() - offset
        offset, scans = marker.end(), scans + (code == 0xDA)
        if code == 0xD9:
            return None
        if scans > _MAX_SCANS or filled_bytes > _MAX_FILLED_BYTES:
            break
        if code not in (0x01, 0xD8):
            offset += max(2, int.from_bytes(body[offset : offset + 2]))
    return RefusedImage(
        "undecodable_image",
        f"more than {_MAX_MARKERS} markers, {_MAX_SCANS} scans or {_MAX_FILLED_BYTES} bytes of gaps",
    )


def _png_fault(body: bytes) -> RefusedImage | None:
    """Return what is wrong with a PNG's chunks: too many of them, as parsers stop at each."""
    offset = 8
    for _ in range(_MAX_CHUNKS):
        if offset >= len(body):
            return None
        offset += 12 + int.from_bytes(body[offset : offset + 4])
    return RefusedImage("undecodable_image", f"more than {_MAX_CHUNKS} chunks")


def _fault(body: bytes) -> RefusedImage | None:
    """Return what is wrong with a body's markers or chunks, before any parser sees it."""
    if body.startswith(b"\xff\xd8\xff"):
        return _jpeg_fault(body)
    return _png_fault(body) if body.startswith(b"\x89PNG") else None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is no valid one, as in browsers.

    Reads only the first directory of the TIFF in EXIF (CIPA DC-008, 4.6), as Pillow's reader reads all of it and takes
    30 us. A TIFF is turned by Pillow itself, which also converts AVIF's own rotation to EXIF's.
    """
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):  # a PNG's text chunk may have this name
        return 1
    exif = exif.removeprefix(b"Exif\0\0")
    byte_order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    try:
        directory = unpack_from(f"{byte_order}I", exif, 4)[0]
        count = unpack_from(f"{byte_order}H", exif, directory)[0]
        for tag, kind, length, value in iter_unpack(f"{byte_order}HHIHxx", exif[directory + 2 :][: 12 * count]):
            if tag == _ORIENTATION_TAG:
                return (
                    int(value)
                    if byte_order and (kind, length) == (_TIFF_SHORT, 1) and value in EXIF_ORIENTATIONS
                    else 1
                )
    except StructError:
        pass
    return 1


def _opencv_reads(image: Image.Image, body: bytes, orientation: int) -> bool:
    """Return whether OpenCV reads a body correctly: upright, 8 bits, transparent only by an alpha channel or a palette.

    The 9th byte of a PNG's header holds its bits per sample.
    """
    return (
        image.format in _OPENCV_FORMATS
        and orientation == 1
        and image.mode not in _SIXTEEN_BIT_MODES
        and not (image.format == "PNG" and ("transparency" in image.info or body[24] == 16))
    )


def _to_bmp(image: Image.Image, orientation: int) -> bytes:
    """Return an image as an upright BMP of 8 bits per sample: grey, colour, or colour and alpha.

    Raises ValueError for samples without a known range (32 bits, floats), and whatever Pillow raises.
    """
    if image.mode in _SIXTEEN_BIT_MODES:
        pixels = (
            (np.frombuffer(image.tobytes(), _SIXTEEN_BIT_MODES[image.mode]) >> 8)
            .astype(np.uint8)
            .reshape(image.size[::-1])
        )
    elif image.mode in ("I", "F"):
        raise ValueError(f"samples of mode {image.mode} have no known range")
    elif image.has_transparency_data:
        pixels = cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    elif image.mode in ("L", "1"):
        pixels = np.asarray(image.convert("L"))
    else:
        pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    transpose, mirror_x, mirror_y = EXIF_ORIENTATIONS[orientation]
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    pixels = pixels[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]
    return bytes(cv2.imencode(".bmp", np.ascontiguousarray(pixels))[1])


def _unchanged(body: bytes, size: tuple[int, int]) -> StoredImage | RefusedImage:
    """Return a JPEG unchanged, once it decodes at an eighth of its size: that reads all scans at little other cost."""
    try:
        preview = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    except cv2.error as error:
        return RefusedImage("undecodable_image", str(error)[:200])
    if preview is None or preview.shape != (-(-size[1] // 8), -(-size[0] // 8)):
        return RefusedImage("undecodable_image", "Image decoding error")
    return StoredImage(body, *size, *size)


def _resized(data: bytes, rules: ImageRules, size: tuple[int, int], boxes: Sequence[Box]) -> StoredImage | RefusedImage:
    """Return the image that the Resizer makes of `data`, which has the upright size `size`."""
    jpg, width, height, *original, fault = _resizer(rules)(io.BytesIO(data), boxes or None)
    if fault is not None:
        return RefusedImage(
            FACE_NOT_BLURRED if fault.startswith(FACE_NOT_BLURRED) else "undecodable_image",
            fault[:200] or "no cause given",
        )
    if tuple(original) != size:
        return RefusedImage("undecodable_image", f"decoded as {original[0]} x {original[1]}, its header says {size}")
    return StoredImage(jpg, width, height, *size, len(boxes))


def _header_fault(image: Image.Image, body: bytes, rules: ImageRules) -> RefusedImage | None:
    """Return why an opened image is refused by its header, None if it is not."""
    width, height = image.size
    if width * height > rules.max_pixels:
        return RefusedImage("too_many_pixels", f"{width} x {height}, expected at most {rules.max_pixels} pixels")
    if min(width, height) < rules.min_side:
        return RefusedImage(
            "image_too_small", f"{width} x {height}, expected sides of at least {rules.min_side} pixels"
        )
    if image.format == "PNG" and body[16:24] != width.to_bytes(4) + height.to_bytes(4):  # Pillow uses the last IHDR
        return RefusedImage("undecodable_image", "more than one header")
    return None


def _store(image: Image.Image, body: bytes, rules: ImageRules, faces: Sequence[Box]) -> StoredImage | RefusedImage:
    """Return the stored image of an opened one that passed its checks, or why there is none."""
    orientation = _orientation(image)
    try:
        boxes = orient_boxes(faces, orientation)
    except (TypeError, ValueError) as error:
        return RefusedImage(FACE_NOT_BLURRED, str(error)[:200])
    if rules.mode == MODE_NONE and image.format == "JPEG" and image.mode != "CMYK" and orientation == 1 and not boxes:
        return _unchanged(body, image.size)
    size = image.size[::-1] if EXIF_ORIENTATIONS[orientation][0] else image.size
    try:
        data = body if _opencv_reads(image, body, orientation) else _to_bmp(image, orientation)
    except Exception as error:  # noqa: BLE001 - as in `opened`
        return RefusedImage("undecodable_image", str(error)[:200] or type(error).__name__)
    return _resized(data, rules, size, boxes)


def open_image(body: bytes) -> Image.Image | RefusedImage:
    """Return an image of which only the header is read, or why there is none; nothing is raised.

    Outcomes: truncated_image, undecodable_image, too_many_pixels and not_an_image.
    """
    if fault := _fault(body):
        return fault
    try:
        return Image.open(io.BytesIO(body), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return RefusedImage("too_many_pixels", str(error)[:200])
    except Exception as error:  # noqa: BLE001 - Pillow's parsers raise anything, and one image must not end a shard
        return RefusedImage("not_an_image", type(error).__name__)


def store_image(
    image: Image.Image | RefusedImage, body: bytes, rules: ImageRules, faces: Sequence[Box] = ()
) -> StoredImage | RefusedImage:
    """Return the stored image of a body that was `opened`, or why there is none; nothing is raised.

    Outcomes: too_many_pixels and image_too_small before anything is decoded, then undecodable_image and
    face_not_blurred. `faces` are boxes to blur, in the image as it came (not turned upright).
    """
    if isinstance(image, RefusedImage):
        return image
    with image:
        stored = _header_fault(image, body, rules) or _store(image, body, rules, faces)
        if isinstance(stored, RefusedImage) or image.format in _JPEG_FORMATS:
            return stored
        return replace(stored, format=str(image.format).lower(), frames=count_frames(image, body))


def to_stored_image(body: bytes, rules: ImageRules, faces: Sequence[Box] = ()) -> StoredImage | RefusedImage:
    """Return the stored image of a body, or why there is none; nothing is raised, whatever the bytes are."""
    return store_image(open_image(body), body, rules, faces)
