"""Tokens and steps in memory: for one process that begins anew when it has died."""

import asyncio


class MemoryTokens:
    """A `TokenStore` of this process alone."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[str, float]] = {}

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:
        """Keep it for ``ttl_s``."""
        self._tokens[token] = key_authorization, asyncio.get_running_loop().time() + ttl_s

    async def get(self, token: str) -> str | None:
        """Return the key authorization, None for a token that is unknown or past its time."""
        key_authorization, ends = self._tokens.get(token, (None, 0.0))
        return key_authorization if ends > asyncio.get_running_loop().time() else None

    async def delete(self, token: str) -> None:
        """Forget it."""
        self._tokens.pop(token, None)


class MemoryJournal:
    """A `Journal` that forgets with its process: who gets `Unfinished` can go on, who dies orders anew."""

    def __init__(self) -> None:
        self.order_url: str | None = None

    async def ordered(self, order_url: str) -> None:
        """Keep the URL, which `obtain` goes on with."""
        self.order_url = order_url

    async def finalizing(self) -> None:
        """Keep nothing: the order itself knows."""

    async def issued(self, certificate_url: str) -> None:
        """Keep nothing: the order itself names it."""
