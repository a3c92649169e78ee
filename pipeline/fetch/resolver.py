"""Name resolution and sockets that refuse internal addresses.

A name is resolved once, every address that it resolves to is checked, and the connection goes to the address that was
checked, so a name that resolves differently the second time (DNS rebinding) has no effect.
"""

import re
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.fetch.addresses import AddressRefused, AddressRules

_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")


class Resolver(AbstractResolver):
    """Resolves by the rules' mapping first; a name is refused if any of its addresses is internal.

    `system` queries the network's name servers; by default it is aiohttp's threaded resolver.
    """

    def __init__(self, rules: AddressRules, system: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._system = system or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses to connect to; raise ValueError for what cannot be a host name (RFC 1035, 2.3.4).

        Raises AddressRefused for an internal address, and OSError where there is no address.
        """
        if len(host.removesuffix(".")) > 253 or not _NAME.fullmatch(host):
            raise ValueError(f"{host[:80]} is no host name")
        target = self._rules.mapped(host)
        if target is None:
            results = await self._system.resolve(host, port, family)
            for result in results:
                if not self._rules.allows(result["host"], result["port"]):
                    raise AddressRefused(f"{host} is {result['host']}, which is not globally routable")
            if not results:  # the connector assumes that there is one
                raise socket.gaierror(socket.EAI_NODATA, "no address associated with hostname")
            return results
        address, mapped_port = target
        return [ResolveResult(hostname=host, host=address, port=mapped_port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Close the system's resolver."""
        await self._system.close()


def guarded_socket(rules: AddressRules) -> Callable[[Any], socket.socket]:
    """Return a socket factory that refuses an internal address before a packet is sent."""

    def create(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        if not rules.allows(address[0], address[1]):
            raise AddressRefused(f"{address[0]}:{address[1]} is not globally routable")
        return socket.socket(family=family, type=kind, proto=proto)

    return create
