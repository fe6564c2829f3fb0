"""Asking an OCSP responder over HTTP (RFC 6960 appendix A), bounded in every way: see `targets.guarded`."""

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import aiohttp

from sds_server.staples.response import RESPONSE_MAX
from sds_server.targets.address import Network
from sds_server.targets.guarded import OK, Unanswered, exchange, session

DEADLINE_S: Final = 10.0
"""Of everything together: a responder that takes longer is asked again later."""

GET_MAX: Final = 255
"""A request whose GET has more bytes is POSTed (RFC 5019 section 5); one by SHA-1 has about 120."""


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
            session(allowed, accept="application/ocsp-response") as asking,
        ):
            got = f"{url.rstrip('/')}/{quote(b64encode(request), safe='')}"
            if len(got) <= GET_MAX:
                # Some responders know POST alone, and refuse, or say nothing.
                with suppress(Unanswered, TimeoutError):
                    async with asyncio.timeout(DEADLINE_S / 2):
                        return await _exchange(asking, "GET", got, None, allowed)
            return await _exchange(asking, "POST", url, request, allowed)
    except TimeoutError:
        raise Unanswered(f"{url} did not answer within {DEADLINE_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as e:
        raise Unanswered(f"{url}: {e}") from None


async def _exchange(
    asking: aiohttp.ClientSession, method: str, url: str, body: bytes | None, allowed: Sequence[Network]
) -> bytes:
    headers = None if body is None else {"Content-Type": "application/ocsp-request"}
    answer = await exchange(
        asking, method, url, allowed=allowed, most=RESPONSE_MAX, body=body, headers=headers
    )
    if answer.status != OK:
        raise Unanswered(f"{url} answered with HTTP {answer.status}")
    return answer.body
