"""How the names of a Rotation are proved: tokens that any replica answers with, values in an issuer's DNS."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from acme_engine.dns.provider import DnsProvider
from acme_engine.messages import Challenge, Identifier
from acme_engine.solver import Http01Solver, Solver, Solvers, TokenStore
from acme_engine.tls_alpn01 import TlsAlpn01Solver
from acme_engine.webroot import Webroot
from sds_server.clock import Clock
from sds_server.config.dns import preferred
from sds_server.crashpoint import crashpoint
from sds_server.inventory.challenge_values import RotationValues
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import RotationTokens
from sds_server.model import RotationId

if TYPE_CHECKING:
    from acme_engine.dns.zones import Zones
    from acme_engine.dns01 import Propagation


class WatchedProvider:
    """A provider with the points at which a test lets the process die."""

    def __init__(self, provider: DnsProvider) -> None:
        self._provider = provider
        self.hashes = provider.hashes

    async def add(self, name: str, value: str) -> None:
        """Add a value."""
        await self._provider.add(name, value)
        crashpoint("value.added")

    async def remove(self, name: str, value: str) -> None:
        """Remove a value."""
        crashpoint("value.removing")
        await self._provider.remove(name, value)

    async def close(self) -> None:
        """Give connections back."""
        await self._provider.close()


Wait = Callable[[], AbstractAsyncContextManager[None]]
"""Is entered for as long as a name waits for DNS."""


class Awaited:
    """A Solver, and somebody who is told while it waits."""

    def __init__(self, solver: Solver, wait: Wait) -> None:
        self._solver = solver
        self._wait = wait
        self.challenge_type = solver.challenge_type

    @property
    def patience_s(self) -> float:
        """The longest that `ready` may take."""
        return self._solver.patience_s

    async def present(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Put the answer where the CA will look."""
        await self._solver.present(identifier, challenge, key_authorization)

    async def ready(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Return once the CA can see the answer."""
        async with self._wait():
            await self._solver.ready(identifier, challenge, key_authorization)

    async def cleanup(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Take the answer away."""
        await self._solver.cleanup(identifier, challenge, key_authorization)


@dataclass(frozen=True, slots=True)
class Dns:
    """An issuer's way into DNS."""

    provider: DnsProvider
    zones: "Zones"
    propagation: "Propagation"


class Beside:
    """A TokenStore, and the web server that answers from files as well."""

    def __init__(self, tokens: TokenStore, webroot: Webroot) -> None:
        self._tokens = tokens
        self._webroot = webroot

    async def get(self, token: str) -> str | None:
        """Return the answer to a token."""
        return await self._tokens.get(token)

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:
        """Keep the answer, then write the file."""
        await self._tokens.put(token, key_authorization, ttl_s=ttl_s)
        await self._webroot.put(token, key_authorization, ttl_s=ttl_s)

    async def delete(self, token: str) -> None:
        """Remove the file, then forget the answer: a crash between forgets nothing that is to be removed."""
        await self._webroot.delete(token)
        await self._tokens.delete(token)


@dataclass(frozen=True, slots=True)
class Challenges:
    """How an issuer's names are proved; ``dns`` None: not by DNS-01; ``tls_alpn``: by TLS-ALPN-01 too.

    ``webroot``: where HTTP-01's answers are written as well.
    """

    dns: Dns | None = None
    tls_alpn: bool = False
    webroot: Webroot | None = None
    default: str = "http-01"
    choices: Mapping[str, str] = field(default_factory=dict)
    """A name or ``*.suffix``, and the challenge type that is preferred for it."""

    async def close(self) -> None:
        """Give the provider's connections back."""
        if self.dns is not None:
            await self.dns.provider.close()

    def solvers(
        self,
        database: Database,
        rotation: RotationId,
        issuer: str,
        clock: Clock,
        *,
        wait: Wait = nullcontext,
    ) -> Solvers:
        """Return the Solvers of one Rotation; ``wait`` is entered while one of its names waits for DNS."""
        tokens = RotationTokens(database, rotation)
        by_http: TokenStore = tokens if self.webroot is None else Beside(tokens, self.webroot)
        solvers: list[Solver] = [Http01Solver(by_http)]
        if self.tls_alpn:
            solvers.append(TlsAlpn01Solver(tokens))
        chosen = {self.default, *self.choices.values()}
        if "dns-persist-01" in chosen:
            from acme_engine.dns.zones import Zones  # noqa: PLC0415 - imported when chosen
            from acme_engine.dns_persist01 import DnsPersist01Solver  # noqa: PLC0415

            zones = Zones() if self.dns is None else self.dns.zones
            solvers.append(DnsPersist01Solver(zones=zones, clock=clock.now))
        if self.dns is not None:
            from acme_engine.dns01 import Dns01Solver  # noqa: PLC0415 - imported when chosen
            from acme_engine.dns_account01 import DnsAccount01Solver  # noqa: PLC0415

            by_dns = [Dns01Solver, DnsAccount01Solver] if "dns-account-01" in chosen else [Dns01Solver]
            for solver in by_dns:
                made = solver(
                    WatchedProvider(self.dns.provider),
                    RotationValues(database, rotation, issuer, sleep=clock.sleep),
                    zones=self.dns.zones,
                    propagation=self.dns.propagation,
                    sleep=clock.sleep,
                    monotonic=clock.monotonic,
                )
                solvers.append(Awaited(made, wait))
        return Solvers(solvers, prefer=lambda name: preferred(name, self.choices, otherwise=self.default))
