"""The publisher: what the inventory holds is in the Catalog, and what the gate refuses never is."""

from datetime import timedelta

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as EnvoySecret
from structlog.testing import capture_logs

from acme_engine import keys
from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import deployment, on_demand, pauses, progress, rotations
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle import publisher as publishers
from sds_server.lifecycle.publisher import FORGET_AFTER, Publisher
from sds_server.model import Reason
from sds_server.on_demand.rules import Rule
from sds_server.xds.catalog import ABSENT, PENDING, Catalog
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase, pair_of

VERSION_KEY = b"k" * 32


class Replica:
    """A Publisher with a Catalog of its own, that somebody watches names in."""

    def __init__(self, issuances, *, database=None, sealer=None):
        self.clock = TurnedClock()
        self.catalog = Catalog()
        self.publisher = Publisher(
            database=database or issuances.database,
            sealer=sealer or issuances.sealer,
            catalog=self.catalog,
            version_key=VERSION_KEY,
            clock=self.clock,
            actor="replica:test",
        )
        self.catalog.on_want = self.publisher.want
        self.changed = []

    async def watch(self, name="www"):
        self.catalog.watch([name], self.changed.append)
        await self.publisher.step()
        return self.catalog.look(name)

    async def step(self, name="www"):
        await self.publisher.step()
        return self.catalog.look(name)


@pytest.fixture
def replica(issuances):
    return Replica(issuances)


def content(resource):
    secret = EnvoySecret.FromString(resource.body)
    chain, key = secret.tls_certificate.certificate_chain, secret.tls_certificate.private_key
    return secret.name, chain.inline_bytes, key.inline_bytes


async def rotate(issuances):
    await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")


async def mismatched(issuances, declared):
    """Store a chain that belongs to another key, as a broken restore would."""
    other = issuances.ca.issue(dns=list(declared.domains))
    return await issuances.store(await issuances.claim(), declared, chain_of=other)


async def test_a_name_that_nobody_declared_is_absent(replica):
    assert ABSENT == await replica.watch("nobody")


async def test_a_declared_secret_without_a_certificate_is_pending(issuances, replica):
    await issuances.declare()

    assert PENDING == await replica.watch()


async def test_a_name_that_was_wanted_before_it_was_declared_is_told_of_once(issuances, replica):
    told = []
    replica.publisher.on_declared = told.append
    absent = await replica.watch()
    await issuances.declare()
    await replica.step()
    await replica.step()

    assert absent is ABSENT
    assert ["www"] == told


async def test_an_issued_certificate_is_published_with_its_chain_and_key(issuances, replica):
    certificate = await issuances.issue(await issuances.declare())
    resource = await replica.watch()
    name, chain, key = content(resource)

    assert ("www", 1) == (resource.name, resource.generation)
    assert ("www", certificate.chain_pem) == (name, chain)
    assert (await pair_of(issuances, certificate)).key_pem == key


async def test_who_watches_a_pending_name_is_woken_by_its_certificate(issuances, replica):
    declared = await issuances.declare()
    await replica.watch()
    replica.changed.clear()
    await issuances.issue(declared)
    await replica.step()

    assert ["www"] == replica.changed


async def test_a_new_generation_replaces_the_one_before(issuances, replica):
    declared = await issuances.declare()
    await issuances.issue(declared)
    first = await replica.watch()
    await rotate(issuances)
    certificate = await issuances.issue(declared)
    second = await replica.step()

    assert 2 == second.generation
    assert certificate.chain_pem == content(second)[1]
    assert first.version != second.version


async def test_what_did_not_change_wakes_nobody(issuances, replica):
    await issuances.issue(await issuances.declare())
    await replica.watch()
    replica.changed.clear()
    await replica.step()

    assert [] == replica.changed


async def test_two_replicas_give_one_content_one_version(issuances, replica):
    await issuances.issue(await issuances.declare())

    assert await replica.watch() == await Replica(issuances).watch()


async def test_a_chain_of_another_key_never_leaves_and_what_was_served_stays(issuances, replica):
    declared = await issuances.declare()
    await issuances.issue(declared)
    served = await replica.watch()
    await rotate(issuances)
    await mismatched(issuances, declared)

    assert served == await replica.step()
    assert served == await replica.step()


