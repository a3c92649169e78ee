"""Thumbnails for an HTML page. What ingest refuses is refused here too, as these bytes also come from the web."""

import base64

from pipeline.images.normalize import ImageRules, Refused, to_picture

RULES = ImageRules(mode="keep_ratio_largest", size=112, quality=80, min_side=1, max_pixels=100_000_000)
"""112 pixels for the longer side; `max_pixels` is ingest's default."""


def thumbnail(data: bytes) -> str | Refused:
    """Return an image as a JPEG data URL, or why it is refused."""
    image = to_picture(data, RULES)
    if isinstance(image, Refused):
        return image
    return f"data:image/jpeg;base64,{base64.b64encode(image.jpg).decode()}"
