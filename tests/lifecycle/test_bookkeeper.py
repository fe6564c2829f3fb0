"""What changes nothing is audited all the same: soon, once, and bounded."""

import asyncio
import json

import pytest

from sds_server.errors import Unavailable
from sds_server.keys.kms import Turn
from sds_server.lifecycle import bookkeeper as bookkeeper_module
from sds_server.lifecycle.bookkeeper import Bookkeeper
from tests.support.fakes import CuttableDatabase

KEK = "local:abc"


@pytest.fixture
def cuttable(database):
    return CuttableDatabase(database)


@pytest.fixture
def bookkeeper(cuttable):
    return Bookkeeper(database=cuttable, actor="replica:test")


async def told(sql):
    rows = await sql.fetch("SELECT action, actor, subject, payload FROM certaudit ORDER BY id")
    return [(row["action"], row["actor"], row["subject"], json.loads(row["payload"])) for row in rows]


async def test_a_deny_list_is_written_once(bookkeeper, sql):
    bookkeeper.deny(["spiffe://td.test/a"], actor="config:test")
    await bookkeeper.step()
    await bookkeeper.step()
    ((action, actor, subject, detail),) = await told(sql)

    assert ("deny.changed", "config:test", "sds.deny") == (action, actor, subject)
    assert ["spiffe://td.test/a"] == detail["identities"]


async def test_two_steps_at_once_write_it_once(bookkeeper, sql):
    """The last step of a process comes while its loop is at one."""
    bookkeeper.deny([], actor="config:test")
    bookkeeper.refused(None, "GET /v1/secrets", path="/", why="no", address="192.0.2.1")
    await asyncio.gather(bookkeeper.step(), bookkeeper.step())

    assert 2 == len(await told(sql))


async def test_while_the_database_is_away_nothing_is_lost_nor_told_twice(bookkeeper, cuttable, sql):
    cuttable.cut()
    bookkeeper.kms(KEK, Turn.SILENT, "no answer")
    bookkeeper.deny([], actor="config:test")
    with pytest.raises(Unavailable):
        await bookkeeper.step()
    bookkeeper.kms(KEK, Turn.ANSWERS, None)
    cuttable.heal()
    await bookkeeper.step()

    assert ["deny.changed", "kms.answers", "kms.silent"] == sorted(action for action, *_ in await told(sql))


async def test_what_comes_without_end_is_counted(bookkeeper, sql):
    for number in range(100):
        bookkeeper.refused(None, "GET /v1/secrets", path=f"/{number}", why="no", address="192.0.2.1")
    await bookkeeper.step()

    assert 10 == len(await told(sql))
    assert 100 == await sql.fetchval("SELECT times FROM audit_tally")


async def test_no_more_names_are_kept_than_anybody_has(bookkeeper, sql, monkeypatch):
    monkeypatch.setattr(bookkeeper_module, "PEERS_MAX", 3)
    for number in range(10):
        bookkeeper.refused(f"token:{number}", "GET /v1/secrets", path="/", why="no", address=None)
    await bookkeeper.step()

    assert {"token:0", "token:1", "token:2", "nobody"} == {actor for _, actor, *_ in await told(sql)}


async def test_notes_are_bounded_and_what_was_not_kept_is_logged(bookkeeper, sql, monkeypatch):
    from structlog.testing import capture_logs

    monkeypatch.setattr(bookkeeper_module, "NOTES_MAX", 2)
    for _ in range(5):
        bookkeeper.deny([], actor="config:test")
    with capture_logs() as logs:
        await bookkeeper.step()

    assert 2 == len(await told(sql))
    assert [("audit.dropped", 3)] == [(log["event"], log["count"]) for log in logs]
