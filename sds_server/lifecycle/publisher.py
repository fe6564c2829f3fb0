"""The publisher: from the inventory to the Catalog, on every replica.

Load, open the sealed key, ask the content gate, encode once, publish. A Certificate that the gate refuses
never leaves: what was served before stays, and the Rotation that brought it goes back to work with the
reason. While a new one is for canaries only, all others are offered the one before. What is no certificate is
the `Shelf`'s.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from acme_engine import keys
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CertvoyError, CustodyError, GateRefused, Unavailable
from sds_server.gate import check_pair, check_staple
from sds_server.inventory import certificates, offers, roll_outs
from sds_server.inventory.certificates import Pair
from sds_server.inventory.database import Database
from sds_server.inventory.offers import Offer
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.shelf import Shelf
from sds_server.lifecycle.staple_ends import StapleEnds, strip
from sds_server.lifecycle.suspicions import Suspicions
from sds_server.log import get
from sds_server.model import CertificateId, Kind, key_path
from sds_server.staples.response import must_staple
from sds_server.xds import codec
from sds_server.xds.catalog import ABSENT, PENDING, Catalog, Entry, Resource

FORGET_AFTER: Final = timedelta(minutes=10)
"""How long a name that nobody watches is kept, for a proxy that restarts while the database is down."""

BATCH: Final = 500

_Content = tuple[CertificateId, int | None]
"""A Certificate with one of its staples, or with none."""

_log = get("publisher")


class Publisher:
    """Keeps the Catalog's entries up to date. `want` and `told` only note names; `step` does the work."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        catalog: Catalog,
        version_key: bytes,
        clock: Clock,
        actor: str,
        sweep_every: timedelta = timedelta(0),
    ) -> None:
        """``sweep_every``: how often a step looks at all names, and not only at those that it was told of."""
        self._sweep_every_s = sweep_every.total_seconds()
        self._swept_at: float | None = None
        self._told: set[str] = set()
        self._database = database
        self._sealer = sealer
        self._catalog = catalog
        self._version_key = version_key
        self._clock = clock
        self._actor = actor
        self._wanted: set[str] = set()
        self._published: dict[str, Offer] = {}
        self._encoded: dict[str, dict[_Content, Resource]] = {}  # what is published, and what will be
        self._staple_ends = StapleEnds()
        self._refused: dict[str, CertificateId] = {}
        self._held_back: dict[str, CertificateId] = {}
        self._suspicions = Suspicions(database=database, actor=actor)
        self._shelf = Shelf(
            database=database,
            sealer=sealer,
            catalog=catalog,
            version_key=version_key,
            clock=clock,
            actor=actor,
            suspicions=self._suspicions,
        )
        self.on_published: Callable[[Resource], None] = lambda _resource: None
        self.on_declared: Callable[[str], None] = lambda _name: None
        """Told of a name that was nobody's until now."""

        self.on_stapled: Callable[[Resource], None] = lambda _resource: None
        """Told of another staple of what is published already."""

        self.on_withheld: Callable[[str], None] = lambda _why: None
        self.on_roll_back: Callable[[str], None] = lambda _reason: None

    def want(self, name: str) -> None:
        """Somebody watches a name that is not loaded."""
        self._wanted.add(name)

    def told(self, name: str) -> None:
        """What is offered under the name may have changed."""
        self._told.add(name)

    def missed(self) -> None:
        """Something may have changed that nobody told of: look at all names next."""
        self._swept_at = None

    def empty(self) -> None:
        """Keep no content of any name; `missed` has it loaded anew."""
        for name in {*self._published, *self._encoded, *self._shelf.held}:
            self._forget(name)

    async def step(self) -> None:
        """Bring the names up to date that it was told of; now and then all, as a NOTIFY can be lost.

        Raises:
            Unavailable: database or KMS do not answer; what is in the Catalog stays.
        """
        if self._sealer.locked:
            self.empty()  # once more: a step that was under way may have gone on
            return
        self._strip()
        now = self._clock.monotonic()
        sweep = self._swept_at is None or not 0 <= now - self._swept_at < self._sweep_every_s
        known = self._catalog.known
        if not sweep:
            known &= self._told
        looked_at = sorted(known | self._wanted)
        self._told.clear()
        for names in (looked_at[start : start + BATCH] for start in range(0, len(looked_at), BATCH)):
            try:
                await self._refresh(names)
            except CertvoyError:
                self._swept_at = None  # what it was told of is not done: next time all
                raise
            self._wanted.difference_update(names)
        if not sweep:
            return
        self._swept_at = now
        # Only now: while the database is away nothing that was forgotten could be loaded again.
        horizon = self._clock.monotonic() - FORGET_AFTER.total_seconds()
        for name in self._catalog.forget_idle(before=horizon):
            self._forget(name)

    async def _refresh(self, names: Iterable[str]) -> None:
        offered = await offers.of(self._database, names)
        self._catalog.learn({name: offer.kind for name, offer in offered.items()})
        entries: dict[str, Entry] = {}
        changed: dict[str, Offer] = {}
        payloads = [name for name, offer in offered.items() if offer.kind is not Kind.TLS_CERTIFICATE]
        for name in names:
            offer = offered.get(name)
            if offer is not None and not offer.hopeless and self._catalog.look(name) is ABSENT:
                self.on_declared(name)
            if offer is not None and offer.kind is not Kind.TLS_CERTIFICATE:
                continue
            if offer is None:
                entries[name] = ABSENT
                self._forget(name)
            elif offer.cert_id is None:
                # A client in its first handshake does not outlast the pause after a failure.
                entries[name] = ABSENT if offer.hopeless else PENDING
                self._forget(name)
            elif offer != self._published.get(name) and offer.cert_id != self._refused.get(name):
                changed[name] = offer
        if entries:
            self._catalog.publish(entries)
        if payloads:
            self._shelf.on_published, self._shelf.on_withheld = self.on_published, self.on_withheld
            await self._shelf.refresh(payloads)
        if changed:
            await self._load(changed)

    async def _load(self, changed: Mapping[str, Offer]) -> None:
        put_back = await self._suspicions.rolled_back(certificates=[*changed])
        changed = {name: offer for name, offer in changed.items() if name not in put_back}
        self._keep_waiting(put_back)
        missing = self._missing(changed)
        late: Unavailable | None = None
        for pair in await certificates.pairs(self._database, missing) if missing else ():
            crashpoint("pair.loaded")
            try:
                resource = await self._encode(pair)
            except GateRefused as e:
                if e.rule in {"dates", "staple"}:
                    self._hold_back(pair, e)
                else:
                    await self._refuse(pair, e)
            except CustodyError as e:
                # Not the Certificate's fault: a replica with the wrong KEK must not reject what all others
                # serve.
                await self._leave(pair, e)
            except Unavailable as e:
                # The KMS is away: what opens all the same, by a data key that is in memory, is published.
                late = e
            else:
                number = None if pair.stapled is None else pair.stapled.number
                self._encoded.setdefault(resource.name, {})[pair.certificate.id, number] = resource
        for name, offer in changed.items():
            self._publish(name, offer)
        if late is not None:
            raise late

    def _keep_waiting(self, put_back: Collection[str]) -> None:
        """Of what was rolled back nothing goes out: who has nothing yet waits, who has something keeps it."""
        for name in put_back:
            self.on_withheld("rolled_back")  # each time: for as long as it is so, somebody is to be told
            if self._catalog.look(name) is None:
                self._catalog.publish({name: PENDING})

    async def _leave(self, pair: Pair, error: CustodyError) -> None:
        certificate = pair.certificate
        self.on_withheld("unopened")
        if await self._suspicions.unopened(certificate.secret, pair.key, error, cert_id=certificate.id):
            _log.error(
                "key.unopened", secret=certificate.secret, key_ref=pair.key.key_ref, error=error.message
            )

    def _missing(self, changed: Mapping[str, Offer]) -> list[CertificateId]:
        """Return the Certificates that are offered and not encoded yet."""
        return [
            content[0]
            for name, offer in changed.items()
            for content in _contents(offer)
            if content not in self._encoded.get(name, {})
        ]

    def _publish(self, name: str, offer: Offer) -> None:
        """Put into the Catalog what is offered; what could not be encoded leaves what is there."""
        encoded = self._encoded.get(name, {})
        new = None if offer.cert_id is None else encoded.get((offer.cert_id, offer.staple))
        before_it = None if offer.before is None else encoded.get((offer.before, offer.before_staple))
        for_all = before_it if offer.staged else new
        if new is None or for_all is None:
            return
        exceptions = dict.fromkeys(offer.canaries, new) if offer.staged else {}
        for peer, salt in offer.salted.items():
            exceptions[peer] = self._salted(exceptions.get(peer, for_all), salt)
        before = self._published.get(name)
        if before is None or before.cert_id != offer.cert_id:
            self.on_published(new)
            _log.info(
                "certificate.published",
                secret=name,
                generation=new.generation,
                version=new.version,
                canaries=len(offer.canaries),
            )
        elif before.staple != offer.staple:
            self.on_stapled(new)
            ends = None if new.staple_ends is None else new.staple_ends.isoformat()
            _log.info("staple.published", secret=name, generation=new.generation, next_update=ends)
        self._catalog.offer(name, for_all, exceptions, before=before_it)
        crashpoint("certificate.published")
        self._suspicions.forget(name)
        self._published[name] = offer
        self._encoded[name] = kept = {
            content: encoded[content] for content in _contents(offer) if content in encoded
        }
        self._staple_ends.note(name, kept.values())

    def _salted(self, resource: Resource, salt: int) -> Resource:
        """Return the same Certificate as other bytes."""
        body = codec.salted(resource.body, salt) or resource.body
        bare = None if resource.bare is None else self._salted(resource.bare, salt)
        return replace(resource, body=body, version=codec.version(self._version_key, body), bare=bare)

    def _strip(self) -> None:
        """Let go out without its staple what has one that ended, whether the database answers or not."""
        now = self._clock.now()
        for name in self._staple_ends.due(now):
            strip(name, self._encoded[name], now=now)
            self._publish(name, self._published[name])

    def _forget(self, name: str) -> None:
        self._published.pop(name, None)
        self._encoded.pop(name, None)
        self._staple_ends.note(name, ())
        self._shelf.forget(name)
        self._suspicions.forget(name)

    async def _encode(self, pair: Pair) -> Resource:
        certificate = pair.certificate
        pkcs8 = None if pair.key.is_external else await self._sealer.open(pair.key)
        crashpoint("pair.opened")
        chain = check_pair(
            chain_pem=certificate.chain_pem,
            key_pkcs8=pkcs8,
            spki_sha256=pair.key.spki_sha256,
            names=certificate.domains,
            now=self._clock.now(),
        )
        staple, why = check_staple(
            chain.leaf,
            issuer=None if pair.stapled is None else pair.stapled.issuer,
            staple=None if pair.stapled is None else pair.stapled.staple,
            now=self._clock.now(),
        )
        if why is not None:
            _log.error(
                "staple.withheld", secret=certificate.secret, generation=certificate.generation, error=why
            )
        crashpoint("pair.checked")
        key_pem = b"" if pkcs8 is None else keys.pem(keys.load_pkcs8(pkcs8))
        path = key_path(pair.key_file, pair.key.spki_sha256) if pkcs8 is None and pair.key_file else None
        body = codec.tls_certificate(certificate.secret, chain.pem, key_pem, key_path=path)
        bare = Resource(
            name=certificate.secret,
            version=codec.version(self._version_key, body),
            generation=certificate.generation,
            body=body,
            keyless=pkcs8 is None,
            by_path=path is not None,
        )
        if staple is None:
            return bare
        must = must_staple(chain.leaf)
        body = codec.tls_certificate(
            certificate.secret, chain.pem, key_pem, key_path=path, staple=staple.response
        )
        return replace(
            bare,
            version=codec.version(self._version_key, body),
            body=body,
            bare=bare,
            staple_ends=staple.next_update if must else staple.sent_until,
            must=must,
        )

    def _hold_back(self, pair: Pair, error: GateRefused) -> None:
        """Wait, and ask again: a clock that is wrong, ours say, must not reject what all others serve."""
        certificate = pair.certificate
        if self._catalog.look(certificate.secret) is None:
            self._catalog.publish({certificate.secret: PENDING})
        if self._held_back.get(certificate.secret) != certificate.id:
            self._held_back[certificate.secret] = certificate.id
            self.on_withheld("held_back")
            _log.error("certificate.held_back", secret=certificate.secret, error=error.message)

    async def _refuse(self, pair: Pair, error: GateRefused) -> None:
        certificate = pair.certificate
        crashpoint("certificate.refusing")
        taken_back = await roll_outs.reject(
            self._database,
            certificate.secret,
            certificate.id,
            error={
                "what": f"the content gate refused it: {error.message}",
                "rule": error.rule,
                "hint": error.next_step,
            },
            actor=self._actor,
        )
        crashpoint("certificate.rejected")
        # Only now: where the database did not take the refusal, the next step asks the gate again.
        self._refused[certificate.secret] = certificate.id
        self.on_withheld("refused")
        if taken_back:
            self.on_roll_back("gate")
        if not taken_back and self._catalog.look(certificate.secret) is None:
            self._catalog.publish({certificate.secret: PENDING})
        _log.error(
            "certificate.refused",
            secret=certificate.secret,
            generation=certificate.generation,
            rule=error.rule,
            error=error.message,
            taken_back=taken_back,
        )


def _contents(offer: Offer) -> list[_Content]:
    """Return what an offer is made of: the newest, and the one before."""
    both = ((offer.cert_id, offer.staple), (offer.before, offer.before_staple))
    return [(cert_id, number) for cert_id, number in both if cert_id is not None]
