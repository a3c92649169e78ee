"""URLs: which are asked at all, where a redirect leads, their host, and the keys by which a takedown knows them."""

import re

import pyarrow as pa
import pyarrow.compute as pc
from yarl import URL

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:///*(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")


_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


_LOWER = str.maketrans(_UPPER, _UPPER.lower())  # of other letters, Python and each Java know different cases


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, "" where there is none. `host_sql` is the same in Spark SQL.

    The dot that may end a name is left out, as it is the same host with it.
    """
    found = _AUTHORITY.match(url)
    return found[1].translate(_LOWER).rstrip(".") if found else ""


def host_sql(url: str) -> str:
    """Return the Spark SQL expression of `host_of` over a column expression."""
    pattern = "^" + _AUTHORITY.pattern.replace("\\", "\\\\")
    return f"trim(TRAILING '.' FROM translate(regexp_extract({url}, '{pattern}', 1), '{_UPPER}', '{_UPPER.lower()}'))"


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


_PLAIN = r"^https?://[a-z0-9.-]*[a-z0-9]/[^#]*$"
"""URLs that are their own key; nearly all are, and are not taken apart."""


_IS_PLAIN = re.compile(_PLAIN)


_PARTS = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)((?:\?[^#]*)?)(?:#.*)?", re.DOTALL)


_PORT = re.compile(r":(\d*)$")


_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_key(host: str) -> str:
    """Return the one way to write a host: lower case, no dot at its end, in the letters of DNS where it has others."""
    host = host.lower().rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def url_key(url: str) -> str:
    """Return the one way to write a URL: RFC 3986's case normalization of scheme and host, no default port, no
    fragment, "/" for an empty path; "" for no URL. What is no absolute URL is returned as it is.
    """
    if _IS_PLAIN.match(url):
        return url
    found = _PARTS.fullmatch(url)
    if not found:
        return url
    scheme, authority, path, query = found[1].lower(), found[2].rpartition("@")[2], found[3], found[4]
    port = _PORT.search(authority)
    shown = f":{port[1]}" if port and port[1] not in ("", _DEFAULT_PORTS.get(scheme)) else ""
    host = host_key(authority[: port.start()] if port else authority)
    return f"{scheme}://{host}{shown}{path or '/'}{query}"


def odd_urls(urls: pa.Array) -> pa.Array:
    """Return which of the URLs are not their own key, as booleans; an empty one is not among them."""
    return pc.and_(pc.invert(pc.match_substring_regex(urls, _PLAIN)), pc.not_equal(urls, ""))


def domains_of(host: str) -> list[str]:
    """Return a host's key and the domains it is in: a.b.c, b.c, c."""
    parts = host_key(host).split(".")
    return [".".join(parts[start:]) for start in range(len(parts))] if host else []
