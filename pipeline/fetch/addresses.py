"""The addresses that connections may be opened to: globally routable ones, and those that the user has allowed."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

from pipeline.config.networks import allowed_network


class AddressRefused(OSError):
    """A host resolves to an address that is not globally routable and not allowed."""


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that IANA has assigned; the rest is reserved, whatever `is_global` says (::ffff:0:127.0.0.1)."""


_NOT_ROUTABLE = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF protocol assignments (RFC 6890); Oracle Cloud answers at 192.0.0.192
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, deprecated (RFC 7526)
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's host, as its virtual machines see it
)
"""Refused although Python, or some versions of it, treats them as globally routable."""


def is_globally_routable(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is globally routable; so must be an IPv4 address that it wraps (6to4, NAT64)."""
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_globally_routable(wrapped)
        if ip not in _UNICAST:
            return False
    elif any(ip in network for network in _NOT_ROUTABLE):
        return False
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True)
class AddressRules:
    """Where connections may go.

    `hosts` maps host patterns (``*.yfcc.test``) to "address:port", as curl's --connect-to does; the address of such a
    mapping is allowed. `allow` lists further networks, with or without a port, for intranets. Every other address that
    is not globally routable is refused.
    """

    hosts: Mapping[str, str] = field(default_factory=dict)
    allow: Sequence[str] = ()

    def mapped(self, host: str) -> tuple[str, int] | None:
        """Return (address, port) that `host` is mapped to, or None."""
        target = self.hosts.get(host)
        if target is None:
            target = next((destination for pattern, destination in self.hosts.items() if fnmatch(host, pattern)), None)
        if target is None:
            return None
        address, _, port = target.rpartition(":")
        return address.strip("[]"), int(port)

    def allows(self, address: str, port: int) -> bool:
        """Tell whether a connection to an address may be opened."""
        if f"{address}:{port}" in self.hosts.values():
            return True
        ip = ipaddress.ip_address(address.partition("%")[0])
        if is_globally_routable(ip):
            return True
        return any(
            ip.version == network.version and ip in network and allowed_port in (None, port)
            for network, allowed_port in map(allowed_network, self.allow)
        )
