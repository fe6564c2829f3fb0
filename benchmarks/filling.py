"""A big inventory, made quickly: by COPY, past triggers and foreign keys, its secondary indexes built last.

Every Secret has one Certificate, its chain, its sealed key and the completed Rotation that brought it. The
first ``wanted`` of them are real pairs, which the product can open and serve; the others are rows of the same
size.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec

from acme_engine import chain as chains
from acme_engine import keys
from sds_server import authority
from sds_server.authority import Ca
from sds_server.keys.kms import Sealer
from sds_server.model import KeyId, SealedKey

ISSUER: Final = "internal"
LIFE: Final = timedelta(days=90)
LEFT: Final = timedelta(days=30)
"""Of a life, from the moment of renewal on."""

CHUNK: Final = 5_000
"""Rows sent at once: about a megabyte of the widest."""

TABLES: Final = {
    "secret": (
        *("name", "kind", "domains", "issuer", "key_type"),
        *("served_generation", "served_from", "served_until", "renew_at"),
    ),
    "key_material": (
        *("id", "purpose", "spki_sha256", "suite"),
        *("envelope", "dek_wrapped", "kek_uri", "kek_version"),
    ),
    "certificate": (
        *("id", "domain", "san_domains", "serial_number", "not_before", "not_after", "status"),
        *("fingerprint", "key_ref", "secret", "generation", "issuer", "key_id", "spki_sha256", "order_url"),
        *("renew_at", "renew_reason"),
    ),
    "certificate_chain": ("cert_id", "chain_pem"),
    "certrotation": ("secret", "reason", "new_cert_id", "completed_at", "outcome", "attempts"),
}

SECONDARY: Final = """
SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made FROM pg_index
 WHERE indrelid::regclass::text = ANY ($1)
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""

ENROL: Final = """
INSERT INTO proxy (name, identity, created_by)
SELECT 'edge-' || n, 'spiffe://certvoy/proxy/edge-' || n, 'benchmark' FROM generate_series(1, {proxies}) n;

INSERT INTO identity_grant (identity, name, granted_by)
SELECT 'spiffe://certvoy/proxy/edge-' || n, 'fleet/' || lpad((n % {wanted} + g)::text, 7, '0'), 'benchmark'
  FROM generate_series(1, {proxies}) n, generate_series(0, 1) g;

INSERT INTO target (name, identity, node_id, registered, last_seen)
SELECT 'of edge-' || n, 'spiffe://certvoy/proxy/edge-' || n, 'edge-' || n, false, now()
  FROM generate_series(1, {proxies}) n;

INSERT INTO delivery (target_id, secret, sent, accepted, proved, seen_until)
SELECT id, 'fleet/' || lpad((id % {wanted})::text, 7, '0'), 1, 1, 1, now() + interval '1 day' FROM target
 WHERE name LIKE 'of edge-%';
"""


def new_ca(name: str) -> Ca:
    """Return a CA for as long as the benchmark runs."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Ca(authority.new_ca(key, name=name, now=datetime.now(UTC)), key)


def name(number: int) -> str:
    """Return what the Secret of this number is called."""
    return f"fleet/{number:07d}"


def domain(number: int) -> str:
    """Return the DNS name of the Secret of this number."""
    return f"service-{number:07d}.fleet.example.com"


@dataclass(frozen=True, slots=True)
class Pair:
    """A leaf of the benchmark's CA, with its sealed key."""

    chain: chains.Chain
    key: SealedKey


