"""The stapler: what a responder says goes along with the certificate, and nothing waits for it."""

import math
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from sds_server.errors import Unavailable
from sds_server.inventory import certificates, progress, revocations, rotations, staples
from sds_server.lifecycle import stapler
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.stapler import Stapler
from sds_server.model import CertificateStatus, Reason, RevocationReason
from sds_server.staples.responder import DEADLINE_S
from sds_server.targets.guarded import ANYWHERE
from sds_server.xds import codec
from sds_server.xds.catalog import PENDING, Catalog
from tests.support import pki
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.responder import REVOKED, Responder


class Replica:
    """A Stapler, and a Publisher with a Catalog in which www is watched."""

    def __init__(self, issuances, sql, **options):
        self.clock, self.catalog, self.changed = TurnedClock(), Catalog(), []
        self.database = CuttableDatabase(issuances.database)
        self.answers = []
        self._sql = sql
        self.stapler = Stapler(
            database=self.database,
            allowed=options.get("allowed", ANYWHERE),
            without=options.get("without", []),
            clock=self.clock,
            rng=Random(1),
            actor="replica:test",
        )
        self.stapler.on_answer = self.answers.append
        self.publisher = Publisher(
            database=self.database,
            sealer=issuances.sealer,
            catalog=self.catalog,
            version_key=b"k" * 32,
            clock=self.clock,
            actor="replica:test",
        )
        self.catalog.on_want = self.publisher.want
        self.catalog.watch(["www"], self.changed.append)

    async def step(self):
        await self.stapler.step()
        await self.publisher.step()
        return self.catalog.look("www")

    async def turn(self, forward):
        """Both clocks."""
        self.clock.turn(forward)
        await turn_clock(self._sql, timedelta(seconds=self.clock.monotonic()))


@pytest.fixture
async def responder(issuances):
    async with Responder(issuances.ca) as responder:
        issuances.responder = responder.url
        yield responder


@pytest.fixture
def replica(issuances, sql):
    return Replica(issuances, sql)


async def issue(issuances, responder, declared=None):
    certificate = await issuances.issue(declared or await issuances.declare())
    leaf = x509.load_pem_x509_certificate(certificate.chain_pem)
    responder.known[leaf.serial_number] = leaf
    return certificate


def staple(resource):
    return codec.staple_of(resource.body)


async def test_a_certificate_goes_out_at_once_and_its_staple_when_it_is_there(issuances, responder, replica):
    await issue(issuances, responder)
    await replica.publisher.step()
    first = replica.catalog.look("www")
    second = await replica.step()

    assert staple(first) is None
    assert staple(second) is not None
    assert (1, 1) == (first.generation, second.generation)
    assert first == second.unstapled
    assert ["good"] == replica.answers


@pytest.fixture
def first(issuances, responder, replica):
    """Issue a certificate as a worker does; ``is_known``: whether its responder knows of it already."""

    async def first(*, is_known=True):
        async def asked(chain):
            first.leaves = [chain.leaf]
            if is_known:
                responder.known[chain.leaf.serial_number] = chain.leaf
            return await replica.stapler.first(chain, "internal", [issuances.ca.certificate])

        declared = await issuances.declare()
        await issuances.store(await issuances.claim(), declared, first_staple=asked)
        await replica.publisher.step()
        return replica.catalog.look("www")

    return first


async def test_a_new_certificate_goes_out_with_its_staple(first, replica, responder):
    resource = await first()
    again = await replica.step()

    assert staple(resource) is not None
    assert (1, resource) == (len(responder.asked), again)
    assert ["good"] == replica.answers


@pytest.mark.parametrize("what", ["does not know it yet", "is down", "does not answer"])
async def test_without_an_answer_at_once_it_goes_without_and_the_staple_follows(
    first, replica, responder, monkeypatch, what
):
    monkeypatch.setattr(stapler, "FIRST_S", 0.05)
    responder.down, responder.holds = what == "is down", what == "does not answer"
    resource = await first(is_known=what != "does not know it yet")
    responder.down = responder.holds = False
    responder.known |= {leaf.serial_number: leaf for leaf in first.leaves}

    assert staple(resource) is None
    assert staple(await replica.step()) is not None


