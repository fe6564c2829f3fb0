"""What makes a Challenge answerable, which Solver proves which name, and the one for HTTP-01."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from acme_engine.errors import BadReply, Unsolvable
from acme_engine.messages import Authorization, Challenge, Identifier
from acme_engine.names import is_address

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

    @property
    def patience_s(self) -> float:
        """The longest that `ready` may take."""
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


class Solvers:
    """Which Solver proves which name: the preferred one, if the CA offers its challenge, else another."""

    def __init__(
        self, solvers: Sequence[Solver], *, prefer: Callable[[str], str | None] = lambda _name: None
    ) -> None:
        """``prefer``: a name's challenge type; where it has none, the order of ``solvers`` is that."""
        self._solvers = tuple(solvers)
        self._prefer = prefer

    def of(self, name: str) -> Sequence[Solver]:
        """Return those that can prove the name, the preferred one first."""
        wanted = self._prefer(name)
        able = [solver for solver in self._solvers if provable(name, [solver.challenge_type])]
        return sorted(able, key=lambda solver: solver.challenge_type != wanted)

    def choose(self, authorization: Authorization) -> tuple[Solver, Challenge]:
        """Return the Solver of an authorization, and the challenge that it answers.

        Raises:
            Unsolvable: none of ours is offered.
        """
        able = self.of(authorization.name)
        for solver in able:
            challenge = authorization.challenge(solver.challenge_type)
            if challenge is not None:
                return solver, challenge
        offered = ", ".join(c.type for c in authorization.challenges)
        raise Unsolvable(
            f"{authorization.name}: no {_types(able)} challenge that can be answered; the CA offers"
            f" {offered or 'none'}"
        )

    def check(self, names: Iterable[str]) -> None:
        """Let pass what can be proved.

        Raises:
            Unsolvable: a name that no Solver here can prove, whatever the CA offers.
        """
        for name in names:
            if is_address(name) and not self.of(name):
                raise Unsolvable(
                    f"{name}: an address cannot be proved by {_types(self._solvers)}",
                    hint="use an HTTP-01 or TLS-ALPN-01 solver for it (RFC 8738 section 7)",
                )
            if not self.of(name):
                raise Unsolvable(
                    f"{name}: a wildcard cannot be proved by {_types(self._solvers)}",
                    hint="use a DNS-01 solver for it, or name the hosts one by one",
                )

    def patience_s(self, names: Iterable[str]) -> float:
        """Return the longest that is waited until the answers for these names can be seen."""
        return max((solver.patience_s for name in names for solver in self.of(name)[:1]), default=0.0)


def provable(name: str, types: Iterable[str]) -> bool:
    """Whether challenges of these types can prove a name: a wildcard is proved by DNS alone, an address not.

    So say the Baseline Requirements (3.2.2.4.19: "This method is NOT suitable for validating Wildcard Domain
    Names"), and no public CA offers another.
    """
    if is_address(name):
        return any(not kind.startswith("dns-") for kind in types)  # RFC 8738 section 7
    return any(not name.startswith("*.") or kind.startswith("dns-") for kind in types)


def _types(solvers: Iterable[Solver]) -> str:
    return " or ".join(solver.challenge_type for solver in solvers) or "nothing"


class TokenReader(Protocol):
    """Where a responder looks tokens up. Quick: a CA waits for the answer."""

    async def get(self, token: str) -> str | None:
        """Return the key authorization, None for a token that is unknown or past its time."""
        ...


@runtime_checkable
class BatchReader(Protocol):
    """A `TokenReader` that can be asked for many at once: who guesses costs it no more than one does."""

    async def get_many(self, tokens: Sequence[str]) -> Mapping[str, str]:
        """Return the key authorizations of those that are known, and not past their time."""
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
    patience_s = 0.0

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
