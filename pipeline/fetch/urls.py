"""URLs: which may be fetched, redirect targets, hosts, and the canonical keys by which a takedown finds them."""

import re

import pyarrow as pa
import pyarrow.compute as pc
from yarl import URL

_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:///*(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")


_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


_LOWER = str.maketrans(_UPPER, _UPPER.lower())  # Python and Java versions differ in other letters


def host_of(url: str) -> str:
    """Return the host of a URL in lower case, "" where there is none. `host_sql` is the same in Spark SQL.

    A dot at the end of the name is removed, as it does not change the host.
    """
    match = _AUTHORITY.match(url)
    return match[1].translate(_LOWER).rstrip(".") if match else ""


def host_sql(url: str) -> str:
    """Return the Spark SQL expression of `host_of` over a column expression."""
    pattern = "^" + _AUTHORITY.pattern.replace("\\", "\\\\")
    return f"trim(TRAILING '.' FROM translate(regexp_extract({url}, '{pattern}', 1), '{_UPPER}', '{_UPPER.lower()}'))"


class UrlRefused(ValueError):
    """A URL that must not be fetched. The message may be shown, so it holds no credentials."""


def check_url(url: str) -> URL:
    """Return `url` parsed, if it may be fetched; raise UrlRefused, or ValueError for what is not a URL.

    Published credentials give no permission to use them, and no browser loads an image with any.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UrlRefused("expected http or https")
    target = URL(url)
    if target.raw_user is not None or target.raw_password is not None:
        raise UrlRefused("expected a URL without credentials")
    if not target.raw_host or not target.port:
        raise UrlRefused("expected a host and a port from 1 to 65535")
    return target


def redirect_target(url: URL, location: str) -> URL:
    """Return the target of a redirect; raise UrlRefused with the header verbatim, credentials removed.

    Bytes that are not UTF-8 are percent-encoded, as browsers do.
    """
    quoted = re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", location)
    try:
        return check_url(str(url.join(URL(quoted))))
    except ValueError:
        shown = re.sub(r"^([^/]*//)?.*@", r"\1[...]@", location, flags=re.DOTALL)
        raise UrlRefused(f"Location: {shown}") from None


_PLAIN = r"^https?://[a-z0-9.-]*[a-z0-9]/[^#]*$"
"""URLs that are their own key, as nearly all are; these are not parsed."""


_IS_PLAIN = re.compile(_PLAIN)


_PARTS = re.compile(r"([^:/?#]+)://([^/?#]*)([^?#]*)((?:\?[^#]*)?)(?:#.*)?", re.DOTALL)


_PORT = re.compile(r":(\d*)$")


_DEFAULT_PORTS = {"http": "80", "https": "443"}


def host_key(host: str) -> str:
    """Return the canonical form of a host: lower case, no dot at the end, non-ASCII names in IDNA encoding."""
    host = host.lower().rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def url_key(url: str) -> str:
    """Return the canonical form of a URL: RFC 3986's case normalization of scheme and host, no default port, no
    fragment, "/" for an empty path; "" for an empty URL. What is not an absolute URL is returned unchanged.
    """
    if _IS_PLAIN.match(url):
        return url
    match = _PARTS.fullmatch(url)
    if not match:
        return url
    scheme, authority, path, query = match[1].lower(), match[2].rpartition("@")[2], match[3], match[4]
    port_match = _PORT.search(authority)
    port_suffix = f":{port_match[1]}" if port_match and port_match[1] not in ("", _DEFAULT_PORTS.get(scheme)) else ""
    host = host_key(authority[: port_match.start()] if port_match else authority)
    return f"{scheme}://{host}{port_suffix}{path or '/'}{query}"


def noncanonical_urls(urls: pa.Array) -> pa.Array:
    """Return a boolean for each URL: whether it differs from its own key; False for an empty one."""
    return pc.and_(pc.invert(pc.match_substring_regex(urls, _PLAIN)), pc.not_equal(urls, ""))


def parent_domains(host: str) -> list[str]:
    """Return a host's key and its parent domains: a.b.c, b.c, c."""
    parts = host_key(host).split(".")
    return [".".join(parts[start:]) for start in range(len(parts))] if host else []
