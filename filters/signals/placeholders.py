"""Images that stand for others: the same bytes come back for many URLs ("image not available", a site's logo)."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Placeholders:
    """Setting: `urls`, how many distinct URLs must have answered with the same bytes for these to be a placeholder.

    The default, 10, is ours: a picture that a page shows in a few sizes or languages has fewer, a site's stand-in more.
    """

    urls: int = 10

    columns: ClassVar[pa.Schema] = pa.schema([("same_bytes_urls", pa.int64()), ("placeholder", pa.bool_())])

    def query(self, samples: str, pairs: str) -> str:
        """Return Spark SQL for uid, source and the columns, from views of `samples` and of the `pairs` behind them."""
        return (
            f"with urls as (select s.raw_sha256, count(distinct p.url) as same_bytes_urls from {samples} s "
            f"join {pairs} p on s.uid = p.uid group by s.raw_sha256) "
            f"select s.uid, s.source, u.same_bytes_urls, u.same_bytes_urls >= {int(self.urls)} as placeholder "
            f"from {samples} s join urls u on s.raw_sha256 = u.raw_sha256"
        )
