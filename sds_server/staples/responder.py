"""Asking an OCSP responder over HTTP (RFC 6960 appendix A), bounded in every way.

The URL is in the certificate, so that whoever made that chose it: the control plane must not be made to talk
to what only it can reach. Each address is judged as those of agents are, and that very one is connected to.
"""

import asyncio
import socket
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sds_server.staples.response import RESPONSE_MAX
from sds_server.targets.address import Network, refusal

DEADLINE_S: Final = 10.0
"""Of everything together: a responder that takes longer is asked again later."""

REDIRECTS_MAX: Final = 3
GET_MAX: Final = 255
"""A request whose GET has more bytes is POSTed (RFC 5019 section 5); one by SHA-1 has about 120."""

_REDIRECTS = {301, 302, 303, 307, 308}


class Unanswered(Exception):
    """There is no answer; the message says why, in words for an operator."""


async def ask(url: str, request: bytes, *, allowed: Sequence[Network]) -> bytes:
    """Return what the responder at ``url`` (http or https) answers, unjudged, at most `RESPONSE_MAX` bytes.

    By GET, which caches before responders answer; by POST where that is refused. ``allowed`` are ranges of
    special addresses at which there may be responders.

    Raises:
        Unanswered: no answer within 10 s, or none that could be one.
    """
    try:
        async with (
            asyncio.timeout(DEADLINE_S),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Judged(allowed), socket_factory=_Sockets(allowed), force_close=True
                ),
                trust_env=False,
                auto_decompress=False,
                headers={"Accept": "application/ocsp-response"},
            ) as session,
        ):
            got = f"{url.rstrip('/')}/{quote(b64encode(request), safe='')}"
            if len(got) <= GET_MAX:
                # Some responders know POST alone, and refuse, or say nothing.
                with suppress(Unanswered, TimeoutError):
                    async with asyncio.timeout(DEADLINE_S / 2):
                        return await _exchange(session, "GET", got, None, allowed)
            return await _exchange(session, "POST", url, request, allowed)
    except TimeoutError:
        raise Unanswered(f"{url} did not answer within {DEADLINE_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as e:
        raise Unanswered(f"{url}: {e}") from None


async def _exchange(
    session: aiohttp.ClientSession, method: str, url: str, body: bytes | None, allowed: Sequence[Network]
) -> bytes:
    for _ in range(REDIRECTS_MAX + 1):
        _check(url, allowed)
        headers = {} if body is None else {"Content-Type": "application/ocsp-request"}
        async with session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
            if answer.status in _REDIRECTS:
                url = urljoin(url, answer.headers.get("Location", ""))
                continue
            if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise Unanswered(f"{url} answered with HTTP {answer.status}")
            read = b""
            async for part in answer.content.iter_any():
                read += part
                if len(read) > RESPONSE_MAX:
                    raise Unanswered(f"{url} answered with more than {RESPONSE_MAX} bytes")
            return read
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
