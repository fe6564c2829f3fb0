"""A random walk on PostgreSQL: whatever happens in whatever order, the inventory's promises hold.

Two workers claim, crash, fail, store; Targets prove, some never; gates reject; an operator rotates and
changes; time passes. After every step the promises are checked against the rows.
"""

from collections import Counter
from contextlib import suppress
from datetime import timedelta
from random import Random
from uuid import uuid4

import pytest

from sds_server.errors import Conflict, StaleLease
from sds_server.inventory import (
    certificates,
    declarations,
    issuances,
    orders,
    revocations,
    roll_outs,
    rotations,
    targets,
)
from sds_server.lifecycle.states import TRANSITIONS, Event
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    KeyId,
    Reason,
    RevocationReason,
    SealedKey,
)
from tests.support import pki
from tests.support.databases import turn_clock
from tests.support.issuances import LEASE, secret
from tests.support.roll_outs import confirm

STEPS = 300
SECRETS = ("one", "two")
LIFE = timedelta(days=90)
CHAIN = pki.authority().issue(["www.example.test"]).chain_pem
"""What is within is not what is walked through."""

S = CertificateStatus


class Walk:
    """What can happen, each by name, and what must hold whenever it has."""

    def __init__(self, database, sql, seed):
        self.database = database
        self.sql = sql
        self.rng = Random(seed)
        self.now = timedelta(0)
        self.epoch = None
        self.claims = {"a": None, "b": None}
        self.domains = {name: (f"{name}.example.test",) for name in SECRETS}
        self.targets = {}
        self.trail = []
        self.status = {}
        self.audited = 0
        self.seen = Counter()

    async def begin(self):
        self.epoch = await self.sql.fetchval("SELECT certvoy_now()")
        for name in SECRETS:
            await self.declare(name)
            for number in (1, 2):
                target = f"{name}-{number}"
                self.targets[target] = await targets.register(
                    self.database,
                    target,
                    probe="127.0.0.1:1",
                    identity=None,
                    node_id=None,
                    serves=[name],
                    actor="p",
                )

    async def declare(self, name):
        declared = secret(name, self.domains[name])
        await declarations.put(self.database, declared, actor="person:test")
        return declared

    # What can happen

    async def claim(self):
        replica = self.rng.choice("ab")
        if self.claims[replica] is None:
            self.claims[replica] = await rotations.claim(self.database, replica=replica, lease_for=LEASE)

    async def crash(self):
        self._let_go()

    async def store(self):
        claim = self._let_go()
        if claim is not None:
            await self._under_lease(self._store(claim))

    async def fail(self):
        claim = self._let_go()
        if claim is not None:
            await self._under_lease(
                rotations.fail(
                    self.database,
                    claim.lease,
                    error={"what": "no"},
                    pause=timedelta(minutes=self.rng.randrange(5)),
                    abandon_order=self.rng.random() < 0.5,
                    actor="r",
                )
            )

    async def extend(self):
        claim = self.claims[self.rng.choice("ab")]
        if claim is not None:
            await self._under_lease(rotations.extend(self.database, claim.lease, lease_for=LEASE))

    async def prove(self):
        name = self.rng.choice(SECRETS)
        roll_out = await roll_outs.get(self.database, name)
        if roll_out is not None:
            proved = [self.targets[f"{name}-{number}"] for number in (1, 2) if self.rng.random() < 0.6]
            await confirm(self.database, roll_out, proved=proved, actor="r")

    async def prove_late(self):
        """A proof of a roll-out that may be over by now."""
        name = self.rng.choice(SECRETS)
        roll_out = await roll_outs.get(self.database, name)
        if roll_out is not None:
            await self.rng.choice([self.operate, self.reject, self.due])()
            proved = [self.targets[f"{name}-{number}"] for number in (1, 2)]
            await confirm(self.database, roll_out, proved=proved, actor="r")

    async def reject(self):
        rows = await self.sql.fetch("SELECT id, secret FROM certificate ORDER BY id")
        if rows:
            row = self.rng.choice(rows)
            await roll_outs.reject(self.database, row["secret"], row["id"], error={"what": "gate"}, actor="r")

    async def operate(self):
        name = self.rng.choice(SECRETS)
        await rotations.open_for(self.database, name, reason=Reason.OPERATOR, actor="person:test")

    async def change(self):
        name = self.rng.choice(SECRETS)
        self.domains[name] = (f"{self.rng.randrange(3)}.{name}.example.test",)
        await self.declare(name)

    async def revoke(self):
        rows = await self.sql.fetch("SELECT secret, generation FROM certificate ORDER BY id")
        if rows:
            row = self.rng.choice(rows)
            with suppress(Conflict):
                await revocations.request(
                    self.database,
                    row["secret"],
                    generation=row["generation"],
                    reason=RevocationReason.SUPERSEDED,
                    at_once=self.rng.random() < 0.3,
                    actor="person:test",
                )

    async def ask_the_ca(self):
        claim = await revocations.claim(self.database, hold_for=LEASE)
        if claim is not None and self.rng.random() < 0.8:
            await revocations.done(self.database, claim.cert_id, actor="r")
            self.seen["revoked"] += 1

    async def due(self):
        await rotations.open_due(self.database, limit=10, actor="r")

    async def lapse(self):
        await certificates.lapse(self.database, limit=10, actor="r")

    async def pass_minutes(self):
        await self._pass(timedelta(minutes=self.rng.randrange(1, 5)))

    async def pass_weeks(self):
        await self._pass(timedelta(weeks=self.rng.randrange(1, 6)))

    def _let_go(self):
        """Return the claim of a worker that has one, and make it forget it."""
        busy = [replica for replica, claim in self.claims.items() if claim is not None]
        if not busy:
            return None
        replica = self.rng.choice(busy)
        claim, self.claims[replica] = self.claims[replica], None
        return claim

    async def _pass(self, time):
        self.now += time
        await turn_clock(self.sql, self.now)

    async def _under_lease(self, write):
        try:
            await write
        except StaleLease:
            self.seen["stale"] += 1

    async def _store(self, claim):
        declared = secret(claim.lease.secret, self.domains[claim.lease.secret])
        key = SealedKey(
            key_id=KeyId(uuid4()),
            purpose="leaf",
            spki_sha256=self.rng.randbytes(32),
            suite=1,
            envelope=b"envelope",
            dek_wrapped=b"dek",
            kek_uri="local:test",
            kek_version=1,
        )
        await orders.abandon(self.database, claim.lease, actor="r")
        await orders.plan(self.database, claim.lease, declared, csr=b"csr", key=key, actor="r")
        begins = self.epoch + self.now
        await issuances.store(
            self.database,
            claim.lease,
            Certificate(
                id=CertificateId(uuid4()),
                secret=declared.name,
                generation=0,
                status=S.ISSUED,
                domains=declared.domains,
                issuer=declared.issuer,
                serial_number=f"{self.rng.getrandbits(100):x}",
                not_before=begins,
                not_after=begins + LIFE,
                fingerprint=f"{self.rng.getrandbits(256):064x}",
                key_id=key.key_id,
                key_ref=key.key_ref,
                chain_pem=CHAIN,
                renew_at=begins + LIFE * 2 / 3,
            ),
            spki_sha256=key.spki_sha256,
            order_url=None,
            renew_reason="test",
            actor="r",
        )
        self.seen["stored"] += 1

    # What must hold

    async def step(self):
        action = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self.trail.append(action)
        await getattr(self, action)()
        await self.check()

    async def check(self):
        rows = await self.sql.fetch("SELECT id, secret, generation, status, not_after FROM certificate")
        for name in SECRETS:
            mine = [row for row in rows if row["secret"] == name]
            counts = Counter(row["status"] for row in mine)
            assert counts["issued"] + counts["active"] + counts["expiring_soon"] <= 1, "one is current"
            assert counts["rotating"] <= 1, "one is on its way out"
            assert sorted(row["generation"] for row in mine) == [*range(1, len(mine) + 1)], "generations"
            await self._check_served(name, mine)
            await self._check_rotation(name, mine)
        await self._check_moves(rows)

    async def _check_served(self, name, mine):
        (served,) = (await certificates.served(self.database, [name])).values()
        alive = [row for row in mine if row["status"] not in {"replaced", "rejected", "revoked"}]
        newest = max(alive, key=lambda row: row["generation"], default=None)
        assert served.cert_id == (newest and newest["id"]), "the highest that is not over is served"
        beside = await self.sql.fetchrow(
            "SELECT served_generation, served_until FROM secret WHERE name = $1", name
        )
        assert tuple(beside) == ((newest["generation"], newest["not_after"]) if newest else (None, None)), (
            "what is served stands beside the secret"
        )
        states = {row["status"] for row in mine}
        if "revoked" not in states and states - {"rejected"}:
            assert served.cert_id is not None, "what was stored and not rejected is served, or its successor"

    async def _check_rotation(self, name, mine):
        open_ones = await self.sql.fetch(
            "SELECT cert_id, new_cert_id, leased_until, nullif(needed_by, 'infinity') AS needed_by"
            " FROM certrotation"
            " WHERE secret = $1 AND completed_at IS NULL",
            name,
        )
        assert len(open_ones) <= 1, "one open rotation"
        status = {row["id"]: row["status"] for row in mine}
        ends = {row["id"]: row["not_after"] for row in mine}
        for row in open_ones:
            assert row["needed_by"] == ends.get(row["new_cert_id"] or row["cert_id"]), "how urgent it is"
            assert row["new_cert_id"] is None or row["leased_until"] is None, "a roll-out has no lease"
            assert row["new_cert_id"] is None or status[row["new_cert_id"]] in {"issued", "active", "expired"}
        if not open_ones:
            assert not {"rotating", "expiring_soon"} & set(status.values()), "somebody is at it, or will be"
            assert "active" in status.values(), "a secret without work has a certificate that is proved"

    async def _check_moves(self, rows):
        """Every status is where the audit's events lead: one entry a change, and each in the table."""
        entries = await self.sql.fetch(
            "SELECT cert_id, payload::jsonb ->> 'event' AS event, action FROM certaudit WHERE id > $1"
            " AND (payload::jsonb ? 'event' OR action = 'certificate.issued') ORDER BY id",
            self.audited,
        )
        self.audited = await self.sql.fetchval("SELECT max(id) FROM certaudit")
        for entry in entries:
            if entry["action"] == "certificate.issued":
                assert entry["cert_id"] not in self.status
                self.status[entry["cert_id"]] = S.ISSUED
            else:
                move = self.status[entry["cert_id"]], Event(entry["event"])
                assert move in TRANSITIONS, f"{move} is not in the table"
                self.status[entry["cert_id"]] = TRANSITIONS[move]
                self.seen[move] += 1
        assert self.status == {row["id"]: row["status"] for row in rows}, "every change has its audit entry"


WEIGHTS = {
    "claim": 20,
    "store": 20,
    "prove": 12,
    "fail": 5,
    "crash": 3,
    "extend": 4,
    "prove_late": 3,
    "reject": 4,
    "operate": 10,
    "change": 2,
    "revoke": 6,
    "ask_the_ca": 9,
    "due": 6,
    "lapse": 4,
    "pass_minutes": 8,
    "pass_weeks": 3,
}


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_promises_hold(database, sql, seed):
    walk = Walk(database, sql, seed)
    await walk.begin()
    try:
        for _ in range(STEPS):
            await walk.step()
    except Exception as e:
        pytest.fail(f"seed {seed}, step {len(walk.trail)}, after {walk.trail[-12:]}: {e!r}")

    assert walk.seen["revoked"], f"seed {seed}: nothing was revoked"
    assert walk.seen["stored"] > 5, f"seed {seed}: nothing much happened"
