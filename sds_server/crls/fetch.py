"""Fetching a revocation list over HTTP, bounded in every way: see `targets.guarded`."""

import asyncio
from collections.abc import Sequence
from typing import Final

import aiohttp

from sds_server.targets.address import Network
from sds_server.targets.guarded import Answer, Unanswered, exchange, session

DEADLINE_S: Final = 30.0
"""Of everything together."""

BYTES_MAX: Final = 10 * 1024 * 1024
"""About 300,000 entries. Public CAs split theirs long before, into lists of some ten thousand."""


async def fetch(url: str, *, etag: str | None, allowed: Sequence[Network]) -> Answer:
    """Return the list at ``url``, unjudged; with HTTP 304 where it is still the one of ``etag``.

    Raises:
        Unanswered: no answer in time, or none that could be one.
    """
    headers = None if etag is None else {"If-None-Match": etag}
    try:
        async with (
            asyncio.timeout(DEADLINE_S),
            session(allowed, accept="application/pkix-crl, */*") as asking,
        ):
            return await exchange(asking, "GET", url, allowed=allowed, most=BYTES_MAX, headers=headers)
    except TimeoutError:
        raise Unanswered(f"{url} did not answer within {DEADLINE_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as e:
        raise Unanswered(f"{url}: {e}") from None
