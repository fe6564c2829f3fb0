"""The shelf: payloads from the inventory into the Catalog; the publisher's hand for what is no certificate.

Load, open, ask the content gate, encode as the kind that the Secret is for ever, publish. What the gate
refuses never leaves, and the version before is current again. What cannot be opened leaves what is there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CustodyError, GateRefused, Unavailable
from sds_server.inventory import payload_roll_outs, payloads
from sds_server.inventory.database import Database
from sds_server.inventory.payloads import Offered, Payload
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.suspicions import Suspicions
from sds_server.log import get
from sds_server.payloads import content as contents
from sds_server.payloads.content import Content
from sds_server.xds import codec
from sds_server.xds.catalog import PENDING, Catalog, Resource

_log = get("publisher")


async def open_payload(payload: Payload, sealer: Sealer) -> Content:
    """Return what a version holds.

    Raises:
        GateRefused: it cannot be read.
        CustodyError, Unavailable: it cannot be opened.
    """
    if payload.key is None:
        return contents.opened(payload.kind, (payload.content or "").encode())
    if payload.key.spki_sha256 != contents.binding(payload.kind, payload.secret):
        raise CustodyError(f"payload {payload.generation} of {payload.secret}: sealed for another secret")
    return contents.opened(payload.kind, await sealer.open(payload.key))


class Shelf:
    """Keeps the Catalog's payloads up to date, of the names that it is told of."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        catalog: Catalog,
        version_key: bytes,
        clock: Clock,
        actor: str,
        suspicions: Suspicions,
    ) -> None:
        self._suspicions = suspicions
        self._database = database
        self._sealer = sealer
        self._catalog = catalog
        self._version_key = version_key
        self._clock = clock
        self._actor = actor
        self._published: dict[str, Offered] = {}
        self._encoded: dict[str, dict[int, Resource]] = {}
        self._withheld: dict[str, int] = {}
        self.on_published: Callable[[Resource], None] = lambda _resource: None
        self.on_withheld: Callable[[str], None] = lambda _why: None

    async def refresh(self, names: Sequence[str]) -> None:
        """Bring these up to date.

        Raises:
            Unavailable: database or KMS do not answer; what is in the Catalog stays.
        """
        offered = await payloads.offered(self._database, names)
        changed = {name: offer for name, offer in offered.items() if self._is_news(name, offer)}
        put_back = await self._suspicions.rolled_back(payloads=[*changed]) if changed else ()
        for name in put_back:
            del changed[name]
            self.on_withheld("rolled_back")
            if self._catalog.look(name) is None:
                self._catalog.publish({name: PENDING})
        late = await self._load(changed)
        for name, offer in changed.items():
            self._publish(name, offer)
        if late is not None:
            raise late

    def _is_news(self, name: str, offer: Offered) -> bool:
        if offer.generation is None:
            self._catalog.publish({name: PENDING})
            self.forget(name)
            return False
        return offer != self._published.get(name)

    async def _load(self, changed: Mapping[str, Offered]) -> Unavailable | None:
        """Encode what is offered and is not encoded yet; returns why the KMS did not open all of it."""
        missing = [
            (name, generation)
            for name, offer in changed.items()
            for generation in (offer.generation, offer.before, offer.staged)
            if generation is not None and generation not in self._encoded.get(name, {})
        ]
        late: Unavailable | None = None
        for payload in await payloads.load(self._database, missing) if missing else ():
            try:
                resource = await self._encode(payload, changed[payload.secret])
            except GateRefused as e:
                if e.rule in contents.DATED:
                    self._hold_back(payload, e)
                else:
                    await self._refuse(payload, e)
            except CustodyError as e:
                if payload.key is not None:
                    await self._suspicions.unopened(payload.secret, payload.key, e)
                self._withhold(payload, "unopened", str(e))
            except Unavailable as e:
                late = e
            else:
                self._encoded.setdefault(payload.secret, {})[payload.generation] = resource
        return late

    @property
    def held(self) -> Collection[str]:
        """The names of which something is kept."""
        return {*self._published, *self._encoded}

    def forget(self, name: str) -> None:
        """Keep nothing of a name that nobody wants."""
        self._published.pop(name, None)
        self._encoded.pop(name, None)
        self._withheld.pop(name, None)

    async def _encode(self, payload: Payload, offer: Offered) -> Resource:
        content = await open_payload(payload, self._sealer)
        proven = offer.proven or payload.generation != offer.generation
        contents.check(content, kind=offer.kind, now=None if proven else self._clock.now())
        body = codec.payload(payload.secret, content)
        return Resource(
            name=payload.secret,
            version=codec.version(self._version_key, body),
            generation=payload.generation,
            body=body,
            kind=offer.kind,
        )

    def _publish(self, name: str, offer: Offered) -> None:
        encoded = self._encoded.get(name, {})
        new = None if offer.generation is None else encoded.get(offer.generation)
        staged = None if offer.staged is None else encoded.get(offer.staged)
        if new is None or (staged is None and offer.staged is not None):
            return
        for_all = staged or new
        exceptions = {} if staged is None else dict.fromkeys(offer.canaries, new)
        for peer, salt in offer.salted.items():
            exceptions[peer] = self._salted(exceptions.get(peer, for_all), salt)
        before = self._published.get(name)
        if before is None or before.generation != offer.generation:
            self.on_published(new)
            _log.info(
                "payload.published",
                secret=name,
                kind=offer.kind,
                generation=new.generation,
                version=new.version,
                canaries=len(offer.canaries),
            )
        before_it = None if offer.before is None else encoded.get(offer.before)
        self._catalog.offer(name, for_all, exceptions, before=before_it)
        crashpoint("payload.published")
        self._published[name] = offer
        kept = {offer.generation, offer.before, offer.staged}
        self._encoded[name] = {number: item for number, item in encoded.items() if number in kept}

    def _salted(self, resource: Resource, salt: int) -> Resource:
        """Return the same as other bytes, where that can be: see `codec.salted`."""
        body = codec.salted(resource.body, salt) or resource.body
        return replace(resource, body=body, version=codec.version(self._version_key, body))

    def _hold_back(self, payload: Payload, error: GateRefused) -> None:
        """Wait, and ask again: a clock that is wrong, ours say, must not reject what all others serve."""
        if self._catalog.look(payload.secret) is None:
            self._catalog.publish({payload.secret: PENDING})
        self._withhold(payload, "held_back", error.message)

    def _withhold(self, payload: Payload, why: str, error: str) -> None:
        """Say once that a version does not go out from here."""
        if self._withheld.get(payload.secret) == payload.generation:
            return
        self._withheld[payload.secret] = payload.generation
        self.on_withheld(why)
        _log.error(
            "payload.withheld", secret=payload.secret, generation=payload.generation, why=why, error=error
        )

    async def _refuse(self, payload: Payload, error: GateRefused) -> None:
        taken_back = await payload_roll_outs.reject(
            self._database,
            payload.secret,
            payload.generation,
            error={
                "what": f"the content gate refused it: {error.message}",
                "rule": error.rule,
                "hint": error.next_step,
            },
            actor=self._actor,
        )
        self.on_withheld("refused")
        if self._catalog.look(payload.secret) is None:
            self._catalog.publish({payload.secret: PENDING})
        _log.error(
            "payload.refused",
            secret=payload.secret,
            generation=payload.generation,
            rule=error.rule,
            error=error.message,
            taken_back=taken_back,
        )
