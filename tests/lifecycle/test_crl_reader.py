"""The CRL reader: what a CA revokes without us gets a successor, whoever wanted it revoked."""

from datetime import timedelta
from random import Random

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from sds_server.clock import SystemClock
from sds_server.crls import fetch
from sds_server.errors import Unavailable
from sds_server.inventory import certificates, progress, revocations, roll_outs, targets
from sds_server.lifecycle.crl_reader import CrlReader
from sds_server.lifecycle.uploads import Uploads
from sds_server.model import CertificateStatus, Reason, RevocationReason, SecretName
from sds_server.targets.guarded import ANYWHERE
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.lists import Lists
from tests.support.pki import crl, scope
from tests.support.roll_outs import confirm

PATH = "/7.crl"


class Replica:
    """A reader."""

    def __init__(self, issuances, sql, **options):
        self.clock, self.answers = TurnedClock(), []
        self.database = CuttableDatabase(issuances.database)
        self._sql = sql
        self.reader = CrlReader(
            database=self.database,
            allowed=options.get("allowed", ANYWHERE),
            without=options.get("without", []),
            clock=self.clock,
            rng=Random(1),
            actor="replica:test",
        )
        self.reader.on_answer = self.answers.append

    async def step(self):
        await self.reader.step()

    async def turn(self, forward):
        """Both clocks."""
        self.clock.turn(forward)
        await turn_clock(self._sql, timedelta(seconds=self.clock.monotonic()))


@pytest.fixture
async def lists(issuances):
    async with Lists() as lists:
        issuances.crl = lists.put(PATH, crl(issuances.ca))
        yield lists


@pytest.fixture
def replica(issuances, sql):
    return Replica(issuances, sql)


async def issue(issuances, name="www"):
    declared = await issuances.declare(name, [f"{name}.example.test"])
    certificate = await issuances.issue(declared)
    return certificate, x509.load_pem_x509_certificate(certificate.chain_pem)


async def status(database, certificate):
    return (await certificates.get(database, certificate.id)).certificate.status


async def test_a_certificate_that_is_revoked_elsewhere_gets_a_successor_at_once(
    issuances, lists, replica, database, sql
):
    certificate, leaf = await issue(issuances)
    await replica.step()
    before = await status(database, certificate)
    lists.put(PATH, crl(issuances.ca, [leaf], reason=x509.ReasonFlags.key_compromise))
    await replica.turn(timedelta(hours=6))
    with capture_logs() as logs:
        await replica.step()
    (revocation,) = await revocations.of_secret(database, "www")
    claim = await issuances.claim()
    audited = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'certificate.revoked'")

    assert (CertificateStatus.ISSUED, CertificateStatus.REVOKED) == (
        before,
        await status(database, certificate),
    )
    assert (RevocationReason.KEY_COMPROMISE, True) == (revocation.reason, revocation.done_at is not None)
    assert Reason.REVOKED == claim.reason
    assert ["crl.revoked"] == [line["event"] for line in logs if line["log_level"] == "error"]
    assert ["read", "revoked", "read"] == replica.answers
    assert '"by":"crl"' in audited


async def test_a_list_is_fetched_once_for_all_and_not_again_before_it_is_due(issuances, lists, replica):
    for name in ("one", "two", "three"):
        await issue(issuances, name)
    await replica.step()
    await replica.turn(timedelta(hours=5))
    await replica.step()

    assert [(PATH, 200)] == lists.asked


async def test_what_has_not_changed_is_not_sent_again(issuances, lists, replica):
    await issue(issuances)
    await replica.step()
    await replica.turn(timedelta(hours=6))
    await replica.step()

    assert [(PATH, 200), (PATH, 304)] == lists.asked
    assert ["read", "unchanged"] == replica.answers


async def test_one_that_has_ended_is_no_word_of_the_ca_whatever_its_server_says(issuances, lists, replica):
    """Whoever keeps the next one from us would hide a revocation by it."""
    await issue(issuances)
    lists.put(PATH, crl(issuances.ca, days=1))
    await replica.step()
    await replica.turn(timedelta(hours=30))
    await replica.step()

    assert ["read", "failed"] == replica.answers


async def test_two_replicas_look_once(issuances, lists, replica, sql):
    await issue(issuances)
    other = Replica(issuances, sql)
    await replica.step()
    await other.step()

    assert (["read"], []) == (replica.answers, other.answers)


async def test_a_server_that_is_away_is_asked_again_after_longer_and_longer(issuances, lists, replica):
    await issue(issuances)
    lists.down = True
    for minutes in (0, 1, 1, 1):
        await replica.turn(timedelta(minutes=minutes))
        await replica.step()
    lists.down = False
    await replica.turn(timedelta(minutes=4))
    await replica.step()

    assert ["failed", "failed", "failed", "read"] == replica.answers, "after 1 and 2 minutes"


async def test_a_list_that_is_not_believed_revokes_nothing(issuances, lists, replica, database):
    certificate, leaf = await issue(issuances)
    lists.put(PATH, crl(issuances.ca, [leaf], extensions=[scope("http://ca.example.test/8.crl")]))
    with capture_logs() as logs:
        await replica.step()

    assert CertificateStatus.ISSUED == await status(database, certificate)
    assert ["it is for http://ca.example.test/8.crl"] == [line.get("error") for line in logs]