async def test_what_the_gate_refuses_is_rejected_and_its_rotation_told_why(issuances, replica, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    await rotate(issuances)
    await mismatched(issuances, declared)
    await replica.watch()
    rotation = await progress.latest(issuances.database, "www")

    assert [("expiring_soon",), ("rejected",)] == [
        tuple(row) for row in await sql.fetch("SELECT status FROM certificate ORDER BY generation")
    ]
    assert (None, None) == (rotation.new_cert_id, rotation.outcome)
    assert "key" == rotation.last_error["rule"]
    assert rotation.last_error["what"].startswith("the content gate refused it: ")


async def test_a_good_one_after_a_refused_one_is_published(issuances, replica, sql):
    declared = await issuances.declare()
    await issuances.issue(declared)
    await replica.watch()
    await rotate(issuances)
    await mismatched(issuances, declared)
    await replica.step()
    await turn_clock(sql, timedelta(hours=1))
    await issuances.issue(declared)

    assert 3 == (await replica.step()).generation


async def test_a_fresh_replica_serves_the_generation_before_the_refused_one(issuances, replica):
    declared = await issuances.declare()
    await issuances.issue(declared)
    served = await replica.watch()
    await rotate(issuances)
    await mismatched(issuances, declared)
    fresh = Replica(issuances)
    await fresh.watch()  # refuses it

    assert served == await fresh.step()


async def test_a_first_certificate_that_is_refused_leaves_the_name_pending(issuances, replica):
    await mismatched(issuances, await issuances.declare())
    await replica.watch()

    assert PENDING == await replica.step()


async def test_a_refusal_that_the_database_did_not_take_is_made_again(issuances):
    """Else the certificate is neither served nor rejected, and its Rotation never goes on."""
    declared = await issuances.declare()
    await mismatched(issuances, declared)
    cuttable = CuttableDatabase(issuances.database)
    replica = Replica(issuances, database=cuttable)
    cuttable.cut(after=2)  # what is served, and its pair, but not the refusal
    with pytest.raises(Unavailable):
        await replica.watch()
    cuttable.heal()
    await replica.step()

    assert (await progress.latest(issuances.database, "www")).last_error["rule"] == "key"


async def test_a_pair_out_of_its_dates_is_held_back_and_not_rejected_for_everybody(issuances, replica, sql):
    """The clock that says so may be this replica's alone."""
    await issuances.issue(await issuances.declare())
    replica.clock.turn(timedelta(days=91))

    assert PENDING == (await replica.watch() or await replica.step())
    assert "issued" == await sql.fetchval("SELECT status FROM certificate")
    replica.clock.turn(timedelta(days=-91))
    await replica.step()
    assert 1 == replica.catalog.look("www").generation


async def test_another_kek_is_logged_and_rejects_nothing(issuances, tmp_path, sql):
    """It is this replica's fault, not the certificate's: all others serve it."""
    await issuances.issue(await issuances.declare())
    identity, _ = await deployment.identify(issuances.database)
    other = Sealer(LocalKms(tmp_path / "other-kek", create=True), deployment=identity, clock=SystemClock())
    with capture_logs() as logs:
        entry = await Replica(issuances, sealer=other).watch()

    assert entry is None
    assert ["key.unopened"] == [log["event"] for log in logs]
    assert "issued" == await sql.fetchval("SELECT status FROM certificate")


async def test_one_key_that_cannot_be_opened_holds_up_no_other_secret(issuances, replica, sql):
    await issuances.issue(await issuances.declare("a", ["a.example.test"]))
    await issuances.issue(await issuances.declare("b", ["b.example.test"]))
    await sql.execute(
        "UPDATE key_material SET dek_wrapped = '\\x00' WHERE id = (SELECT key_id FROM certificate"
        " WHERE secret = 'a')"
    )
    await replica.watch("a")

    assert 1 == (await replica.watch("b")).generation


async def test_without_the_database_what_is_known_is_served_on(issuances):
    cuttable = CuttableDatabase(issuances.database)
    replica = Replica(issuances, database=cuttable)
    await issuances.issue(await issuances.declare())
    served = await replica.watch()
    cuttable.cut()
    with pytest.raises(Unavailable):
        await replica.step()

    assert served == replica.catalog.look("www")


async def test_a_name_wanted_while_the_database_is_down_is_loaded_when_it_is_back(issuances):
    cuttable = CuttableDatabase(issuances.database)
    replica = Replica(issuances, database=cuttable)
    await issuances.issue(await issuances.declare())
    cuttable.cut()
    with pytest.raises(Unavailable):
        await replica.watch()
    unknown = replica.catalog.look("www")
    cuttable.heal()

    assert unknown is None
    assert 1 == (await replica.step()).generation


async def test_a_name_that_nobody_watches_is_kept_for_a_while_and_then_forgotten(issuances, replica):
    await issuances.issue(await issuances.declare())
    served = await replica.watch()
    replica.catalog.unwatch(["www"], replica.changed.append, now=replica.clock.monotonic())
    replica.clock.turn(FORGET_AFTER)
    kept = await replica.step()
    replica.clock.turn(timedelta(seconds=1))
    forgotten = await replica.step()

    assert served == kept
    assert forgotten is None
    assert served == await replica.watch()


async def test_nothing_is_forgotten_while_it_could_not_be_loaded_again(issuances):
    cuttable = CuttableDatabase(issuances.database)
    replica = Replica(issuances, database=cuttable)
    await issuances.issue(await issuances.declare())
    served = await replica.watch()
    replica.catalog.unwatch(["www"], replica.changed.append, now=replica.clock.monotonic())
    cuttable.cut()
    replica.clock.turn(10 * FORGET_AFTER)
    with pytest.raises(Unavailable):
        await replica.step()

    assert served == replica.catalog.look("www")


def test_the_key_in_the_resource_is_hidden_from_its_repr():
    key = keys.pem(keys.generate(keys.KeyType.ECDSA_P256))
    from sds_server.xds.catalog import Resource

    assert "PRIVATE" not in repr(Resource(name="www", version="v", generation=1, body=key))


async def test_between_sweeps_only_what_it_was_told_of_is_looked_at(issuances, replica, monkeypatch):
    """With thousands of names each NOTIFY must not read them all."""
    asked = []
    real = publishers.offers.of

    async def of(database, names):
        asked.append(list(names))
        return await real(database, names)

    monkeypatch.setattr(publishers.offers, "of", of)
    replica.publisher._sweep_every_s = 5.0
    for name in ("www", "api"):
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"]))
        replica.catalog.watch([name], replica.changed.append)
    await replica.step()
    await rotate(issuances)
    await issuances.issue(await issuances.declare("www", ["www.example.test"]))
    untold = await replica.step()
    replica.publisher.told("www")
    replica.publisher.told("nobody watches this")
    told = await replica.step()
    replica.publisher.missed()
    await replica.step()

    assert (1, 2) == (untold.generation, told.generation)
    assert [["api", "www"], ["www"], ["api", "www"]] == asked


async def test_what_it_was_told_of_while_the_database_was_away_is_not_forgotten(issuances, database):
    cuttable = CuttableDatabase(database)
    replica = Replica(issuances, database=cuttable)
    replica.publisher._sweep_every_s = 3600.0
    await issuances.issue(await issuances.declare())
    await replica.watch()
    await rotate(issuances)
    await issuances.issue(await issuances.declare())
    replica.publisher.told("www")
    cuttable.cut()
    with pytest.raises(Unavailable):
        await replica.step()
    cuttable.heal()

    assert 2 == (await replica.step()).generation


async def test_what_opens_while_the_kms_is_away_is_published(issuances, replica, monkeypatch):
    """Its data key is in memory; another's is not, and keeps nobody waiting."""
    for name in ("a", "b", "c"):
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"]))
        replica.catalog.watch([name], replica.changed.append)
    real = issuances.sealer.open
    away = iter([False, True, False])

    async def open_(sealed):
        if next(away):
            raise Unavailable("KMS: away")
        return await real(sealed)

    monkeypatch.setattr(issuances.sealer, "open", open_)
    with pytest.raises(Unavailable):
        await replica.step()
    first = [replica.catalog.look(name) for name in ("a", "b", "c")]
    monkeypatch.setattr(issuances.sealer, "open", real)
    await replica.step()

    assert 2 == sum(entry is not None for entry in first)
    assert all(replica.catalog.look(name).generation == 1 for name in ("a", "b", "c"))


async def test_a_first_order_that_failed_is_not_waited_for_in_a_handshake(replica, issuances, database):
    """Of a name on demand: another is PENDING until it is issued, however long that takes."""
    rule = Rule("shops", "internal", suffix=".shops.test")
    await on_demand.hold(database, ["shops"], lasts=timedelta(hours=1))
    await on_demand.create(database, "a.shops.test", rule, identity="spiffe://td/e", node_id="e", actor="a")

    assert PENDING == await replica.watch("a.shops.test")

    claim = await issuances.claim()
    told = {"what": "it is invalid", "hint": "mend it"}
    await rotations.fail(database, claim.lease, error=told, pause=timedelta(minutes=1), actor="replica:test")

    assert ABSENT == await replica.step("a.shops.test")

    await issuances.declare()
    claim = await issuances.claim()
    await rotations.fail(database, claim.lease, error=told, pause=timedelta(minutes=1), actor="replica:test")

    assert PENDING == await replica.watch("www")


async def test_while_its_ca_is_left_alone_a_name_on_demand_is_not_waited_for(replica, database):
    rule = Rule("shops", "internal", suffix=".shops.test")
    await on_demand.hold(database, ["shops"], lasts=timedelta(hours=1))
    await on_demand.create(database, "a.shops.test", rule, identity="spiffe://td/e", node_id="e", actor="a")
    await pauses.begin(
        database, ["internal"], lasts=timedelta(minutes=1), error={"what": "503"}, actor="replica:test"
    )

    assert ABSENT == await replica.watch("a.shops.test")