async def pair(
    sealer: Sealer,
    ca: Ca,
    number: int,
    *,
    days: float = LIFE.days,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> Pair:
    """Issue and seal what the Secret of this number can be served with."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    leaf = authority.server_certificate(
        ca,
        key.public_key(),
        names=[domain(number)],
        now=datetime.now(UTC),
        lifetime=timedelta(days=days),
    )
    sealed = await sealer.seal(
        keys.pkcs8(key),
        key_id=KeyId(uuid4()),
        purpose="leaf",
        spki_sha256=keys.spki_sha256(key.public_key()),
    )
    return Pair(chains.parse(authority.pem([leaf]).encode()), sealed)


async def fill(connection: Any, *, size: int, wanted: Sequence[Pair], ca: Ca) -> None:
    """Fill an empty inventory; the connection is a superuser's."""
    rows = _Rows(size, wanted, authority.pem([ca.certificate]))
    await connection.execute("SET session_replication_role = replica")
    indexes = await connection.fetch(SECONDARY, list(TABLES))
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    for table, columns in TABLES.items():
        await connection.copy_to_table(table, source=_chunks(size, getattr(rows, table)), columns=columns)
    for index in indexes:
        await connection.execute(index["made"])
    await connection.execute("SET session_replication_role = origin")
    await connection.execute("INSERT INTO secret_count VALUES ($1)", size)
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")


async def enrol(connection: Any, *, proxies: int, wanted: int) -> None:
    """Let very many proxies be enrolled, each with two grants and one subscription."""
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(ENROL.format(proxies=proxies, wanted=wanted))
    await connection.execute("SET session_replication_role = origin")
    await connection.execute("VACUUM (ANALYZE)")


async def _chunks(size: int, row: Callable[[int], str]) -> AsyncIterator[bytes]:
    for start in range(0, size, CHUNK):
        yield "".join(row(number) for number in range(start, min(start + CHUNK, size))).encode()


class _Rows:
    """The lines of COPY's text format, by table and number."""

    def __init__(self, size: int, wanted: Sequence[Pair], intermediate: str) -> None:
        self._size = size
        self._wanted = wanted
        self._now = datetime.now(UTC)
        first = wanted[0]
        self._chain = (first.chain.pem.decode() + intermediate).replace("\n", "\\n")
        self._spki = _hex(first.key.spki_sha256)
        self._key = _key_columns(first.key)
        self._kek = first.key.kek_uri

    def secret(self, number: int) -> str:
        begins, ends, renew_at = self._dates(number)
        return (
            f"{name(number)}\ttls_certificate\t{{{domain(number)}}}\t{ISSUER}\tecdsa-p256"
            f"\t1\t{begins}\t{ends}\t{renew_at}\n"
        )

    def key_material(self, number: int) -> str:
        if number < len(self._wanted):
            key = self._wanted[number].key
            return f"{key.key_id}\tleaf\t{_hex(key.spki_sha256)}\t{_key_columns(key)}\n"
        return f"{_id('key', number)}\tleaf\t{self._spki}\t{self._key}\n"

    def certificate(self, number: int) -> str:
        if number < len(self._wanted):
            real = self._wanted[number]
            serial, fingerprint = real.chain.serial_number, real.chain.fingerprint
            key_id, spki = str(real.key.key_id), _hex(real.key.spki_sha256)
        else:
            serial = hashlib.sha256(b"serial %d" % number).hexdigest()[:32]
            fingerprint = hashlib.sha256(b"leaf %d" % number).hexdigest()
            key_id, spki = _id("key", number), self._spki
        begins, ends, renew_at = self._dates(number)
        return (
            f"{self._cert_id(number)}\t{domain(number)}\t[]\t{serial}\t{begins}\t{ends}\tactive\t{fingerprint}"
            f"\tcv1:{self._kek}:{key_id}\t{name(number)}\t1\t{ISSUER}\t{key_id}\t{spki}"
            f"\thttps://ca.fleet.example.com/order/{number}\t{renew_at}\ta third of its life is left\n"
        )

    def certificate_chain(self, number: int) -> str:
        real = number < len(self._wanted)
        chain = self._wanted[number].chain.pem.decode().replace("\n", "\\n") if real else self._chain
        return f"{self._cert_id(number)}\t{chain}\n"

    def certrotation(self, number: int) -> str:
        return f"{name(number)}\tinitial\t{self._cert_id(number)}\t{self._now}\tcompleted_unobserved\t1\n"

    def _cert_id(self, number: int) -> str:
        return _id("certificate", number)

    def _dates(self, number: int) -> tuple[datetime, datetime, datetime]:
        """Return when it begins, when it ends, and when it is renewed: none is due yet."""
        if number < len(self._wanted):
            begins, ends = self._wanted[number].chain.not_before, self._wanted[number].chain.not_after
        else:
            # Spread over the life, in no order: as certificates that were issued when somebody wanted them.
            begins = self._now - (LIFE - LEFT) * (number * 7919 % self._size / self._size)
            ends = begins + LIFE
        return begins, ends, max(ends - LEFT, self._now + timedelta(hours=1))


def _key_columns(key: SealedKey) -> str:
    """Return all that follows the SPKI."""
    return f"{key.suite}\t{_hex(key.envelope)}\t{_hex(key.dek_wrapped)}\t{key.kek_uri}\t{key.kek_version}"


def _id(noun: str, number: int) -> str:
    """Return a UUID as random as any, and the same each time."""
    digest = hashlib.md5(b"%b %d" % (noun.encode(), number), usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:]}"


def _hex(raw: bytes) -> str:
    return f"\\\\x{raw.hex()}"
