"""Which URLs are asked at all, and where a redirect leads."""

import re

from yarl import URL


class UrlRefused(ValueError):
    """What is no URL to ask; the message may be shown, so it holds no credentials."""


def checked(url: str) -> URL:
    """Return a URL that may be asked; raise UrlRefused, or ValueError for what is none.

    Credentials are nobody's leave to use them, whoever published them; no browser loads an image with any.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UrlRefused("expected http or https")
    target = URL(url)
    if target.raw_user is not None or target.raw_password is not None:
        raise UrlRefused("expected a URL without credentials")
    if not target.raw_host or not target.port:
        raise UrlRefused("expected a host and a port from 1 to 65535")
    return target


def led(url: URL, location: str) -> URL:
    """Return where a redirect leads; raise UrlRefused with the header as it came, but for credentials.

    Bytes that are no UTF-8 are percent-encoded, as browsers do.
    """
    quoted = re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", location)
    try:
        return checked(str(url.join(URL(quoted))))
    except ValueError:
        shown = re.sub(r"^([^/]*//)?.*@", r"\1[...]@", location, flags=re.DOTALL)
        raise UrlRefused(f"Location: {shown}") from None
