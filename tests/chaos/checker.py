"""The independent judge: what the clients saw, held against rows that are read and never written.

It takes nothing on certvoy's word but what certvoy claims, which is the thing to be judged.
"""

import asyncio
import contextlib
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.chaos.targets import Target

TRIES_S = 60.0
"""How long a look is tried again: the database may be what was just killed."""

ROTATIONS = """
SELECT r.id, r.outcome, extract(epoch FROM r.completed_at)::float8 AS completed_at, c.fingerprint,
       c.generation, r.last_error IS NOT NULL AS failed, r.new_cert_id IS NOT NULL AS rolling_out,
       r.leased_until IS NOT NULL AS leased
  FROM certrotation r LEFT JOIN certificate c ON c.id = r.new_cert_id WHERE r.secret = $1 ORDER BY r.id
"""
CERTIFICATES = """
SELECT c.generation, c.status, c.fingerprint, extract(epoch FROM c.issued_at)::float8 AS issued_at,
       c.renew_reason = 'sabotage' AS broken, c.spki_sha256, k.spki_sha256 AS key_spki_sha256, p.chain_pem
  FROM certificate c JOIN key_material k ON k.id = c.key_id JOIN certificate_chain p ON p.cert_id = c.id
 WHERE c.secret = $1 ORDER BY c.generation
"""
Row = Mapping[str, Any]


class Checker:
    """Reads the inventory without a right to write, however often the database dies."""

    def __init__(self, connect: Mapping[str, Any]) -> None:
        self._connect = connect
        self._connection: Any = None

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.terminate()

    async def rotations(self, secret: str) -> Sequence[Row]:
        """Return all Rotations of a Secret, oldest first."""
        return await self._read(ROTATIONS, secret)

    async def certificates(self, secret: str) -> Sequence[Row]:
        """Return all that was ever stored for a Secret, oldest first."""
        return await self._read(CERTIFICATES, secret)

    async def violations(self, secret: str, targets: Sequence[Target], *, since: float) -> list[str]:
        """Judge one Secret: what happened since a moment, and how the inventory stands."""
        rotations, certificates = await self.rotations(secret), await self.certificates(secret)
        return [
            *_inventory(secret, certificates),
            *_false_completes(rotations, certificates, targets, since=since),
            *_strangers(certificates, targets, since=since),
        ]

    async def _read(self, query: str, secret: str) -> Sequence[Row]:
        async with asyncio.timeout(TRIES_S):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    if self._connection is None or self._connection.is_closed():
                        settings = {"default_transaction_read_only": "on"}
                        self._connection = await asyncpg.connect(**self._connect, server_settings=settings)
                    rows: Sequence[Row] = await self._connection.fetch(query, secret, timeout=10)
                    return rows
                await asyncio.sleep(0.1)


def _false_completes(
    rotations: Iterable[Row], certificates: Sequence[Row], targets: Sequence[Target], *, since: float
) -> list[str]:
    """Whenever a Rotation is called complete, each of its targets serves the new leaf, and goes on to."""
    found = []
    for rotation in rotations:
        if rotation["outcome"] != "completed" or rotation["completed_at"] < since:
            continue
        leaf, at = rotation["fingerprint"], rotation["completed_at"]
        until = min(
            (row["issued_at"] for row in certificates if row["generation"] > rotation["generation"]),
            default=math.inf,
        )
        for target in targets:
            stale = [
                run.fingerprint[:16]
                for run in target.runs
                if run.fingerprint != leaf and run.last > at and run.first < until
            ]
            unseen = target.was_down(at) and leaf not in target.seen_before(at)
            if stale or unseen:
                how = f"still served {', '.join(stale)}" if stale else "was down, and never seen to serve it"
                found.append(f"FALSE COMPLETE: {rotation['id']} with {leaf[:16]}: {target.name} {how}")
    return found


def _strangers(certificates: Iterable[Row], targets: Iterable[Target], *, since: float) -> list[str]:
    """Served is the current or the previous pair of the Secret, never a broken one."""
    good = {row["fingerprint"] for row in certificates if not row["broken"]}
    # What ended before was replaced before: only its last one may still be seen.
    older = [row for row in certificates if not row["broken"] and row["issued_at"] < since]
    over = {row["fingerprint"] for row in older[:-1]}
    return [
        f"{target.name} served {leaf[:16]}, which is {'over' if leaf in over else 'none of its secret'}"
        for target in targets
        for leaf in target.seen_since(since)
        if leaf not in good or leaf in over
    ]


def _inventory(secret: str, certificates: Sequence[Row]) -> list[str]:
    """At most one is active; each certificate is for the key that is stored with it, but for broken ones."""
    found = [
        f"{secret}: more than one certificate is {status}"
        for status in ("active", "rotating")
        if sum(row["status"] == status for row in certificates) > 1
    ]
    for row in certificates:
        leaf = x509.load_pem_x509_certificate(row["chain_pem"].encode())
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        stored = {row["spki_sha256"], row["key_spki_sha256"]}
        if not row["broken"] and stored != {hashlib.sha256(spki).digest()}:
            found.append(f"{secret}: generation {row['generation']} is not for its key")
        if row["broken"] and row["status"] in {"active", "rotating"}:
            found.append(f"{secret}: the broken generation {row['generation']} is {row['status']}")
    return found
