"""The notation of networks in the experiment file."""

import ipaddress

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def allowed_network(text: str) -> tuple[_Network, int | None]:
    """Return (network, port or None for any) of an entry such as "10.1.2.0/24" or "127.0.0.0/8:8080"; raise ValueError.

    An IPv6 network with a port is written "[fd00::/8]:8080".
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    return ipaddress.ip_network(host), int(port) if port else None
