"""A COMMIT that is not answered, sessions as they must be, a network that is gone: a real PostgreSQL."""

import asyncio
import socket

import pytest

from sds_server.errors import Unavailable
from sds_server.inventory import database as databases
from sds_server.inventory.database import KEEPALIVE, open_database
from sds_server.inventory.schema import migrate
from tests.support.fault_proxy import Fault
from tests.support.postgres_network import behind

SLOW_COMMIT = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_lock_shared(1);
    {then}
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slowly AFTER INSERT ON validation_failure DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION slowly();
"""
COMMITTING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query = 'COMMIT'"


@pytest.fixture
async def network(connect):
    async with behind(connect) as it:
        yield it


@pytest.fixture
async def remote(network, connect):
    opened = await open_database(network.connect, size=2)
    await migrate(opened)
    yield opened
    network.proxy.heal()
    await opened.close()


async def lose_the_answer(remote, network, sql, *, then="", healed=True):
    """Write a row, and cut the network while the server commits it."""
    await sql.execute(SLOW_COMMIT.format(then=then))
    await sql.execute("SELECT pg_advisory_lock(1)")

    async def write():
        async with remote.transaction() as tx:
            await tx.rows("note_failures", "internal", ["www.example.test"], ["connection"])

    writing = asyncio.create_task(write())
    async with asyncio.timeout(30):
        while not await sql.fetchval(COMMITTING):
            await asyncio.sleep(0.01)
    network.proxy.become(Fault.RESET)
    if healed:
        network.proxy.heal()
    await sql.execute("SELECT pg_advisory_unlock(1)")
    return writing


async def test_a_commit_whose_answer_is_lost_is_told_as_the_success_that_it_is(remote, network, sql):
    """Whoever was told otherwise would do it again."""
    writing = await lose_the_answer(remote, network, sql)
    async with asyncio.timeout(30):
        await writing

    assert 1 == await sql.fetchval("SELECT count(*) FROM validation_failure")


async def test_a_commit_that_fails_unheard_is_told_as_a_failure(remote, network, sql):
    writing = await lose_the_answer(remote, network, sql, then="RAISE EXCEPTION 'no';")
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable) as raised:
            await writing

    assert "not known" not in str(raised.value)
    assert 0 == await sql.fetchval("SELECT count(*) FROM validation_failure")


async def test_a_commit_of_which_nobody_can_tell_is_told_as_that(remote, network, sql, monkeypatch):
    monkeypatch.setattr(databases, "FATE_WITHIN_S", 0.5)
    writing = await lose_the_answer(remote, network, sql, healed=False)
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="whether it was committed is not known"):
            await writing


async def test_another_timeline_does_not_tell_of_a_transaction_of_this_one(remote, sql):
    """A promoted replica gives the numbers again that it has not seen."""
    async with remote.transaction() as tx:
        await tx.rows("note_failures", "internal", ["www.example.test"], ["connection"])
        number = await tx.row("transaction_number")

    assert True is await remote._ask_what_became_of(number)
    assert None is await remote._ask_what_became_of({**number, "timeline": "000000FF"})


async def test_each_session_is_as_it_must_be_whatever_the_server_s_own_settings(connect, remote, sql):
    for setting in ("synchronous_commit = off", "statement_timeout = 0", "lock_timeout = 0"):
        await sql.execute(f"ALTER DATABASE {connect['database']} SET {setting}")
    opened = await open_database(connect, size=1)
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    names.append("synchronous_commit")
    for _ in range(2):  # as it was opened, and as the pool has reset it
        async with opened.transaction() as tx:
            found = [await tx._connection.fetchval(f"SHOW {name}") for name in names]
    await opened.close()

    assert ["10s", "5s", "15s", "on"] == found


async def test_a_server_that_takes_no_writes_is_not_the_database(connect, remote, sql):
    """As a replica does not, or a primary that was taken out of service."""
    await sql.execute(f"ALTER DATABASE {connect['database']} SET default_transaction_read_only = on")

    with pytest.raises(Unavailable):
        await open_database(connect, size=1)


async def test_a_connection_over_a_network_asks_by_itself_whether_that_is_there(remote):
    async with remote.transaction() as tx:
        at = tx._connection._transport.get_extra_info("socket")
        found = {name: at.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE}
        alive = at.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert 1 == alive
    assert KEEPALIVE == found
