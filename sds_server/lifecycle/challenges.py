"""How the names of a Rotation are proved: tokens that any replica answers with, values in an issuer's DNS."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from acme_engine.dns.provider import DnsProvider
from acme_engine.solver import Http01Solver, Solver, Solvers
from acme_engine.tls_alpn01 import TlsAlpn01Solver
from sds_server.clock import Clock
from sds_server.config_dns import preferred
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


@dataclass(frozen=True, slots=True)
class Dns:
    """An issuer's way into DNS."""

    provider: DnsProvider
    zones: "Zones"
    propagation: "Propagation"


@dataclass(frozen=True, slots=True)
class Challenges:
    """How an issuer's names are proved; ``dns`` None: not by DNS-01; ``tls_alpn``: by TLS-ALPN-01 too."""

    dns: Dns | None = None
    tls_alpn: bool = False
    default: str = "http-01"
    choices: Mapping[str, str] = field(default_factory=dict)
    """A name or ``*.suffix``, and the challenge type that is preferred for it."""

    async def close(self) -> None:
        """Give the provider's connections back."""
        if self.dns is not None:
            await self.dns.provider.close()

    def solvers(self, database: Database, rotation: RotationId, issuer: str, clock: Clock) -> Solvers:
        """Return the Solvers of one Rotation."""
        tokens = RotationTokens(database, rotation)
        solvers: list[Solver] = [Http01Solver(tokens)]
        if self.tls_alpn:
            solvers.append(TlsAlpn01Solver(tokens))
        if self.dns is not None:
            from acme_engine.dns01 import Dns01Solver  # noqa: PLC0415 - imported when chosen

            solvers.append(
                Dns01Solver(
                    WatchedProvider(self.dns.provider),
                    RotationValues(database, rotation, issuer, sleep=clock.sleep),
                    zones=self.dns.zones,
                    propagation=self.dns.propagation,
                    sleep=clock.sleep,
                    monotonic=clock.monotonic,
                )
            )
        return Solvers(solvers, prefer=lambda name: preferred(name, self.choices, otherwise=self.default))
