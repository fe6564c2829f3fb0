"""The seal: delivery ends at once, nothing is opened, no restart breaks it, and who breaks it is audited."""

import stat

import pytest
from structlog.testing import capture_logs

from sds_server.clock import SystemClock
from sds_server.errors import OperatorError, Unavailable
from sds_server.inventory import accounts, sealed_keys
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.seal import Seal, Sealed
from sds_server.xds.catalog import Catalog, Resource
from tests.support.fakes import CuttableDatabase


class Replica:
    """What the seal is put on."""

    def __init__(self, issuances, directory):
        self.database = CuttableDatabase(issuances.database)
        self.sealer = issuances.sealer
        self.catalog = Catalog()
        self.publisher = Publisher(
            database=self.database,
            sealer=self.sealer,
            catalog=self.catalog,
            version_key=b"k" * 32,
            clock=SystemClock(),
            actor="replica:test",
        )
        self.catalog.on_want = self.publisher.want
        self.accounts = Accounts(database=self.database, sealer=self.sealer, actor="replica:test")
        self.path = directory / "sealed"
        self.changes = 0
        self.seal = self.started()

    def started(self):
        """The seal as a replica finds it at its start."""
        seal = Seal(
            path=self.path,
            replica="test",
            database=self.database,
            sealer=self.sealer,
            catalog=self.catalog,
            publisher=self.publisher,
            accounts=self.accounts,
            clock=SystemClock(),
        )
        seal.on_change = self.changed
        return seal

    def changed(self):
        self.changes += 1

    async def look(self):
        await self.publisher.step()
        return self.catalog.look("www")


@pytest.fixture
async def replica(issuances, tmp_path):
    """One that serves a certificate."""
    certificate = await issuances.issue(await issuances.declare())
    replica = Replica(issuances, tmp_path)
    replica.certificate = certificate
    replica.catalog.watch(["www"], lambda _name: None)
    assert isinstance(await replica.look(), Resource)
    return replica


@pytest.fixture
async def ca(replica):
    """One that has an account."""
    ca = Issuer("le", "https://ca.example/directory", None, (), (), terms_agreed=True, eab=None)
    stored = await accounts.begin(
        replica.database, ca.directory_url, await replica.accounts._seal(), actor="replica:test"
    )
    url = "https://ca.example/account/1"
    await accounts.registered(replica.database, ca.directory_url, stored, url=url, actor="replica:test")
    return ca


async def test_an_account_s_key_that_was_being_opened_when_it_was_sealed_is_not_kept(
    replica, ca, monkeypatch
):
    opened = replica.accounts._key

    async def sealed_meanwhile(key_id):
        key = await opened(key_id)
        await replica.seal.put(reason="a thief", actor="person:test")
        return key

    monkeypatch.setattr(replica.accounts, "_key", sealed_meanwhile)
    account = await replica.accounts.ensure(ca)
    replica.accounts.client(ca, account)

    assert ({}, {}) == (replica.accounts._ready, replica.accounts._clients)


async def test_a_sealed_replica_keeps_no_account_s_key_and_orders_nothing(replica, ca):
    account = await replica.accounts.ensure(ca)
    open_client = replica.accounts.client(ca, account)
    await replica.seal.put(reason="a thief", actor="person:test")

    assert open_client is not replica.accounts.client(ca, account)
    with pytest.raises(Unavailable, match="sealed"):
        await replica.accounts.ensure(ca)


async def test_a_sealed_replica_gives_nothing_away_from_that_moment_on(replica):
    await replica.seal.put(reason="a thief", actor="person:test")

    assert None is replica.catalog.look("www")
    assert (None, True, 1) == (await replica.look(), replica.sealer.locked, replica.changes)
    assert ({}, {}, {}) == (replica.publisher._encoded, replica.publisher._published, replica.sealer._deks)


async def test_what_was_being_loaded_when_it_was_sealed_is_not_given_away_either(replica):
    published = replica.catalog.look("www")
    await replica.seal.put(reason="a thief", actor="person:test")
    replica.catalog.publish({"www": published})
    replica.publisher._encoded["www"] = {("late", None): published}

    assert None is await replica.look()
    assert {} == replica.publisher._encoded


async def test_a_sealed_replica_opens_and_seals_nothing(replica, issuances):
    sealed = await sealed_keys.get(issuances.database, replica.certificate.key_id)
    await replica.seal.put(reason="a thief", actor="person:test")

    for ask in (
        replica.sealer.open(sealed),
        replica.sealer.rewrap(sealed),
        replica.sealer.ready(),
        replica.sealer.seal(b"", key_id=sealed.key_id, purpose="payload", spki_sha256=b""),
    ):
        with pytest.raises(Unavailable, match="sealed"):
            await ask


async def test_an_unsealed_replica_goes_on(replica):
    before = replica.catalog.look("www")
    await replica.seal.put(reason="a thief", actor="person:test")
    await replica.seal.lift(actor="person:test")

    assert before == await replica.look()
    assert (None, 2, False) == (replica.seal.state, replica.changes, replica.path.exists())


async def test_a_restart_does_not_break_the_seal_and_tells_of_it(replica):
    put = await replica.seal.put(reason="a thief", actor="person:test")
    replica.sealer.unlock()
    replica.catalog.open()
    with capture_logs() as logs:
        again = replica.started()

    assert put == again.state == Sealed("person:test", put.at, "a thief")
    assert (True, True, None) == (replica.sealer.locked, replica.catalog.closed, await replica.look())
    assert ["replica.sealed"] == [line["event"] for line in logs]
    assert 0o600 == stat.S_IMODE(replica.path.stat().st_mode)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"by": "x"}', b"\xff"])
async def test_a_seal_whose_file_is_damaged_is_a_seal(replica, content):
    replica.path.write_bytes(content)

    assert Sealed() == replica.started().state
    assert None is await replica.look()


async def test_sealed_twice_it_stays_with_its_first_reason(replica):
    first = await replica.seal.put(reason="a thief", actor="person:test")

    assert first == await replica.seal.put(reason="another", actor="person:other")


async def test_who_sealed_it_and_who_broke_the_seal_is_in_the_audit(replica, sql):
    await replica.seal.put(reason="a thief", actor="person:one")
    await replica.seal.lift(actor="person:other")

    assert [
        ("replica.sealed", "person:one", "test"),
        ("replica.unsealed", "person:other", "test"),
    ] == [
        tuple(row)
        for row in await sql.fetch(
            "SELECT action, actor, subject FROM certaudit WHERE action LIKE 'replica.%' ORDER BY id"
        )
    ]


async def test_a_seal_waits_for_no_database_but_is_not_broken_without_one(replica):
    replica.database.cut()
    with capture_logs() as logs:
        await replica.seal.put(reason="a thief", actor="person:test")
    with pytest.raises(Unavailable):
        await replica.seal.lift(actor="person:test")

    assert ["replica.sealed", "seal.unaudited"] == [line["event"] for line in logs]
    assert (True, True) == (replica.catalog.closed, replica.path.exists())
    assert replica.seal.state is not None


async def test_a_seal_that_cannot_be_kept_is_a_seal_until_the_restart_and_says_so(replica, tmp_path):
    replica.path = tmp_path / "nowhere" / "sealed"
    seal = replica.started()

    with pytest.raises(OperatorError, match="sealed until it is started again"):
        await seal.put(reason="a thief", actor="person:test")
    assert replica.catalog.closed
