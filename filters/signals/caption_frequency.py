"""How often the same caption occurs in the corpus: a template's text says nothing of the image beside it."""

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.errors import InputError


@dataclass(frozen=True)
class CaptionFrequency:
    """Setting: `caption`, the caption signal whose `normalised` text is compared, case aside.

    `caption_pairs` counts the pairs with the same text, the pair itself among them; `caption_sources` the sources these
    are of. An empty text is a text like any other.
    """

    caption: str

    columns: ClassVar[pa.Schema] = pa.schema([("caption_pairs", pa.int64()), ("caption_sources", pa.int32())])

    def __post_init__(self) -> None:
        if not isinstance(self.caption, str) or not self.caption:
            raise InputError(f"caption: expected the name of a caption signal, found {self.caption!r}")

    def query(self, captions: str) -> str:
        """Return Spark SQL for uid, source and the columns, from a view of uid, source and normalised.

        Case is folded as Spark maps letters, one for one, to upper and then to lower case: both sigmas are one, but not
        ß and ss. Texts are compared by their SHA-256, so that short keys are shuffled.
        """
        return (
            "with keyed as ("
            f"select uid, source, unhex(sha2(lower(upper(normalised)), 256)) as text from {captions}), "
            "counted as ("
            "select text, count(*) as caption_pairs, cast(count(distinct source) as int) as caption_sources "
            "from keyed group by text) "
            "select k.uid, k.source, c.caption_pairs, c.caption_sources "
            "from keyed k join counted c on k.text = c.text"
        )
