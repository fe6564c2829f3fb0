"""Scale: what the loops read, again and again, does not grow with the certificates that nobody wants.

Without a stopwatch: PostgreSQL counts the rows that it reads. The inventory is the benchmarks', by COPY.
"""

from datetime import timedelta
from random import Random

import pytest

from benchmarks import filling
from sds_server.clock import SystemClock
from sds_server.inventory import deployment, facts, rotations
from sds_server.inventory.database import open_database
from sds_server.inventory.tokens import Tokens
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.accounts import Accounts, answers
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.census import Census
from sds_server.lifecycle.enroller import Enroller
from sds_server.lifecycle.heartbeat import Heartbeat
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.recorder import SWEEP, Recorder
from sds_server.lifecycle.revoker import Revoker
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.lifecycle.watcher import Watcher
from sds_server.lifecycle.worker import Worker
from sds_server.model import Identity
from sds_server.xds.catalog import Catalog
from sds_server.xds.service import PeerNode
from tests.support.clocks import TurnedClock

SIZE = 6_000
WANTED = 20
STEPS = 8
"""More than five: by then PostgreSQL has made the plan that it keeps."""

FEW_ROWS = 500
"""A step may read so many: some for each name that is wanted. A scan reads thousands."""

GROWING = ("secret", "certificate", "certificate_chain", "key_material", "certrotation", "certaudit")
READ = """
SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + coalesce(
       (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes i WHERE i.relid = t.relid), 0) AS rows
  FROM pg_stat_user_tables t WHERE relname = ANY ($1)
"""


class Site:
    """A replica's loops on a full inventory, over one connection: its reads are counted when it says so."""

    def __init__(self, database, sealer, clock):
        self.database = database
        self.clock = clock
        self.catalog = Catalog()
        self.recorder = Recorder(
            database=database,
            authorize=lambda _identity, _name: True,
            seen_for=timedelta(minutes=10),
            clock=clock,
            actor="r",
            replica="test/1",
            on_written=lambda _name: None,
        )
        accounts = Accounts(database=database, sealer=sealer, actor="r")
        enroller = Enroller(
            database=database,
            sealer=sealer,
            trust_domain="certvoy",
            lifetime=timedelta(hours=24),
            clock=clock,
            actor="r",
        )
        publisher = Publisher(
            database=database,
            sealer=sealer,
            catalog=self.catalog,
            version_key=bytes(32),
            clock=clock,
            actor="r",
        )
        self.catalog.on_want = publisher.want
        patience = Patience(database=database, issuers={}, answers=answers, actor="replica:test")
        worker = Worker(
            database=database,
            sealer=sealer,
            issuers={},
            accounts=accounts,
            patience=patience,
            lease_for=timedelta(minutes=1),
            replica="r",
            clock=clock,
            rng=Random(1),
        )
        revoker = Revoker(
            database=database,
            sealer=sealer,
            issuers={},
            accounts=accounts,
            patience=patience,
            clock=clock,
            rng=Random(1),
            actor="r",
        )
        admission = Admission(
            database=database, enroller=enroller, configured=[], trust_domain="certvoy", clock=clock
        )
        self.loops = {
            "scheduler": Scheduler(
                database=database, tokens=Tokens(database), clock=SystemClock(), actor="r"
            ).step,
            "worker": worker.step,
            "revoker": revoker.step,
            "prover": Prover(database=database, settle=timedelta(0), clock=clock, actor="r").step,
            "publisher": publisher.step,
            "recorder": self.recorder.step,
            "admission": admission.step,
            "census": Census(database=database, clock=clock).step,
            "heartbeat": Heartbeat(
                database=database,
                token="test/1",
                name="test",
                clock=clock,
                actor="r",
                on_lapsed=self.recorder.refresh,
                on_rolled_up=lambda _name: None,
            ).step,
            "patience": patience.step,
            "watcher": Watcher(database=database, every=timedelta(minutes=5), clock=clock, actor="r").step,
        }

    async def read(self):
        """Return the rows read of each growing table so far."""
        async with self.database.transaction() as tx:
            await tx._connection.execute("SELECT pg_stat_force_next_flush()")
        async with self.database.transaction() as tx:
            await tx._connection.execute("SELECT pg_stat_clear_snapshot()")
            return {row["relname"]: row["rows"] for row in await tx._connection.fetch(READ, GROWING)}

    async def rows_of(self, step):
        """Take a step so often that its plans are those that stay, and return what the last one read."""
        for _ in range(STEPS):
            await step()
        before = await self.read()
        await step()
        after = await self.read()
        return {table: after[table] - before[table] for table in GROWING if after[table] > before[table]}


