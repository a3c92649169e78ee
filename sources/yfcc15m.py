"""YFCC15M as OpenAI published it (Radford et al. 2021): a list of 14,829,396 photos of YFCC100M, without their text.

Three different sets have this name, so the name alone does not give the provenance:

- this list, `yfcc100m_subset_data.tsv.bz2`, of photos with English titles or descriptions (openai/CLIP,
  data/yfcc100m.md), called V1 to distinguish it from the next;
- "YFCC15M-V2", the label file of DeCLIP (Li et al. 2022, arXiv:2110.05208), selected and cleaned by its own rules;
- the pairs of URL and caption of Nguyen et al. 2022 (arXiv:2208.05516): `sources.url_caption`'s `yfcc_pairs`.
"""

import re

from pipeline.records import PublishedRow, malformed_row
from sources.readers.lines import LineFormat

NUMBER_PATTERN = re.compile(r"[0-9]{1,18}")


class Yfcc15M(LineFormat):
    """One row for each photo of the list, to be joined by its id to YFCC100M's rows, as it has no URL and no caption.

    The columns are YFCC100M's first three: line number, photo identifier, photo hash. That hash identifies the photo in
    Multimedia Commons' storage and is not a hash of its bytes, so it is passed on and never compared with them.
    """

    name = "yfcc15m"
    pattern = "yfcc100m_subset_data.tsv*"
    citation = "Radford, Kim, Hallacy et al.: Learning Transferable Visual Models. ICML 2021, arXiv:2103.00020"
    joins = "yfcc"

    def row(self, number: int, line: str) -> PublishedRow:
        """Return the photo's id; a line that is not two numbers and a hash is malformed."""
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 3 or not all(map(NUMBER_PATTERN.fullmatch, cells[:2])) or not cells[2]:
            return malformed_row(number, "line number, photo id, photo hash", repr(line))
        return PublishedRow(number, cells[1], published={"yfcc_line": int(cells[0]), "yfcc_hash": cells[2]})
