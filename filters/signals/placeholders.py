"""Placeholder images: the same bytes are returned for many URLs ("image not available", a site's logo)."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class PlaceholdersSignal:
    """Setting: `urls`, the number of distinct URLs from which the same bytes count as a placeholder.

    The default, 10, is our choice: an image that a page shows in a few sizes or languages has fewer URLs, a site's
    placeholder more.
    """

    urls: int = 10

    columns: ClassVar[pa.Schema] = pa.schema([("same_bytes_urls", pa.int64()), ("placeholder", pa.bool_())])

    def query(self, samples: str, pairs: str) -> str:
        """Return Spark SQL for uid, source and the columns, from views of `samples` and of their `pairs`."""
        return (
            f"with urls as (select s.raw_sha256, count(distinct p.url) as same_bytes_urls from {samples} s "
            f"join {pairs} p on s.uid = p.uid group by s.raw_sha256) "
            f"select s.uid, s.source, u.same_bytes_urls, u.same_bytes_urls >= {int(self.urls)} as placeholder "
            f"from {samples} s join urls u on s.raw_sha256 = u.raw_sha256"
        )