@pytest.fixture
async def site(connect, database, sql, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "DATES_MAX", 50)  # as small beside this inventory as 10,000 beside a million
    monkeypatch.setattr(facts, "COUNTED_EVERY", timedelta(0))
    monkeypatch.setattr(facts, "SHARE", 0)
    identity, _ = await deployment.identify(database)
    sealer = Sealer(LocalKms(tmp_path / "kek", create=True), deployment=identity, clock=SystemClock())
    ca = filling.new_ca("test CA")
    wanted = [await filling.pair(sealer, ca, number) for number in range(WANTED)]
    await filling.fill(sql, size=SIZE, wanted=wanted, ca=ca)
    one = await open_database(connect, size=1)
    yield Site(one, sealer, TurnedClock())
    await one.close()


async def test_no_loop_reads_what_is_well_and_wanted_by_nobody(site, sql):
    names = [filling.name(number) for number in range(WANTED)]
    site.catalog.watch(names, lambda _name: None)
    for name in names:
        peer = PeerNode(Identity("spiffe://fleet/edge"), f"edge of {name}")
        site.recorder.subscribed(peer, name)
        site.recorder.refused(peer, name, "v1", 1, "no")
    read = {loop: await site.rows_of(step) for loop, step in site.loops.items()}

    assert read["publisher"], "what is read is counted"
    assert WANTED == await sql.fetchval("SELECT count(*) FROM delivery")
    assert {} == {loop: rows for loop, rows in read.items() if sum(rows.values()) > FEW_ROWS}


async def test_no_sweep_reads_what_is_well(site, sql):
    for number in range(WANTED):
        peer = PeerNode(Identity("spiffe://fleet/edge"), f"edge-{number}")
        site.recorder.refused(peer, filling.name(number), "v1", 1, "no")

    async def sweep():
        site.clock.turn(SWEEP)
        await site.recorder.step()

    assert FEW_ROWS > sum((await site.rows_of(sweep)).values())
    assert WANTED == await sql.fetchval("SELECT count(*) FROM refused_content")


async def test_claiming_reads_no_more_where_thousands_wait(site, sql):
    """First issuances, of which the most urgent renewal is found at once all the same."""
    await sql.execute("INSERT INTO certrotation (secret, reason) SELECT name, 'initial' FROM secret")
    await sql.execute("ANALYZE certrotation")
    claimed = []

    async def claim():
        claimed.append(await rotations.claim(site.database, replica="r", lease_for=timedelta(minutes=1)))

    read = await site.rows_of(claim)

    assert STEPS + 1 == len({found.lease.secret for found in claimed})
    assert 12 * rotations.WINDOW > sum(read.values()), read


async def test_opening_what_is_due_reads_no_more_where_thousands_are(site, sql):
    await sql.execute("UPDATE certificate SET renew_at = now() - interval '1 h'")
    await sql.execute("ANALYZE certificate")

    async def open_some():
        assert 5 == await rotations.open_due(site.database, limit=5, actor="r")

    read = await site.rows_of(open_some)

    assert 15 * 5 * rotations.LONGEST_DUE > sum(read.values()), read


async def test_tryings_again_do_not_hide_what_nobody_has_tried(site, sql):
    """A CA is away, and hundreds of its Rotations are due again: one of another CA is claimed among them."""
    await sql.execute(
        "INSERT INTO certrotation (secret, reason, attempts) SELECT name, 'renewal', 1 FROM secret LIMIT 500"
    )
    (urgent,) = await sql.fetch(
        "SELECT id, secret FROM certificate WHERE secret = $1", filling.name(SIZE - 1)
    )
    await sql.execute("UPDATE certificate SET not_after = now() + interval '1 h' WHERE id = $1", urgent["id"])
    await sql.execute("DELETE FROM certrotation WHERE secret = $1 AND completed_at IS NULL", urgent["secret"])
    await rotations.open_for(site.database, urgent["secret"], reason=rotations.Reason.OPERATOR, actor="p")
    claim = await rotations.claim(site.database, replica="r", lease_for=timedelta(minutes=1))

    assert urgent["secret"] == claim.lease.secret


async def test_the_census_of_a_full_inventory_is_exact(site, sql):
    found = await facts.read(site.database)

    assert {"valid": SIZE, "expired": 0, "none": 0} == found.secrets
    assert 50 == len(found.dates)
