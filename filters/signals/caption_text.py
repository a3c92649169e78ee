"""Normalised captions: the form in which they are compared and searched."""

import html

import ftfy

RESULT_VERSION = 1
"""The version of ftfy's results: raised where a new release gives other results."""

_FTFY = ftfy.TextFixerConfig(unescape_html=False, normalization="NFC")


def normalise_caption(text: str) -> str:
    """Return a caption as CLIP's tokenizer cleans it, its case kept: the form that is compared and searched.

    HTML's entities are unescaped twice, as pages escape what is escaped; then `ftfy.fix_text` undoes wrong decodings,
    straightens quotes, drops control characters, replaces lone surrogates and composes to NFC; each run of whitespace
    becomes one space, none at the ends. The steps are `basic_clean` and `whitespace_clean` of openai/CLIP
    clip/simple_tokenizer.py, but that entities come first, so that what they stand for is mended too.
    """
    plain = html.unescape(html.unescape(text)) if "&" in text else text
    if not (plain.isascii() and plain.isprintable()):  # ftfy changes nothing else, and takes 14 us to find that out
        plain = ftfy.fix_text(plain, _FTFY)
    return " ".join(plain.split())
