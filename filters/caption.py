"""Numbers about a caption's text alone."""

import html
import re
from functools import cache
from typing import Any, ClassVar

import pyarrow as pa

from filters.contract import Columns, PairBatch

_WORD = re.compile(r"\w+", re.UNICODE)
_URL = re.compile(r"https?://|www\.", re.IGNORECASE)
_TAG = re.compile(r"<[a-zA-Z/][^<>]*>|&[a-z]+;|&#\d+;")
_FILE = re.compile(r"^\s*[\w\-. ()]*\.(jpe?g|png|gif|webp|tiff?|bmp|heic)\s*$", re.IGNORECASE)
_CAMERA = re.compile(r"^\s*(img|dsc|dscn|dscf|pict|p|image|photo|screenshot)[\W_]*\d[\d\W_]*$", re.IGNORECASE)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(text: str) -> tuple[str, float]:
    """Return (ISO 639-1 code, probability) by py3langid; text without a word is ("und", 0.0)."""
    if not _WORD.search(text):
        return "und", 0.0
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


class CaptionSignal:
    """Lengths in characters and words, share of letters, flags for URLs, markup and file names, and the language."""

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("chars", pa.int32()),
            ("words", pa.int32()),
            ("letter_ratio", pa.float32()),
            ("has_url", pa.bool_()),
            ("has_markup", pa.bool_()),
            ("is_file_name", pa.bool_()),
            ("language", pa.string()),
            ("language_probability", pa.float32()),
        ]
    )

    def compute(self, batch: PairBatch) -> Columns:
        """Return the columns; `letter_ratio` is letters among the characters that are no spaces, 0 where none are."""
        texts = [pair.caption for pair in batch.pairs]
        bare = [[char for char in text if not char.isspace()] for text in texts]
        languages = [language(html.unescape(text)) for text in texts]
        return {
            "chars": [len(text) for text in texts],
            "words": [len(_WORD.findall(text)) for text in texts],
            "letter_ratio": [sum(map(str.isalpha, chars)) / len(chars) if chars else 0.0 for chars in bare],
            "has_url": [bool(_URL.search(text)) for text in texts],
            "has_markup": [bool(_TAG.search(text)) for text in texts],
            "is_file_name": [bool(_FILE.match(text) or _CAMERA.match(text)) for text in texts],
            "language": [code for code, _ in languages],
            "language_probability": [probability for _, probability in languages],
        }
