"""DNS-01 (RFC 8555 section 8.4): a TXT value beside the name, seen by its servers before the CA looks."""

import asyncio
import hashlib
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from acme_engine.dns.propagation import served
from acme_engine.dns.provider import CALL_TIMEOUT_S, PREFIX, DnsProvider
from acme_engine.dns.zones import Place, Zones
from acme_engine.errors import DnsProviderError, NotServed
from acme_engine.messages import Challenge, Identifier

LABEL: Final = PREFIX.removesuffix(".")

LIMIT_S: Final = 600.0
"""How long a value may take to be everywhere."""


class Mode(StrEnum):
    """What is waited for before the CA is told to look."""

    AUTHORITATIVE = "authoritative"
    """Every server of the zone has the value."""
    RECURSIVE = "recursive"
    """The same, and then our resolvers: where the CA asks those."""
    WAIT = "wait"
    """A fixed time; nobody is asked."""
    OFF = "off"
    """Nothing: the provider's word is enough."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """How it is found out that a value is served.

    ``wait_s`` is waited besides what ``mode`` asks for: for servers that stand behind one address.
    ``follow_aliases`` False: no CNAME is looked for, so in the modes `WAIT` and `OFF` nobody is asked at all.
    """

    mode: Mode = Mode.AUTHORITATIVE
    wait_s: float = 0.0
    limit_s: float = LIMIT_S
    follow_aliases: bool = True


class ValueLedger(Protocol):
    """Where it is written what we have, or may have, in DNS: so that a crash leaves nothing for ever."""

    async def put(self, name: str, value: str) -> None:
        """Note it; it has committed when this returns. Again is not an error."""
        ...

    async def delete(self, name: str, value: str) -> None:
        """Forget it: it is gone from DNS."""
        ...


def record_name(domain: str) -> str:
    """Return the name whose TXT record proves a domain; a wildcard's is its parent's."""
    return f"{LABEL}.{domain.removeprefix('*.')}"


def record_value(key_authorization: str) -> str:
    """Return "the base64url encoding of the SHA-256 digest of the key authorization", without padding."""
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class Dns01Solver:
    """DNS-01 over a provider; a ledger remembers what a crash would forget."""

    challenge_type = "dns-01"

    def __init__(
        self,
        provider: DnsProvider,
        ledger: ValueLedger,
        *,
        zones: Zones,
        propagation: Propagation | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``sleep`` and ``monotonic`` (seconds) are for tests that turn the clock."""
        self._provider = provider
        self._ledger = ledger
        self._zones = zones
        self._propagation = propagation or Propagation()
        self._sleep = sleep
        self._monotonic = monotonic
        self._places: dict[tuple[str, str], Place] = {}

    @property
    def patience_s(self) -> float:
        """The longest that `ready` takes."""
        own = self._propagation
        asks = own.mode in {Mode.AUTHORITATIVE, Mode.RECURSIVE}
        return own.wait_s + (own.limit_s if asks else 0.0)

    def name_of(self, identifier: Identifier, _challenge: Challenge) -> str:
        """Return the name at which the CA looks for the value."""
        return record_name(identifier.value)

    async def present(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Write the value down, then have the provider add it where the aliases lead.

        Raises:
            ZoneNotFound: nobody says where the name's record is.
            DnsProviderError: the provider did not add it.
        """
        name, value = self.name_of(identifier, challenge), record_value(key_authorization)
        if self._propagation.follow_aliases:
            place = await self._zones.place(name)
        else:
            place = Place(name, "", ())
        given = self._given(key_authorization)
        await self._ledger.put(place.owner, given)
        self._places[name, value] = place
        await _bounded(self._provider.add(place.owner, given), f"{place.owner}: no value could be added")

    async def ready(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Return once the value is served, as the mode says.

        Raises:
            ZoneNotFound: nobody says who serves the zone.
            NotServed: it was not everywhere within the limit; says where it is not.
        """
        name, value = self.name_of(identifier, challenge), record_value(key_authorization)
        own, ends = self._propagation, self._monotonic() + self._propagation.limit_s
        if own.mode in {Mode.AUTHORITATIVE, Mode.RECURSIVE}:
            place = self._places[name, value]
            if not place.servers:
                place = await self._zones.place(place.owner)
            verdict = await served(
                place.owner,
                value,
                place.servers,
                limit_s=own.limit_s,
                sleep=self._sleep,
                monotonic=self._monotonic,
            )
            if verdict.served and own.mode is Mode.RECURSIVE:
                # Only now: what a resolver is asked too early it denies for as long as the zone's SOA says.
                verdict = await served(
                    name,
                    value,
                    await self._zones.resolvers(),
                    limit_s=max(0.0, ends - self._monotonic()),
                    sleep=self._sleep,
                    monotonic=self._monotonic,
                    recurse=True,
                )
            if not verdict.served:
                raise NotServed(f"{place.owner}: {verdict.reason}")
        if own.wait_s:
            await self._sleep(own.wait_s)

    async def cleanup(self, identifier: Identifier, challenge: Challenge, key_authorization: str) -> None:
        """Have the provider remove this value alone, then forget it.

        Raises:
            DnsProviderError: it did not; the ledger still has it.
        """
        name, value = self.name_of(identifier, challenge), record_value(key_authorization)
        place = self._places.get((name, value))
        if place is None:
            return  # `present` did not come as far as the ledger
        await withdraw(self._provider, self._ledger, place.owner, self._given(key_authorization))
        del self._places[name, value]

    def _given(self, key_authorization: str) -> str:
        """Return what the provider is told, and the ledger with it: after a crash it is told the same."""
        return key_authorization if self._provider.hashes else record_value(key_authorization)


async def withdraw(provider: DnsProvider, ledger: ValueLedger, name: str, value: str) -> None:
    """Take a value out of DNS, then out of the ledger.

    Raises:
        DnsProviderError: the provider did not remove it; the ledger still has it.
    """
    await _bounded(provider.remove(name, value), f"{name}: a value could not be removed")
    await ledger.delete(name, value)


async def _bounded(call: Awaitable[None], what: str) -> None:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S) as limit:
            await call
    except TimeoutError as e:
        if not limit.expired():
            raise
        raise DnsProviderError(f"{what}: no answer in {CALL_TIMEOUT_S:g} s", retryable=True) from e
