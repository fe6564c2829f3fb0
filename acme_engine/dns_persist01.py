"""dns-persist-01 (draft-ietf-acme-dns-persist): a standing record names our account; nothing is written.

`dns_records` says what the record is; whoever runs the zone writes it once. Here it is looked for before the
CA is told to look, at every server of the zone, as a failed validation counts against a limit.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import dns.name

from acme_engine.dns.propagation import SILENT_FOR_S, Look, Seen, Verdict, decide
from acme_engine.dns.servers import Server, Silent, ask, values
from acme_engine.dns.zones import Place, Zones
from acme_engine.dns_records import persist_record_name, persist_record_text, zone_file_line
from acme_engine.errors import BadReply, NotServed
from acme_engine.messages import Challenge, Identifier


class DnsPersist01Solver:
    """Looks for the record that stands; there is nothing to present, and nothing to take away."""

    challenge_type = "dns-persist-01"
    patience_s = 0.0

    def __init__(self, *, zones: Zones, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._zones = zones
        self._clock = clock

    async def present(self, _identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Do nothing: the record is written by whoever runs the zone."""

    async def ready(self, identifier: Identifier, challenge: Challenge, _key_authorization: str) -> None:
        """Return if every server of the zone that answers has a record that permits our account.

        Raises:
            ZoneNotFound: nobody says who serves the zone.
            NotServed: a server does not have it; the message is the line to write.
        """
        if challenge.account is None:
            raise BadReply("the dns-persist-01 challenge is for no account")
        place = await self._zones.place(persist_record_name(identifier.value))
        wildcard = challenge.wildcard
        verdict, _ = await look(
            place, challenge.issuers, challenge.account, wildcard=wildcard, now=self._clock()
        )
        if not verdict.served:
            text = persist_record_text(challenge.issuers[0], challenge.account, wildcard=wildcard)
            raise NotServed(
                f"{place.owner}: {verdict.reason}",
                hint=f"let whoever runs the zone write, once: {zone_file_line(place.owner, text)}",
            )

    async def cleanup(self, _identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Do nothing: the record stands for the next time."""


@dataclass(frozen=True, slots=True)
class Permission:
    """That an account may have certificates; ``until`` None: until the record is taken away."""

    until: datetime | None


async def look(
    place: Place, issuers: Sequence[str], account: str, *, wildcard: bool, now: datetime
) -> tuple[Verdict, Permission | None]:
    """Say whether all servers that answer have a record that permits the account, and until when they do."""
    owner = dns.name.from_text(place.owner)
    permits = partial(permitted, issuers=issuers, account=account, wildcard=wildcard, now=now)
    looks = await asyncio.gather(*(_look(server, owner, permits) for server in place.servers))
    verdict = decide(
        {server: seen for server, (seen, _) in zip(place.servers, looks, strict=True)}, waited_s=SILENT_FOR_S
    )
    found = [permission for _, permission in looks if permission is not None]
    return verdict, min(found, key=_lasts, default=None)


async def _look(
    server: Server, owner: dns.name.Name, permits: Callable[[Iterable[str]], Permission | None]
) -> tuple[Seen, Permission | None]:
    try:
        found = values(await ask(server, owner, "TXT"))
    except Silent as e:
        return Seen(Look.SILENT, str(e)), None
    permission = permits(found)
    if permission is not None:
        return Seen(Look.THERE, "has it"), permission
    others = f", but {len(found)} others" if found else ""
    return Seen(Look.MISSING, f"does not have it{others}"), None


def permitted(
    texts: Iterable[str], issuers: Sequence[str], account: str, *, wildcard: bool, now: datetime
) -> Permission | None:
    """Return what the best of these records permits the account of one of the CA's names. Pure.

    ``wildcard``: for all names one label below, which a record permits by ``policy=wildcard`` alone.
    """
    found = [_permitted(text, issuers, account, wildcard=wildcard, now=now) for text in texts]
    return max((each for each in found if each is not None), key=_lasts, default=None)


def _permitted(
    text: str, issuers: Sequence[str], account: str, *, wildcard: bool, now: datetime
) -> Permission | None:
    issuer, *rest = [part.strip() for part in text.split(";")]
    parameters = {
        key.strip().lower(): value.strip() for key, _, value in (part.partition("=") for part in rest)
    }
    if issuer.lower() not in issuers or parameters.get("accounturi") != account:
        return None
    if wildcard and parameters.get("policy", "").lower() != "wildcard":
        return None
    until = parameters.get("persistuntil")
    if until is None:
        return Permission(None)
    try:
        ends = datetime.fromtimestamp(int(until), UTC) if until.isdecimal() else now
    except (ValueError, OverflowError, OSError):
        return Permission(None)  # beyond the year 9999: longer than anybody lives
    return Permission(ends) if ends > now else None


def _lasts(permission: Permission) -> float:
    return math.inf if permission.until is None else permission.until.timestamp()
