"""A site that speaks whatever bytes it is told to, each host in its own way, plain and behind certificates."""

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Says = bytes | list[bytes] | Callable[[asyncio.StreamWriter], Awaitable[None]]
"""A reply, one reply for each request (the last one for all that follow), or what writes one."""


NONE_HERE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def reply(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP reply whose length is said unless a header says it."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for a host that signs itself, and its key; return their paths."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


class RawSite:
    """The site, on 127.0.0.1 and, at the same port, 127.0.0.2; a context manager.

    `says` and `robots` map the first label of a host to its replies; `asked` counts requests by label and path.
    `tls` maps names to (certificate, key); `ports` are where these are served, "" being the plain one.
    """

    def __init__(self, tls: dict[str, tuple[Path, Path]]) -> None:
        self.says: dict[str, Says] = {}
        self.robots: dict[str, Says] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.heads: list[bytes] = []
        self.ports: dict[str, int] = {}
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "RawSite":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._loop.set_exception_handler(lambda loop, context: None)  # broken handshakes are what it is for
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.ports[""] = server.sockets[0].getsockname()[1]
        await asyncio.start_server(self._serve, "127.0.0.2", self.ports[""])
        for name, paths in self._tls.items():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*paths)
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            self.ports[name] = server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(1)
            if head == b"\x16":  # a handshake, where nobody speaks TLS
                writer.write(reply(b"", "400 Bad Request"))
                return
            head += await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            path = head.split()[1].decode()
            label = head.lower().partition(b"host: ")[2].split(b".")[0].decode()
            self.asked[label, path] += 1
            says = self.robots.get(label, NONE_HERE) if path == "/robots.txt" else self.says.get(label, NONE_HERE)
            if isinstance(says, list):
                says = says[min(self.asked[label, path], len(says)) - 1]
            if isinstance(says, bytes):
                writer.write(says)
                await writer.drain()
            else:
                await says(writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()
