"""The publisher: from the inventory to the Catalog, on every replica.

Load, open the sealed key, ask the content gate, encode once, publish. A Certificate that the gate refuses
never leaves: what was served before stays, and the Rotation that brought it goes back to work with the
reason.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final

from acme_engine import keys
from sds_server.clock import Clock
from sds_server.errors import CustodyError, GateRefused
from sds_server.gate import check_pair
from sds_server.inventory import certificates, roll_outs
from sds_server.inventory.certificates import Pair
from sds_server.inventory.database import Database
from sds_server.keys.kms import Sealer
from sds_server.log import get
from sds_server.model import CertificateId
from sds_server.xds import codec
from sds_server.xds.catalog import ABSENT, PENDING, Catalog, Entry, Resource

FORGET_AFTER: Final = timedelta(minutes=10)
"""How long a name that nobody watches is kept, for a proxy that restarts while the database is down."""

BATCH: Final = 500

_log = get("publisher")


class Publisher:
    """Keeps the Catalog's entries up to date. `want` and `changed` only note names; `step` does the work."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        catalog: Catalog,
        version_key: bytes,
        clock: Clock,
        actor: str,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._catalog = catalog
        self._version_key = version_key
        self._clock = clock
        self._actor = actor
        self._wanted: set[str] = set()
        self._published: dict[str, CertificateId] = {}
        self._refused: dict[str, CertificateId] = {}
        self._held_back: dict[str, CertificateId] = {}
        self.on_published: Callable[[Resource], None] = lambda _resource: None
        self.on_withheld: Callable[[str], None] = lambda _why: None

    def want(self, name: str) -> None:
        """Somebody watches a name that is not loaded."""
        self._wanted.add(name)

    async def step(self) -> None:
        """Bring every known name up to date.

        Raises:
            Unavailable: database or KMS do not answer; what is in the Catalog stays.
        """
        horizon = self._clock.monotonic() - FORGET_AFTER.total_seconds()
        for name in self._catalog.forget_idle(before=horizon):
            self._published.pop(name, None)
        known = sorted(self._catalog.known | self._wanted)
        for names in (known[start : start + BATCH] for start in range(0, len(known), BATCH)):
            await self._refresh(names)
            self._wanted.difference_update(names)

    async def _refresh(self, names: Iterable[str]) -> None:
        served = await certificates.served(self._database, names)
        entries: dict[str, Entry] = {}
        changed: list[CertificateId] = []
        for name in names:
            now = served.get(name)
            if now is None:
                entries[name] = ABSENT
                self._published.pop(name, None)
            elif now.cert_id is None:
                entries[name] = PENDING
                self._published.pop(name, None)
            elif now.cert_id not in {self._published.get(name), self._refused.get(name)}:
                changed.append(now.cert_id)
        if entries:
            self._catalog.publish(entries)
        if changed:
            await self._load(changed)

    async def _load(self, cert_ids: Sequence[CertificateId]) -> None:
        for pair in await certificates.pairs(self._database, cert_ids):
            try:
                resource = await self._encode(pair)
            except GateRefused as e:
                if e.rule == "dates":
                    self._hold_back(pair, e)
                else:
                    await self._refuse(pair, e)
            except CustodyError as e:
                # Not the Certificate's fault: a replica with the wrong KEK must not reject what all others
                # serve.
                self.on_withheld("unopened")
                _log.error(
                    "key.unopened", secret=pair.certificate.secret, key_ref=pair.key.key_ref, error=str(e)
                )
            else:
                self.on_published(resource)
                self._catalog.publish({resource.name: resource})
                self._published[resource.name] = pair.certificate.id
                _log.info(
                    "certificate.published",
                    secret=resource.name,
                    generation=resource.generation,
                    version=resource.version,
                )

    async def _encode(self, pair: Pair) -> Resource:
        certificate = pair.certificate
        pkcs8 = await self._sealer.open(pair.key)
        chain = check_pair(
            chain_pem=certificate.chain_pem,
            key_pkcs8=pkcs8,
            spki_sha256=pair.key.spki_sha256,
            names=certificate.domains,
            now=self._clock.now(),
        )
        body = codec.tls_certificate(certificate.secret, chain.pem, keys.pem(keys.load_pkcs8(pkcs8)))
        return Resource(
            name=certificate.secret,
            version=codec.version(self._version_key, body),
            generation=certificate.generation,
            body=body,
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
        # Only now: where the database did not take the refusal, the next step asks the gate again.
        self._refused[certificate.secret] = certificate.id
        self.on_withheld("refused")
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
