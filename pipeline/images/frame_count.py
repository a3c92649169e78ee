"""How many frames a picture has: what its header says, or for a GIF, which says nothing, its blocks counted."""

import re

from PIL import Image

MOST_FRAMES = 10_000
"""More are told as that many: a header may claim 2**31."""


_MOST_BLOCKS = 1 << 20
"""Of a GIF, blocks of data that are passed over, each at most 255 bytes: 0.14 s as measured."""


_BLOCK = re.compile(rb"[!,;]")


_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})


def frames(image: Image.Image, body: bytes) -> int:
    """Return the number of frames of an image that Pillow has opened, 1 of a still; none is decoded.

    Pillow reads it in the header of an animated PNG, WebP or AVIF. Pages of a TIFF and further pictures of an MPO are
    no frames: no browser plays them.
    """
    if image.format not in _ANIMATED:
        return 1
    count = _gif_frames(body) if image.format == "GIF" else int(getattr(image, "n_frames", 1))
    return max(1, min(count, MOST_FRAMES))


def _gif_frames(body: bytes) -> int:
    """Return how many image descriptors a GIF has (GIF89a, sections 18 to 27), to where it is cut or the bounds lie."""
    count, left = 0, _MOST_BLOCKS
    at = 13 + _colours(body[10])
    while (found := _BLOCK.search(body, at)) is not None and count < MOST_FRAMES and left > 0:
        at = found.start()
        if found[0] == b";":
            break
        if found[0] == b",":
            count += 1
            at += 9 + _colours(body[at + 9] if at + 9 < len(body) else 0)  # its last byte is the flags'
        at += 2
        while at < len(body) and body[at] and left > 0:
            at, left = at + 1 + body[at], left - 1
        at += 1
    return count


def _colours(flags: int) -> int:
    """Return how many bytes of a colour table follow a descriptor with these flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