async def test_a_list_without_end_is_not_read_to_its_end(issuances, lists, replica, monkeypatch):
    monkeypatch.setattr(fetch, "BYTES_MAX", 100)
    await issue(issuances)
    with capture_logs() as logs:
        await replica.step()

    assert ["failed"] == replica.answers
    assert "more than 100 bytes" in logs[-1]["error"]


async def test_partitions_are_looked_at_each_for_its_own(issuances, lists, replica, database):
    first, leaf = await issue(issuances, "one")
    issuances.crl = lists.put("/8.crl", crl(issuances.ca, extensions=[scope(f"{lists.url}/8.crl")]))
    second, _ = await issue(issuances, "two")
    lists.put(PATH, crl(issuances.ca, [leaf], extensions=[scope(f"{lists.url}{PATH}")]))
    await replica.step()

    assert {(PATH, 200), ("/8.crl", 200)} == set(lists.asked)
    assert CertificateStatus.REVOKED == await status(database, first)
    assert CertificateStatus.ISSUED == await status(database, second)


async def test_nobody_asks_about_what_is_over_until_there_is_something_new(
    issuances, lists, replica, database
):
    _, leaf = await issue(issuances)
    lists.put(PATH, crl(issuances.ca, [leaf]))
    await replica.step()
    await replica.turn(timedelta(hours=6))
    await replica.step()
    await replica.turn(timedelta(days=9))
    await replica.step()
    resting = len(lists.asked)
    await issuances.store(await issuances.claim(lease_for=timedelta(days=30)), await issuances.declare())
    await replica.step()

    assert (1, 2) == (resting, len(lists.asked))


async def test_the_lists_of_an_issuer_that_wants_none_are_not_looked_at(issuances, lists, sql):
    await issue(issuances)
    replica = Replica(issuances, sql, without=["internal"])
    await replica.step()

    assert [] == lists.asked


async def test_while_the_database_is_away_nothing_is_lost(issuances, lists, replica, database):
    certificate, leaf = await issue(issuances)
    lists.put(PATH, crl(issuances.ca, [leaf]))
    replica.database.cut()
    with pytest.raises(Unavailable):
        await replica.step()
    replica.database.heal()
    await replica.step()

    assert CertificateStatus.REVOKED == await status(database, certificate)


# What somebody brings


@pytest.fixture
def bring(issuances, database):
    """Upload a pair of the CA, under a name."""
    uploads = Uploads(database=database, sealer=issuances.sealer, clock=SystemClock(), replica="one")

    async def bring(name, *, url):
        ca = issuances.ca.intermediate("Elsewhere")
        pair = ca.issue([f"{name}.example.test"], crl=url)
        await uploads.put(
            SecretName(name), chain_pem=pair.chain_pem, private_key_pem=pair.key_pem, actor="person:test"
        )
        return ca, pair

    return bring


async def test_an_uploaded_pair_that_is_revoked_is_told_and_waits_for_a_person(lists, bring, replica, sql):
    ca, pair = await bring("bought", url=f"{lists.url}/bought.crl")
    lists.put("/bought.crl", crl(ca, [pair.certificate]))
    await replica.step()

    assert "revoked" == await sql.fetchval("SELECT status FROM certificate")
    assert 0 == await sql.fetchval("SELECT count(*) FROM certrotation WHERE reason = 'revoked'")


async def test_an_uploaded_pair_that_is_revoked_in_its_roll_out_is_taken_back(
    lists, bring, replica, database, sql
):
    """Or it would be rolled out to all, and who serves it be called proved by the one before."""
    await bring("bought", url=f"{lists.url}/first.crl")
    await targets.register(
        database, "edge-1", probe=None, identity=None, node_id=None, serves=["bought"], actor="p"
    )
    (edge,) = await targets.live_set(database, "bought")
    await confirm(database, await roll_outs.get(database, "bought"), proved=[edge.target.id], actor="r")
    ca, pair = await bring("bought", url=f"{lists.url}/second.crl")
    under_way = await roll_outs.get(database, "bought")
    await sql.execute("UPDATE delivery SET sent = 2, accepted = 2")
    lists.put("/second.crl", crl(ca, [pair.certificate]))
    await replica.step()
    late = await confirm(database, under_way, proved=[edge.target.id], actor="r")
    (edge,) = await targets.live_set(database, "bought")
    rotation = await progress.latest(database, "bought")

    assert ["expiring_soon", "revoked"] == [
        row["status"] for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation")
    ]
    assert (None, None, "revoked") == (late, rotation.outcome, rotation.last_error["rule"])
    assert (1, None) == (edge.current, edge.proved)


async def test_where_an_uploaded_certificate_points_to_our_own_machines_nobody_goes(
    issuances, lists, bring, sql
):
    await bring("bought", url=f"{lists.url}{PATH}")
    replica = Replica(issuances, sql, allowed=())
    await replica.step()

    assert [] == lists.asked
    assert ["failed"] == replica.answers
