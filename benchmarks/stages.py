"""What decide, blend and export cost at two sizes, shards of pairs of about 10 kB included: rates for `cuvee plan`.

As `benchmarks.scale`, whose store it is, but small enough for real bytes: the mixture, 30 % of the pairs, is exported.
"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale import build, measured, table_bytes

SIZES, IMAGE, NAMES = (20_000, 100_000), 10_000, ("decide", "blend", "export")


def at(pairs: int) -> dict[str, Any]:
    """Return what the stages cost at one size."""
    with tempfile.TemporaryDirectory(prefix="cuvee-stages-") as scratch:
        path = build(Path(scratch), pairs, IMAGE)
        stages = measured(path, pairs, NAMES)
        tars = sum(tar.stat().st_size for tar in Path(scratch).rglob("store/exports/**/*.tar"))
        return {"stages": stages, "table_bytes": table_bytes(path), "exported_bytes": tars}


def measure() -> dict[str, Any]:
    """Return the figure, by size."""
    return {"stages": {"image_bytes": IMAGE, "pairs": {str(size): at(size) for size in SIZES}}}


if __name__ == "__main__":
    print(measure())
