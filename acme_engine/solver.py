"""What makes a Challenge answerable, and the one Solver for HTTP-01."""

from typing import Protocol

from acme_engine.errors import BadReply
from acme_engine.messages import Challenge, Identifier

TOKEN_TTL_S = 3600
"""For how long a token may outlive us: its order is resumed well before."""


class Solver(Protocol):
    """Answers challenges of one type. All three are called once a name, several names at once.

    Each is idempotent: an order that is resumed after a crash presents the same challenge again. Cancelling
    one leaves nothing that `cleanup` does not remove.
    """

    @property
    def challenge_type(self) -> str:
        """The type in RFC 8555 section 8, such as ``http-01``."""
        ...

    async def present(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Put the answer where the CA will look. It may be seen there only later: see `ready`."""
        ...

    async def ready(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Return once the CA can see the answer. Called after every name of the order was presented."""
        ...

    async def cleanup(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Take the answer away. Called whatever happened, also for what `present` did not finish."""
        ...


class TokenReader(Protocol):
    """Where a responder looks tokens up. Quick: a CA waits for the answer."""

    async def get(self, token: str) -> str | None:
        """Return the key authorization, None for a token that is unknown or past its time."""
        ...


class TokenStore(TokenReader, Protocol):
    """Where tokens are kept; shared by all replicas, since the CA may ask any of them."""

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:
        """Keep it for ``ttl_s``; once this returns, every reader finds it. Again is not an error."""
        ...

    async def delete(self, token: str) -> None:
        """Forget it; forgetting what is not there is not an error."""
        ...


class Http01Solver:
    """HTTP-01 (section 8.3): a token in a store that the responders read."""

    challenge_type = "http-01"

    def __init__(self, store: TokenStore) -> None:
        self._store = store

    async def present(self, _identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Let the responders know the token."""
        await self._store.put(_token(challenge), key_authorization, ttl_s=TOKEN_TTL_S)

    async def ready(self, _identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Return at once: what is put is found.

        No look through the public name: from inside a network that often fails where the CA succeeds.
        """

    async def cleanup(self, _identifier: Identifier, challenge: Challenge, _key_authorization: str) -> None:
        """Let the responders forget the token."""
        await self._store.delete(_token(challenge))


def _token(challenge: Challenge) -> str:
    if challenge.token is None:
        raise BadReply(f"the {challenge.type} challenge has no usable token")
    return challenge.token
