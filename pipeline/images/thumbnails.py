"""Small pictures for a page. What ingest would refuse is refused here too, as these bytes come from the web as well."""

import base64

from pipeline.images.normalize import ImageRules, Refused, to_picture

RULES = ImageRules(mode="keep_ratio_largest", size=112, quality=80, min_side=1, max_pixels=100_000_000)
"""The longer side in pixels, and the most pixels that ingest lets through where nothing is said."""


def thumbnail(data: bytes) -> str | Refused:
    """Return an image as a JPEG data URL, or why there is none."""
    made = to_picture(data, RULES)
    if isinstance(made, Refused):
        return made
    return f"data:image/jpeg;base64,{base64.b64encode(made.jpg).decode()}"
