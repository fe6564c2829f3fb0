"""Stand-ins for what surrounds the lifecycle: a database to be cut off, a listener, a name in DNS."""

import asyncio
import socket
import ssl
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from acme_engine import keys
from sds_server.errors import Unavailable
from sds_server.inventory import sealed_keys
from sds_server.inventory.database import Database, Transaction
from sds_server.lookups import Lookups, apart
from sds_server.model import Certificate
from tests.support.issuances import Issuances
from tests.support.pki import Pair


class CuttableDatabase(Database):
    """A real database that can be cut off: at once, or after so many more transactions."""

    def __init__(self, real: Database) -> None:
        self._real = real
        self.left: int | None = None

    def cut(self, *, after: int = 0) -> None:
        self.left = after

    def heal(self) -> None:
        self.left = None

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        if self.left is not None:
            if self.left == 0:
                raise Unavailable("database: cut off")
            self.left -= 1
        return self._real.transaction()


def leading(name: str, *ips: str) -> AbstractContextManager[None]:
    """Have the running loop know one name, and where it leads."""

    def look(host: str, port: int, *_more: object) -> list[Any]:
        if host != name:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port)) for ip in ips]

    return apart(Lookups(look))


class Listener:
    """A TLS listener on loopback whose pairs can be changed; ``names`` are those that SNI asked for."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._directory = directory
        self._at = host, port
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._server: asyncio.Server | None = None
        self._written = 0
        self.names: list[str | None] = []

    def serve(self, pair: Pair, name: str | None = None, *, client_ca: Path | None = None) -> None:
        """Serve the pair to who asks for the name; None: to who asks for any other."""
        self._written += 1
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair.write(self._directory, f"listener-{id(self)}-{self._written}"))
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self._contexts[name] = context

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._choose
        self._server = await asyncio.start_server(_hang_up, *self._at, ssl=context)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"{self._at[0]}:{self._server.sockets[0].getsockname()[1]}"

    def _choose(self, connection: Any, name: str | None, _context: ssl.SSLContext) -> int | None:
        self.names.append(name)
        chosen = self._contexts.get(name) or self._contexts.get(None)
        if chosen is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = chosen
        return None


async def pair_of(issuances: Issuances, certificate: Certificate) -> Pair:
    """Open what was stored, as a proxy holds it that was sent it."""
    sealed = await sealed_keys.get(issuances.database, certificate.key_id)
    key = keys.load_pkcs8(await issuances.sealer.open(sealed))
    return Pair(
        chain_pem=certificate.chain_pem,
        key_pem=keys.pem(key),
        certificate=x509.load_pem_x509_certificate(certificate.chain_pem),
        key=key,
    )


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
