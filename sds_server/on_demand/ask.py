"""Asks a URL of the operator's whether a name may have a certificate: 200 is a yes, and all else a no.

The URL is configuration, so that it may lead anywhere; what a handshake said is only its ``domain``. No
redirect is followed, an answer is its status alone, and it has an end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import hdrs

from acme_engine.pace import Pace
from sds_server.on_demand.rules import Result

ASK_S: Final = 2.0
"""A handshake waits for it, and a client for the handshake."""

AT_ONCE: Final = 16
"""Questions that are under way; what is asked beyond waits, within `ASK_S`."""

PER_SECOND: Final = 50
"""Questions of one replica: anybody on the Internet can make up names, and the URL is somebody's database.
With 8 wishes found out at once none waits for its turn longer than a sixth of a second."""

BODY_MAX: Final = 4096
"""Of an answer, which says nothing more: read only so that its connection can be used again."""

YES: Final = 200


class Asker:
    """Asks. Close it in the end."""

    def __init__(self, *, within_s: float = ASK_S, pace: Pace | None = None) -> None:
        """``pace``: how often; by default `PER_SECOND`."""
        self._within_s = within_s
        self._pace = pace or Pace(PER_SECOND)
        self._free = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, url: str, name: str) -> Result | None:
        """Return why not; None: it says yes.

        `Result.REFUSED`: it answered otherwise; `Result.UNANSWERED`: it did not answer in time.
        """
        try:
            async with (
                asyncio.timeout(self._within_s),
                self._free,
                self._turn(),
                self._opened().get(
                    url,
                    params={"domain": name},
                    allow_redirects=False,
                    headers={hdrs.ACCEPT_ENCODING: "identity"},
                ) as answer,
            ):
                await answer.content.read(BODY_MAX)
                if not answer.content.at_eof():
                    answer.close()  # what is left of a long one is not waited for
                return None if answer.status == YES else Result.REFUSED
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return Result.UNANSWERED

    async def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._pace.turn()
        yield

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(limit=AT_ONCE)
            # Neither cookies nor the environment's proxy or credentials: a question is the same each time.
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        return self._session
