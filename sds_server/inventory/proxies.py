"""Proxies that enrol: their one-time tokens, their grants, and whether their credentials still count."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from sds_server.errors import NotFound, Unauthenticated
from sds_server.inventory import api_tokens, audit, control_cas, feed, targets
from sds_server.inventory.api_tokens import IdentityToken
from sds_server.inventory.audit import Deed, Deeds
from sds_server.inventory.control_cas import ControlCa
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import Identity, Kind

CHANGES_LAST: Final = timedelta(days=1)
"""How long it is known whose rights were changed: who has not asked for so long reads all."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that may hold a credential of ours; ``id`` is in the credential."""

    id: int
    name: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class GrantedName:
    """A name that an identity may see, and on what terms, as in ``grants``; ``kinds`` None: of every kind."""

    name: str
    kinds: frozenset[Kind] | None = None
    issue: bool = False
    max_names: int | None = None


@dataclass(frozen=True, slots=True)
class Granted(GrantedName):
    """The same, with who granted it."""

    granted_at: datetime = field(kw_only=True)
    granted_by: str = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What is known of a proxy that was invited; ``credential_until`` None: it has not enrolled yet."""

    proxy: Proxy
    created_at: datetime
    created_by: str
    credential_at: datetime | None
    credential_until: datetime | None
    grants: Sequence[Granted]


@dataclass(frozen=True, slots=True)
class Listed:
    """A proxy that was seen, registered, invited, or more than one of these."""

    name: str
    target: targets.Listed | None
    enrolled: Enrolled | None


@dataclass(frozen=True, slots=True)
class Rights:
    """All that decides about who comes, at one moment; or what has changed of it since another.

    ``horizon`` is that moment, for `rights`. ``changed``: whose grants and enrolments these are, so that one
    that is missing has none; None: everybody's. ``authorities`` are all in any case.
    """

    horizon: str
    changed: frozenset[Identity] | None
    grants: Mapping[Identity, tuple[GrantedName, ...]]
    enrolled: Mapping[Identity, int]
    authorities: Sequence[ControlCa]
    tokens: Mapping[Identity, tuple[IdentityToken, ...]] = field(default_factory=dict)


async def rights(database: Database, *, since: str | None = None) -> Rights:
    """Read it; ``since`` the horizon of what was read before, which is at most `CHANGES_LAST` old."""
    async with database.transaction() as tx:
        horizon: str = await tx.value("rights_horizon")
        whose: list[str] | None = None
        # A horizon that went back is another database's, of a backup: everything may be other than before.
        if since is not None and int(since) <= int(horizon):
            whose = [row["identity"] for row in await tx.rows("rights_changed", since)]
        granted = await tx.rows("identity_grants", whose) if whose != [] else []
        enrolled = await tx.rows("enrolled", whose) if whose != [] else []
        tokens = await api_tokens.of_identities(tx, whose) if whose != [] else {}
        authorities = await control_cas.read(tx)
        if whose:
            await tx.rows("forget_rights_changes", CHANGES_LAST)
    return Rights(
        horizon=horizon,
        changed=None if whose is None else frozenset(map(Identity, whose)),
        grants={
            Identity(identity): tuple(map(_granted_name, rows))
            for identity, rows in groupby(granted, key=lambda row: str(row["identity"]))
        },
        enrolled={Identity(row["identity"]): row["id"] for row in enrolled},
        authorities=authorities,
        tokens=tokens,
    )


async def invite(
    database: Database,
    name: str,
    *,
    identity: Identity,
    granted: Collection[GrantedName],
    token: str,
    lasts: timedelta,
    actor: str,
) -> tuple[Proxy, datetime]:
    """Let a proxy enrol once by this token, and see these names besides those that it sees already.

    A name that it sees already is granted anew, on these terms.
    """
    async with database.transaction() as tx:
        await tx.rows("sweep_enrolment_tokens")
        await tx.rows("insert_proxy", name, identity, actor)
        row = await tx.row("lock_proxy", name)
        assert row is not None  # noqa: S101 - inserted above, or there already
        proxy = Proxy(row["id"], name, Identity(row["identity"]))
        for one in granted:
            kinds = None if one.kinds is None else sorted(one.kinds)
            await tx.rows("put_grant", proxy.identity, one.name, actor, kinds, one.issue, one.max_names)
        ends = await tx.value("insert_enrolment_token", _digest(token), proxy.id, actor, lasts)
        detail = {
            "identity": proxy.identity,
            "names": sorted(one.name for one in granted),
            "expires_at": ends,
        }
        await audit.append(tx, action="proxy.invited", actor=actor, subject=name, detail=detail)
        await feed.tell_rights(tx)
    return proxy, ends


async def invited(database: Database, token: str, *, spki_sha256: bytes) -> Proxy:
    """Return whom the token is for, if this key pair may still use it.

    Raises:
        Unauthenticated: it is unknown, over, or was used.
    """
    async with database.transaction() as tx:
        row = await tx.row("usable_enrolment_token", _digest(token), spki_sha256)
    if row is None:
        raise _worthless()
    return Proxy(row["id"], row["name"], Identity(row["identity"]))


async def enrolled(
    database: Database, token: str, proxy: Proxy, *, spki_sha256: bytes, until: datetime, serial: str
) -> None:
    """Use the token up, by this key pair alone.

    Raises:
        Unauthenticated: somebody was quicker, or it is over by now.
    """
    async with database.transaction() as tx:
        # The proxy before its tokens, as whoever removes it.
        await tx.rows("credential_issued", proxy.id, proxy.identity, until)
        if await tx.value("use_enrolment_token", _digest(token), spki_sha256) != proxy.id:
            raise _worthless()
        await audit.append(
            tx,
            action="proxy.enrolled",
            actor=f"proxy:{proxy.name}",
            subject=proxy.name,
            detail={"identity": proxy.identity, "serial_number": serial, "not_after": until},
        )
        await feed.tell_rights(tx)


async def renewed(
    database: Database, identity: Identity, proxy: int, *, until: datetime, serial: str
) -> None:
    """Write that a proxy's credential was renewed.

    Raises:
        Unauthenticated: it was removed meanwhile.
    """
    async with database.transaction() as tx:
        name = await tx.value("credential_issued", proxy, identity, until)
        if name is None:
            raise Unauthenticated(
                f"{identity} is not enrolled any more", hint="enroll it anew: `certvoy proxies enroll NAME`"
            )
        detail = {"identity": identity, "serial_number": serial, "not_after": until}
        await audit.append_bounded(
            tx,
            action="credential.renewed",
            actor=f"proxy:{name}",
            identity=identity,
            deeds=Deeds().and_one(Deed(name, detail)),
        )


async def get(database: Database, name: str) -> Enrolled | None:
    """Return what is known of a proxy; None: it was never invited, or was removed."""
    async with database.transaction() as tx:
        found = await _enrolled_in(tx, await tx.rows("proxy", name))
    return next(iter(found.values()), None)


async def page(database: Database, *, after: tuple[str, bool], limit: int) -> Sequence[Listed]:
    """Return Envoys and whoever was invited, by name, behind ``after``: a name, and if it had no Target."""
    async with database.transaction() as tx:
        rows = await tx.rows("proxies", *after, limit)
        seen = [row for row in rows if row["id"] is not None]
        of_id = {listed.target.id: listed for listed in await targets.listed_in(tx, seen)}
        invited = await _enrolled_in(tx, [row for row in rows if row["proxy_id"] is not None])
    return [Listed(row["name"], of_id.get(row["id"]), invited.get(row["proxy_id"])) for row in rows]


async def _enrolled_in(tx: Transaction, rows: Sequence[Row]) -> Mapping[int, Enrolled]:
    granted = await tx.rows("grants_of", [row["proxy_identity"] for row in rows])
    return {
        row["proxy_id"]: Enrolled(
            proxy=Proxy(row["proxy_id"], row["proxy_name"], Identity(row["proxy_identity"])),
            created_at=row["created_at"],
            created_by=row["created_by"],
            credential_at=row["credential_at"],
            credential_until=row["credential_until"],
            grants=[
                Granted(
                    **asdict(_granted_name(grant)),
                    granted_at=grant["granted_at"],
                    granted_by=grant["granted_by"],
                )
                for grant in granted
                if grant["identity"] == row["proxy_identity"]
            ],
        )
        for row in rows
    }


async def remove(database: Database, name: str, *, actor: str) -> None:
    """Take a proxy's grants, tokens and credential away; every replica ends its streams.

    Raises:
        NotFound: there is none of that name.
    """
    async with database.transaction() as tx:
        row = await tx.row("delete_proxy", name)
        if row is None:
            raise NotFound(
                f"proxy {name}: none of that name is enrolled",
                hint="`certvoy proxies` lists what was seen; a seen one is forgotten by `certvoy targets rm`",
            )
        await tx.rows("delete_grants", row["identity"])
        freed = [row["secret"] for row in await tx.rows("forget_key_requests_by", row["identity"])]
        detail = {"identity": row["identity"]} | ({"keys_of": sorted(freed)} if freed else {})
        await audit.append(tx, action="proxy.removed", actor=actor, subject=name, detail=detail)
        await feed.tell_rights(tx)


def _granted_name(row: Row) -> GrantedName:
    kinds = None if row["kinds"] is None else frozenset(map(Kind, row["kinds"]))
    return GrantedName(row["name"], kinds, row["issue"], row["max_names"])


def _worthless() -> Unauthenticated:
    return Unauthenticated(
        "the enrolment token is unknown, used, or has expired",
        hint="get another: `certvoy proxies enroll NAME`",
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
