"""Payloads that people bring or certvoy makes: checked, sealed where they are secret, stored.

What follows is the publisher's and the settler's. A payload that is refused leaves nothing behind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from cryptography import x509

from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import Conflict, CustodyError, GateRefused, NotFound, Unavailable
from sds_server.inventory import payloads, targets, ticket_schedules
from sds_server.inventory.database import Database
from sds_server.inventory.payload_roll_outs import standing
from sds_server.inventory.payloads import New, Payload, Stored
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.rollout import Standing
from sds_server.lifecycle.shelf import open_payload
from sds_server.log import get
from sds_server.model import PAYLOAD_PURPOSE, KeyId, Kind, Phase, SecretName
from sds_server.payloads import content as contents
from sds_server.payloads.content import Content, Described
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import TrustBundle, fingerprint_of

CHAINS_A_PAGE: Final = 500

NAMED_MAX: Final = 5

TAKEN: Final = frozenset({Standing.PROVED, Standing.ACCEPTED})

_log = get("payloads")


class Payloads:
    """Takes payloads, and makes ticket keys that are due."""

    def __init__(self, *, database: Database, sealer: Sealer, clock: Clock, actor: str) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._actor = actor

    async def put(self, name: SecretName, content: Content, *, actor: str) -> Stored:
        """Make it the Secret's next version; where there is none of that name one of its kind is created.

        Raises:
            GateRefused: it must not be served; the message says what is wrong with it.
            Conflict: the name has another kind for ever, or is frozen.
            CustodyError, Unavailable: it cannot be sealed or stored.
        """
        new = await self._new(name, content, Phase.PUT)
        if (generation := await self._holds(name, content)) is not None:
            return Stored(generation, unchanged=True)
        return await payloads.store(self._database, new, actor=actor)

    async def _holds(self, name: SecretName, content: Content) -> int | None:
        """Return the generation that holds it, if that is what is served already."""
        try:
            payload = await payloads.served(self._database, name)
            held = None if payload is None else await open_payload(payload, self._sealer)
        except (NotFound, GateRefused, CustodyError):
            return None
        return payload.generation if payload is not None and held == content else None

    async def add_cas(self, name: SecretName, cas_pem: str, *, actor: str) -> Stored:
        """Have the bundle trust more CAs beside those that it trusts: the first phase of a root's rotation.

        Raises:
            NotFound: there is no such trust bundle.
            GateRefused, Conflict: as of `put`.
        """
        payload, bundle = await self._bundle(name)
        new = await self._new(name, bundle.with_cas(cas_pem), Phase.ADD, after=payload.generation)
        return await payloads.store(self._database, new, actor=actor)

    async def remove_ca(
        self, name: SecretName, fingerprint: str, *, actor: str, forced: str | None = None
    ) -> Stored:
        """Have the bundle trust a CA no more: the last phase of a root's rotation.

        ``forced``: why it is done although somebody may still need it; it is audited.

        Raises:
            NotFound: there is no such trust bundle, or it has no such CA.
            Conflict: a Target has not taken the bundle as it is, or a live one is served a certificate that
                no other CA of the bundle vouches for.
            GateRefused: it is the last CA.
        """
        payload, bundle = await self._bundle(name)
        rest = bundle.without_ca(fingerprint)
        if rest == bundle:
            known = ", ".join(fingerprint_of(ca)[:16] for ca in bundle.authorities)
            raise NotFound(
                f"secret {name}: it trusts no CA with the SHA-256 {fingerprint}",
                hint=f"`certvoy trust show {name}` lists them: {known}",
            )
        in_the_way = await self.in_the_way(payload, bundle, rest)
        if in_the_way and forced is None:
            raise Conflict(
                f"secret {name}: CA {fingerprint[:16]}... is still needed: {'; '.join(in_the_way)}",
                hint="wait until that is over, or say why not: `--force --reason TEXT`",
            )
        detail: dict[str, Any] = {"fingerprint": fingerprint}
        if in_the_way:
            detail |= {"forced": forced, "in_the_way": in_the_way}
        new = await self._new(name, rest, Phase.REMOVE, after=payload.generation, detail=detail)
        return await payloads.store(self._database, new, actor=actor)

    async def in_the_way(self, payload: Payload, bundle: TrustBundle, rest: TrustBundle) -> list[str]:
        """Say what speaks against trusting ``rest`` alone, in words; nothing: go on."""
        words = []
        # Whoever came, or refused it, after its roll-out had ended counts as well.
        live = await targets.live_set(self._database, payload.secret)
        late = [
            item.target.name
            for item in live
            if item.stale_since is not None or standing(item, payload.generation) not in TAKEN
        ]
        if late or payload.completed_at is None:
            who = _named(late) if late else "its roll-out has not ended"
            words.append(f"generation {payload.generation} is not with every proxy yet: {who}")
        kept = {fingerprint_of(ca) for ca in rest.authorities}
        gone = [ca for ca in bundle.authorities if fingerprint_of(ca) not in kept]
        orphans: list[str] = []
        after = ("", 0)
        while page := await payloads.chains_served(self._database, after=after, limit=CHAINS_A_PAGE):
            orphans += await asyncio.to_thread(_orphans, page, gone, rest.authorities)
            after = page[-1].secret, page[-1].generation
        if orphans:
            words.append(f"certificates of it are served: {_named(orphans)}")
        return words

    async def schedule(self, name: SecretName, *, rotate_every: timedelta, keep: int, actor: str) -> bool:
        """Have certvoy make the Secret's ticket keys from now on; say whether that is new.

        Raises:
            Conflict: the name has another kind for ever.
        """
        return await ticket_schedules.put(
            self._database, name, rotate_every=rotate_every, keep=keep, actor=actor
        )

    async def described(self, name: SecretName) -> Described | None:
        """Return what the Secret holds, without what is secret; None: it holds nothing that can be opened.

        Raises:
            NotFound: there is no such Secret.
        """
        payload = await payloads.served(self._database, name)
        if payload is None:
            return None
        try:
            return Described.of(await open_payload(payload, self._sealer))
        except (GateRefused, CustodyError, Unavailable):
            return None

    async def make_tickets(self) -> None:
        """Make the next key of each Secret where it is due: by one replica, the same for the fleet.

        Raises:
            Unavailable: database or KMS do not answer.
        """
        while (due := await ticket_schedules.claim(self._database)) is not None:
            name, keep = due
            try:
                payload = await payloads.served(self._database, name)
            except NotFound:
                continue  # it was removed just now, and its schedule with it
            before = TicketKeys(())
            if payload is not None:
                held = await open_payload(payload, self._sealer)
                assert isinstance(held, TicketKeys)  # noqa: S101 - the kind is for ever
                before = held
            new = await self._new(
                name,
                before.rotated(keep=keep),
                Phase.ROTATE,
                after=None if payload is None else payload.generation,
            )
            crashpoint("tickets.made")
            try:
                stored = await ticket_schedules.rotated(self._database, new, actor=self._actor)
            except Conflict as e:
                _log.info("tickets.kept", secret=name, reason=e.message)
                continue
            crashpoint("tickets.rotated")
            _log.info("tickets.rotated", secret=name, generation=stored.generation, keep=keep)

    async def _bundle(self, name: SecretName) -> tuple[Payload, TrustBundle]:
        payload = await payloads.served(self._database, name)
        if payload is None or payload.kind is not Kind.VALIDATION_CONTEXT:
            raise NotFound(
                f"secret {name}: it is no trust bundle", hint=f"`certvoy trust put {name} FILE` begins one"
            )
        content = await open_payload(payload, self._sealer)
        assert isinstance(content, TrustBundle)  # noqa: S101 - the kind is for ever
        return payload, content

    async def _new(
        self,
        name: SecretName,
        content: Content,
        phase: Phase,
        *,
        after: int | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> New:
        """Ask the gate, and seal what is secret."""
        kind = contents.kind_of(content)
        contents.check(content, kind=kind, now=self._clock.now())
        if isinstance(content, TrustBundle):
            return New(
                name,
                kind,
                phase,
                content=content.text,
                not_after=content.not_after,
                after=after,
                detail=detail or {},
            )
        key = await self._sealer.seal(
            content.raw,
            key_id=KeyId(uuid4()),
            purpose=PAYLOAD_PURPOSE,
            spki_sha256=contents.binding(kind, name),
        )
        return New(name, kind, phase, key=key, after=after, detail=detail or {})


def _orphans(
    page: Sequence[payloads.Chained], gone: Sequence[x509.Certificate], kept: Sequence[x509.Certificate]
) -> list[str]:
    """Return the certificates that lose whom they are believed by."""
    return [
        f"generation {item.generation} of {item.secret}"
        for item in page
        if _vouched(chain := x509.load_pem_x509_certificates(item.chain_pem.encode()), gone)
        and not _vouched(chain, kept)
    ]


def _vouched(chain: Sequence[x509.Certificate], cas: Sequence[x509.Certificate]) -> bool:
    """Whether one of the CAs has signed a part of the chain, or is one."""
    return any(certificate == ca or _signed(certificate, ca) for certificate in chain for ca in cas)


def _signed(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    if certificate.issuer != ca.subject:
        return False
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # noqa: BLE001 - whatever is wrong with the signature, it is not this CA's
        return False
    return True


def _named(names: Sequence[str]) -> str:
    more = f", and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
