"""Fetching over HTTP what a certificate names: bounded in every way, and only where we may go.

The URL is in the certificate, so that whoever made that chose it: the control plane must not be made to talk
to what only it can reach. Each address is judged as those of agents are, and that very one is connected to.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sds_server.targets.address import Network, refusal

ANYWHERE: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
"""Where what a configured CA's certificates name may be: a private CA's has a private address."""

REDIRECTS_MAX: Final = 3

OK: Final = 200
NOT_MODIFIED: Final = 304
_REDIRECTS = {301, 302, 303, 307, 308}


class Unanswered(Exception):
    """There is no answer; the message says why, in words for an operator."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came; ``body`` is empty where nothing has changed."""

    status: int
    body: bytes
    etag: str | None


def session(allowed: Sequence[Network], *, accept: str) -> aiohttp.ClientSession:
    """Return what asks one server; ``allowed`` are ranges of special addresses at which there may be some."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=_Judged(allowed), socket_factory=_Sockets(allowed), force_close=True
        ),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept": accept, "Accept-Encoding": "identity"},
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    allowed: Sequence[Network],
    most: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return what is answered with HTTP 200 or 304, after some redirects, of at most ``most`` bytes.

    Raises:
        Unanswered: it is something else, or longer. What aiohttp raises is the caller's to translate.
    """
    for _ in range(REDIRECTS_MAX + 1):
        _check(url, allowed)
        asked = session.request(method, url, data=body, headers=headers, allow_redirects=False)
        async with asked as answer:
            if answer.status in _REDIRECTS:
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status == NOT_MODIFIED:
                return Answer(answer.status, b"", answer.headers.get("ETag"))
            if answer.status != OK:
                raise Unanswered(f"{url} answered with HTTP {answer.status}")
            read = bytearray()
            async for part in answer.content.iter_any():
                read += part
                if len(read) > most:
                    raise Unanswered(f"{url} answered with more than {most} bytes")
            return Answer(answer.status, bytes(read), answer.headers.get("ETag"))
    raise Unanswered(f"{url}: more than {REDIRECTS_MAX} redirects")


def _check(url: str, allowed: Sequence[Network]) -> None:
    """Refuse what a redirect may name, and an address that no resolver will be asked for."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Unanswered("it redirects out of the web")
    try:
        address = ip_address(parts.hostname)
    except ValueError:
        return
    if (why := refusal(address, allowed)) is not None:
        raise Unanswered(why)


class _Judged(AbstractResolver):
    """Resolves by the system, and gives no address that may not be connected to."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        for one in found:
            if (why := refusal(ip_address(_address(one)), self._allowed)) is not None:
                raise OSError(None, f"{host}: {why}")
        return found

    async def close(self) -> None:
        await self._system.close()


class _Sockets:
    """Makes a socket for the very address that is connected to, unless it may not be.

    The last word: what the client takes for an address it resolves by nobody, and it reads more as one than
    we do, such as ``①②⑦.0.0.1`` of a redirect.
    """

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    def __call__(self, to: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = to
        host = str(address[0]).partition("%")[0]
        try:
            why = refusal(ip_address(host), self._allowed)
        except ValueError:
            why = f"{host} is no address"
        if why is not None:
            raise OSError(None, why)
        return socket.socket(family, kind, protocol)


def _address(found: Any) -> str:
    return str(found["host"]).partition("%")[0]
