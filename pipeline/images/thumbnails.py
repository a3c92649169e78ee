"""Thumbnails for an HTML page. What ingest refuses is refused here too, as these bytes also come from the web."""

import base64

from pipeline.images.normalize import ImageRules, RefusedImage, to_stored_image

THUMBNAIL_RULES = ImageRules(mode="keep_ratio_largest", size=112, quality=80, min_side=1, max_pixels=100_000_000)
"""112 pixels for the longer side; `max_pixels` is ingest's default."""


def thumbnail_url(data: bytes) -> str | RefusedImage:
    """Return an image as a JPEG data URL, or why it is refused."""
    image = to_stored_image(data, THUMBNAIL_RULES)
    if isinstance(image, RefusedImage):
        return image
    return f"data:image/jpeg;base64,{base64.b64encode(image.jpg).decode()}"
