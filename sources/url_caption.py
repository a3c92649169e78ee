"""Headerless TSV of two columns, URL and caption: Conceptual Captions, Shutterstock, and a YFCC15M among them."""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa

from pipeline.records import WHOLE, Part, PublishedRow, malformed
from sources.lines import line_parts, part_lines, whole

NGUYEN = "Nguyen, Ilharco, Wortsman, Oh, Schmidt: Quality Not Quantity. NeurIPS 2022, arXiv:2208.05516"


class CC12M:
    """Conceptual 12M: `cc12m.tsv`, "URL<tab>caption" without a header; it publishes no id."""

    name = "cc12m"
    pattern = "cc12m.tsv"
    citation = "Changpinyo, Sharma, Ding, Soricut: Conceptual 12M. CVPR 2021, arXiv:2102.08981"
    scores: Mapping[str, pa.DataType] = {}
    joins = ""
    columns = "URL<tab>caption"

    def parts(self, stream: BinaryIO, size: int) -> list[Part]:
        """Return parts of whole lines."""
        return line_parts(stream, size)

    def read(self, stream: BinaryIO, part: Part = WHOLE) -> Iterator[PublishedRow]:
        """Yield every line; one without exactly one tab is malformed."""
        return whole(self._rows(stream, part))

    def _rows(self, stream: BinaryIO, part: Part) -> Iterator[PublishedRow]:
        for number, line in part_lines(stream, part):
            first, tab, second = line.partition("\t")
            if not tab or "\t" in second:
                yield malformed(number, self.columns, f"{line.count(chr(9)) + 1} columns: {line!r}")
            else:
                yield self._row(number, first, second)

    def _row(self, number: int, first: str, second: str) -> PublishedRow:
        return PublishedRow(number, url=first, caption=second)


class CC3M(CC12M):
    """Conceptual Captions: `Train_GCC-training.tsv`, in which the caption comes first and the URL second."""

    name = "cc3m"
    pattern = "*GCC*.tsv"
    citation = "Sharma, Ding, Goodman, Soricut: Conceptual Captions. ACL 2018, P18-1238"
    columns = "caption<tab>URL"

    def _row(self, number: int, first: str, second: str) -> PublishedRow:
        return PublishedRow(number, url=second, caption=first)


class Shutterstock(CC12M):
    """Shutterstock pairs in the same two columns."""

    name = "shutterstock"
    pattern = "*.tsv"
    citation = NGUYEN


class YfccPairs(CC12M):
    """The YFCC15M of Nguyen et al. 2022, pairs without photo ids; `sources.yfcc15m` says what else has that name."""

    name = "yfcc_pairs"
    pattern = "yfcc*.tsv"
    citation = NGUYEN
