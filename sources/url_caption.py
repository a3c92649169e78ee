"""Headerless TSV of URL and caption: Conceptual 12M (Changpinyo et al. 2021), Shutterstock (Nguyen et al. 2022)."""

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.records import PublishedRow, malformed
from sources.lines import numbered_lines, whole


class CC12M:
    """Conceptual 12M: `cc12m.tsv`, "URL<tab>caption" without a header; it publishes no id."""

    name = "cc12m"
    pattern = "cc12m.tsv"

    def read(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        """Yield every line; one without exactly one tab is malformed."""
        return whole(self._rows(stream))

    def _rows(self, stream: BinaryIO) -> Iterator[PublishedRow]:
        for number, line in numbered_lines(stream):
            url, tab, caption = line.partition("\t")
            if not tab or "\t" in caption:
                yield malformed(number, "URL<tab>caption", f"{line.count(chr(9)) + 1} columns: {line!r}")
            else:
                yield PublishedRow(number, url=url, caption=caption)


class Shutterstock(CC12M):
    """Shutterstock pairs in the same two columns."""

    name = "shutterstock"
    pattern = "*.tsv"
