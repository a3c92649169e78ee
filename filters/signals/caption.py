"""Numbers about a caption's text alone."""

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Any, ClassVar

import pyarrow as pa

from filters.signals.base import ColumnValues, PairBatch
from filters.signals.caption_text import normalise_caption

RESULT_VERSION = 1
"""The version of py3langid's results: raised where a new release gives other results."""


_WORD = re.compile(r"\w+", re.UNICODE)


_URL = re.compile(r"https?://|www\.", re.IGNORECASE)


_TAG = re.compile(r"<[a-zA-Z/][^<>]*>|&[a-z]+;|&#\d+;")


_FILE = re.compile(r"^\s*[\w\-. ()]*\.(jpe?g|png|gif|webp|tiff?|bmp|heic)\s*$", re.IGNORECASE)


_CAMERA = re.compile(r"^\s*(img|dsc|dscn|dscf|pict|p|image|photo|screenshot)[\W_]*\d[\d\W_]*$", re.IGNORECASE)


BOILERPLATE_PHRASES = (
    *("click for larger", "click here", "click image", "click on image", "click on the image", "click the image"),
    *("click to enlarge", "click to expand", "click to open", "click to view", "click to zoom", "enlarge image"),
    *("full size image", "view full size", "view image", "view larger", "zoom image", "opens in a new"),
    *("image may contain", "may be an image of", "no photo description available", "no description available"),
    *("getty images", "shutterstock", "istockphoto", "alamy", "dreamstime", "depositphotos", "adobe stock"),
    *("royalty free", "royalty-free", "stock image", "stock illustration", "stock photo", "stock vector"),
    *("image coming soon", "image not found", "no image", "no photo", "no picture", "not available", "unavailable"),
    *("default image", "featured image", "placeholder", "thumbnail", "profile picture", "user avatar"),
    *("image for post", "image result for", "picture of the product", "product image", "this is an image"),
    *("alt text", "image description", "add to wishlist", "pin it", "previous slide", "next slide"),
)
"""Phrases that pages write where a description should stand: what a viewer or a shop's template says of any image, an
automatic description's opening, an agency's name, an excuse. In lower case; drawn up by us from alt texts as they are
met on the web, so it is a flag to look at, no published list."""


_BOILERPLATE = re.compile(rf"\b(?:{'|'.join(map(re.escape, BOILERPLATE_PHRASES))})(?:s|es)?\b")


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detect_language(text: str) -> tuple[str, float]:
    """Return (ISO 639-1 code, probability) by py3langid; text without a word is ("und", 0.0)."""
    if not _WORD.search(text):
        return "und", 0.0
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def has_boilerplate(text: str) -> bool:
    """Tell whether a normalised caption holds a phrase of `BOILERPLATE_PHRASES`, case aside, as whole words."""
    folded = text.casefold()
    return any(phrase in folded for phrase in BOILERPLATE_PHRASES) and bool(_BOILERPLATE.search(folded))


def character_ratios(text: str) -> dict[str, float]:
    """Return shares of a text's non-space characters: letters, digits, and punctuation (Unicode's P and S).

    `upper_ratio` is upper-case letters among those that have a case. Where there is none to divide by, a share is 0.
    """
    counts = Counter(text)
    bare = sum(counts.values()) - sum(counts[char] for char in counts if char.isspace())
    upper = sum(counts[char] for char in counts if char.isupper())
    cased = upper + sum(counts[char] for char in counts if char.islower())
    signs = sum(counts[char] for char in counts if not char.isalnum() and unicodedata.category(char)[0] in "PS")
    return {
        "letter_ratio": sum(counts[char] for char in counts if char.isalpha()) / max(bare, 1),
        "digit_ratio": sum(counts[char] for char in counts if char.isdigit()) / max(bare, 1),
        "upper_ratio": upper / max(cased, 1),
        "punctuation_ratio": signs / max(bare, 1),
    }


class CaptionSignal:
    """Lengths in characters and words, shares of kinds of characters, flags, the text made plain, and the language.

    Lengths, shares and the flags for URLs, markup and file names are of the caption as published; boilerplate and
    language are of the `normalised` one. `unique_word_ratio` is distinct words, case aside, among all, 0 without any.
    """

    columns: ClassVar[pa.Schema] = pa.schema(
        [
            ("chars", pa.int32()),
            ("words", pa.int32()),
            ("letter_ratio", pa.float32()),
            ("digit_ratio", pa.float32()),
            ("upper_ratio", pa.float32()),
            ("punctuation_ratio", pa.float32()),
            ("unique_word_ratio", pa.float32()),
            ("has_url", pa.bool_()),
            ("has_markup", pa.bool_()),
            ("is_file_name", pa.bool_()),
            ("has_boilerplate", pa.bool_()),
            ("normalised", pa.string()),
            ("language", pa.string()),
            ("language_probability", pa.float32()),
        ]
    )

    def compute(self, batch: PairBatch) -> ColumnValues:
        """Return the columns."""
        rows = [
            _numbers(pair.caption, plain)
            for pair, plain in zip(batch.pairs, batch.captions(normalise_caption), strict=True)
        ]
        return {name: [row[name] for row in rows] for name in self.columns.names}


def _numbers(text: str, plain: str) -> dict[str, Any]:
    """Return the columns' values for one caption; `plain` is the normalised one."""
    words = _WORD.findall(text)
    code, probability = detect_language(plain)
    return {
        **character_ratios(text),
        "chars": len(text),
        "words": len(words),
        "unique_word_ratio": len(set(map(str.casefold, words))) / max(len(words), 1),
        "has_url": bool(_URL.search(text)),
        "has_markup": bool(_TAG.search(text)),
        "is_file_name": bool(_FILE.match(text) or _CAMERA.match(text)),
        "has_boilerplate": has_boilerplate(plain),
        "normalised": plain,
        "language": code,
        "language_probability": probability,
    }
