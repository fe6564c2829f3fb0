"""Asks for an HTTP-01 challenge's answer as a CA does (RFC 8555 section 8.3), to find out before it does."""

from typing import Final

import aiohttp
from yarl import URL

TIMEOUT_S: Final = 10.0
REDIRECTS_MAX: Final = 10  # as Let's Encrypt's validator
MAX_BODY: Final = 4096


async def answers(domain: str, token: str, key_authorization: str, *, address: str | None = None) -> bool:
    """Say whether ``domain`` answers the token with this key authorization.

    Redirects are followed, to HTTPS with any certificate too: a validator proves the name and needs none.
    ``address`` is the ``host:port`` to ask instead of port 80 of the name.
    """
    url = URL(f"http://{address or domain}/.well-known/acme-challenge/{token}")
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, headers={"Host": domain}, max_redirects=REDIRECTS_MAX, ssl=False) as response,
        ):
            body = await response.content.read(MAX_BODY)
            # "MUST ignore whitespace characters at the end of the body"
            return response.ok and body.decode("ascii", "replace").rstrip() == key_authorization
    except (TimeoutError, aiohttp.ClientError, ValueError):
        return False
