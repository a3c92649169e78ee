"""The number of frames of an image: from its header, or by counting blocks for a GIF, whose header has no number."""

import re

from PIL import Image

MAX_FRAMES = 10_000
"""Largest number that is returned, in place of larger ones: a header may claim 2**31."""


_MAX_BLOCKS = 1 << 20
"""Most data blocks of a GIF, each at most 255 bytes, that are skipped: 0.14 s as measured."""


_INTRODUCER = re.compile(rb"[!,;]")
"""The first byte of an extension, an image descriptor, and the trailer of a GIF."""


_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})


def count_frames(image: Image.Image, body: bytes) -> int:
    """Return the number of frames of an image that Pillow has opened, 1 for a still image; none is decoded.

    Pillow reads it from the header of an animated PNG, WebP or AVIF. Pages of a TIFF and further images of an MPO are
    not frames: no browser plays them.
    """
    if image.format not in _ANIMATED:
        return 1
    count = _gif_frames(body) if image.format == "GIF" else int(getattr(image, "n_frames", 1))
    return max(1, min(count, MAX_FRAMES))


def _gif_frames(body: bytes) -> int:
    """Return the number of image descriptors of a GIF (GIF89a, sections 18 to 27), up to a truncation or the limits."""
    count, blocks_left = 0, _MAX_BLOCKS
    position = 13 + _colour_table_bytes(body[10])
    while (match := _INTRODUCER.search(body, position)) is not None and count < MAX_FRAMES and blocks_left > 0:
        position = match.start()
        if match[0] == b";":
            break
        if match[0] == b",":
            count += 1
            flags = body[position + 9] if position + 9 < len(body) else 0  # the descriptor's last byte
            position += 9 + _colour_table_bytes(flags)
        position += 2
        while position < len(body) and body[position] and blocks_left > 0:
            position, blocks_left = position + 1 + body[position], blocks_left - 1
        position += 1
    return count


def _colour_table_bytes(flags: int) -> int:
    """Return the bytes of the colour table that follows a descriptor with these flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