async def test_a_new_staple_is_no_rotation(issuances, responder, replica, database):
    """Nothing that was proved is asked for again."""
    await issue(issuances, responder)
    await replica.step()
    before = await progress.latest(database, "www")
    await replica.turn(timedelta(days=2, hours=6))
    responder.begins = replica.clock.now()
    await replica.step()

    assert ["good", "good"] == replica.answers
    assert before == await progress.latest(database, "www")


async def test_it_is_refreshed_at_half_of_its_life_and_not_before(issuances, responder, replica):
    await issue(issuances, responder)
    first = await replica.step()
    await replica.turn(timedelta(days=1))
    responder.begins = replica.clock.now()
    same = await replica.step()
    await replica.turn(timedelta(days=1, hours=6))
    second = await replica.step()

    assert first == same
    assert staple(first) != staple(second)
    assert first.unstapled == second.unstapled


async def test_an_older_answer_that_is_repeated_replaces_no_newer_one(issuances, responder, replica):
    """Anybody on the way can repeat it: it would end sooner, or hide what has been said since."""
    await issue(issuances, responder)
    responder.begins = datetime.now(UTC) - timedelta(days=1)
    await replica.step()
    await replica.turn(timedelta(days=1, hours=12))
    responder.begins = replica.clock.now()
    newer = await replica.step()
    await replica.turn(timedelta(days=2, hours=6))
    responder.begins, responder.lasts = datetime.now(UTC), timedelta(days=30)
    after = await replica.step()

    assert ["good", "good", "unchanged"] == replica.answers
    assert staple(newer) == staple(after)


def test_all_that_is_claimed_is_asked_about_while_it_is_kept_from_others():
    rounds = math.ceil(stapler.BATCH / stapler.AT_ONCE)

    assert rounds * timedelta(seconds=DEADLINE_S) < staples.LEASE


async def test_one_replica_asks_for_all(issuances, responder, sql):
    await issue(issuances, responder)
    replicas = [Replica(issuances, sql) for _ in range(2)]
    resources = [await replica.step() for replica in replicas]

    assert ["GET"] == responder.asked
    assert resources[0] == resources[1]


async def test_who_died_asking_keeps_the_others_away_only_for_its_lease(issuances, responder, replica):
    await issue(issuances, responder)
    await staples.claim(issuances.database, limit=9, without=[])
    await replica.stapler.step()
    early = list(replica.answers)
    await replica.turn(staples.LEASE)
    await replica.stapler.step()

    assert ([], ["good"]) == (early, replica.answers)


async def test_a_responder_that_is_down_stops_nothing(issuances, responder, replica):
    responder.down = True
    certificate = await issue(issuances, responder)
    resource = await replica.step()
    said = await staples.of(issuances.database, certificate.id)

    assert (1, None) == (resource.generation, staple(resource))
    assert "HTTP 503" in said.error["what"]
    assert ["failed"] == replica.answers


async def test_one_that_is_back_is_asked_again_after_a_pause(issuances, responder, replica):
    responder.down = True
    await issue(issuances, responder)
    await replica.step()
    responder.down = False
    soon = await replica.step()
    await replica.turn(timedelta(minutes=1))

    assert staple(soon) is None
    assert staple(await replica.step()) is not None


async def test_a_staple_that_has_ended_is_taken_off(issuances, responder, replica):
    await issue(issuances, responder)
    first = await replica.step()
    responder.down = True
    await replica.turn(timedelta(days=4))
    with capture_logs() as logs:
        resource = await replica.step()

    assert first.unstapled == resource
    assert "staple.ended" in [line["event"] for line in logs]


async def test_also_while_the_database_is_away(issuances, responder, replica):
    await issue(issuances, responder)
    first = await replica.step()
    replica.changed.clear()
    replica.database.cut()
    replica.clock.turn(timedelta(days=4))
    with pytest.raises(Unavailable):
        await replica.publisher.step()

    assert first.unstapled == replica.catalog.look("www")
    assert ["www"] == replica.changed


