"""Headerless TSV of two columns, URL and caption: Conceptual Captions, Shutterstock and one of the YFCC15M sets."""

from pipeline.records import PublishedRow, malformed_row
from sources.readers.lines import LineFormat

NGUYEN_CITATION = "Nguyen, Ilharco, Wortsman, Oh, Schmidt: Quality Not Quantity. NeurIPS 2022, arXiv:2208.05516"


class CC12M(LineFormat):
    """Conceptual 12M: `cc12m.tsv`, "URL<tab>caption" without a header; it publishes no id."""

    name = "cc12m"
    pattern = "cc12m.tsv"
    citation = "Changpinyo, Sharma, Ding, Soricut: Conceptual 12M. CVPR 2021, arXiv:2102.08981"
    columns = "URL<tab>caption"

    def row(self, number: int, line: str) -> PublishedRow:
        """Return the pair; a line without exactly one tab is malformed."""
        first, tab, second = line.partition("\t")
        if not tab or "\t" in second:
            return malformed_row(number, self.columns, f"{line.count(chr(9)) + 1} columns: {line!r}")
        return self._row(number, first, second)

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
    citation = NGUYEN_CITATION


class YfccPairs(CC12M):
    """The YFCC15M of Nguyen et al. 2022, pairs without photo ids; `sources.yfcc15m` lists the sets of that name."""

    name = "yfcc_pairs"
    pattern = "yfcc*.tsv"
    citation = NGUYEN_CITATION
