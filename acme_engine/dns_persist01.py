"""dns-persist-01 (draft-ietf-acme-dns-persist): a standing record names our account; nothing is written.

`dns_records` says what the record is; whoever runs the zone writes it once. Here it is looked for before the
CA is told to look, at every server of the zone, as a failed validation counts against a limit.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import dns.name

from acme_engine.dns.propagation import SILENT_FOR_S, Look, Seen, decide
from acme_engine.dns.servers import Server, Silent, ask, values
from acme_engine.dns.zones import Zones
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

        Whether it permits names below as well (``policy=wildcard``) is left to the CA.

        Raises:
            ZoneNotFound: nobody says who serves the zone.
            NotServed: a server does not have it; the message is the line to write.
        """
        if challenge.account is None:
            raise BadReply("the dns-persist-01 challenge is for no account")
        name = persist_record_name(identifier.value)
        place = await self._zones.place(name)
        owner = dns.name.from_text(place.owner)
        looks = await asyncio.gather(*(self._look(server, owner, challenge) for server in place.servers))
        verdict = decide(dict(zip(place.servers, looks, strict=True)), waited_s=SILENT_FOR_S)
        if not verdict.served:
            text = persist_record_text(challenge.issuers[0], challenge.account)
            raise NotServed(
                f"{place.owner}: {verdict.reason}",
                hint=f"let whoever runs the zone write, once: {zone_file_line(place.owner, text)}",
            )

    async def cleanup(self, _identifier: Identifier, _challenge: Challenge, _key_authorization: str) -> None:
        """Do nothing: the record stands for the next time."""

    async def _look(self, server: Server, owner: dns.name.Name, challenge: Challenge) -> Seen:
        try:
            found = values(await ask(server, owner, "TXT"))
        except Silent as e:
            return Seen(Look.SILENT, str(e))
        if permits(found, challenge.issuers, challenge.account, now=self._clock()):
            return Seen(Look.THERE, "has it")
        others = f", but {len(found)} others" if found else ""
        return Seen(Look.MISSING, f"does not have it{others}")


def permits(texts: Iterable[str], issuers: Sequence[str], account: str | None, *, now: datetime) -> bool:
    """Whether one of these records lets the account have certificates of one of the CA's names. Pure."""
    return any(_permits(text, issuers, account, now=now) for text in texts)


def _permits(text: str, issuers: Sequence[str], account: str | None, *, now: datetime) -> bool:
    issuer, *rest = [part.strip() for part in text.split(";")]
    parameters = {
        key.strip().lower(): value.strip() for key, _, value in (part.partition("=") for part in rest)
    }
    until = parameters.get("persistuntil")
    ends = until is not None and (not until.isdecimal() or int(until) <= now.timestamp())
    return issuer.lower() in issuers and parameters.get("accounturi") == account and not ends