async def test_a_revoked_certificate_is_never_stapled_and_gets_a_successor(
    issuances, responder, replica, database
):
    responder.says = REVOKED
    certificate = await issue(issuances, responder)
    with capture_logs() as logs:
        resource = await replica.step()
    (revocation,) = await revocations.of_secret(database, "www")
    claim = await issuances.claim()

    assert PENDING == resource
    assert CertificateStatus.REVOKED == (await certificates.get(database, certificate.id)).certificate.status
    assert (RevocationReason.UNSPECIFIED, True) == (revocation.reason, revocation.done_at is not None)
    assert Reason.REVOKED == claim.reason
    assert ["staple.revoked"] == [line["event"] for line in logs if line["log_level"] == "error"]
    assert ["revoked"] == replica.answers


async def test_who_has_the_revoked_one_keeps_it_until_the_next(issuances, responder, replica):
    await issue(issuances, responder)
    first = await replica.step()
    await replica.turn(timedelta(days=2, hours=6))
    responder.says, responder.begins = REVOKED, replica.clock.now()
    revoked = await replica.step()
    responder.says = x509.ocsp.OCSPCertStatus.GOOD
    declared = await issuances.declare()
    await issue(issuances, responder, declared)
    second = await replica.step()

    assert (1, PENDING, 2) == (first.generation, revoked, second.generation)
    assert staple(second) is not None


async def test_one_that_must_be_stapled_waits_for_its_staple(issuances, responder, replica):
    issuances.must_staple = responder.down = True
    await issue(issuances, responder)
    with capture_logs() as logs:
        without = await replica.step()
    responder.down = False
    await replica.turn(timedelta(minutes=1))
    resource = await replica.step()

    assert PENDING == without
    assert any("must be stapled" in line.get("error", "") for line in logs)
    assert staple(resource) is not None
    assert resource.instead is None


async def test_and_keeps_what_it_has_when_that_has_ended(issuances, responder, replica):
    """Whoever is given it without a staple refuses it: the last good content stays, and a person is told."""
    issuances.must_staple = True
    await issue(issuances, responder)
    first = await replica.step()
    responder.down = True
    await replica.turn(timedelta(days=4))
    with capture_logs() as logs:
        resource = await replica.step()

    assert (first.version, first.body) == (resource.version, resource.body)
    assert "staple.overdue" in [line["event"] for line in logs]


async def test_a_successor_that_must_be_stapled_leaves_the_one_before_in_place(issuances, responder, replica):
    declared = await issuances.declare()
    await issue(issuances, responder, declared)
    first = await replica.step()
    issuances.must_staple = responder.down = True
    await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issue(issuances, responder, declared)

    assert first == await replica.step()


async def test_a_staple_of_another_certificate_in_the_inventory_never_leaves(
    issuances, responder, replica, sql
):
    certificate = await issue(issuances, responder)
    await replica.stapler.step()
    other = issuances.ca.issue(["other.example.test"]).certificate
    await sql.execute(
        "UPDATE staple SET response = $2 WHERE cert_id = $1", certificate.id, pki.staple(issuances.ca, other)
    )
    with capture_logs() as logs:
        await replica.publisher.step()

    assert staple(replica.catalog.look("www")) is None
    assert ["staple.withheld"] == [line["event"] for line in logs if line["log_level"] == "error"]


async def test_an_issuer_that_is_not_stapled_is_not_asked(issuances, responder, sql):
    replica = Replica(issuances, sql, without=["internal"])
    await issue(issuances, responder)

    assert staple(await replica.step()) is None
    assert [] == responder.asked


async def test_what_is_over_is_asked_about_no_more(issuances, responder, replica, database):
    declared = await issuances.declare()
    first = await issue(issuances, responder, declared)
    await replica.step()
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await issue(issuances, responder, declared)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await replica.turn(timedelta(days=3))
    responder.begins = datetime.now(UTC) + timedelta(days=3)
    await replica.step()

    assert await staples.of(database, first.id) is None
