"""Rotations that ended long ago: forgotten with their orders, and nothing else is."""

from datetime import timedelta

import pytest

from sds_server.inventory import finished, rotations
from sds_server.inventory.finished import DEFAULT
from sds_server.inventory.tokens import Tokens
from sds_server.lifecycle.scheduler import FORGET_EVERY, Scheduler
from sds_server.model import Reason
from tests.lifecycle.test_scheduler import complete
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock

LATER = DEFAULT + timedelta(days=1)


@pytest.fixture
def rotated(issuances, sql):
    """Two generations of www, each with its order; the second is served."""

    async def make():
        declared = await issuances.declare()
        await issuances.issue(declared)
        await complete(issuances)
        await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
        await issuances.issue(declared)
        await complete(issuances)

    return make


async def left(sql):
    """Rotations and orders by the generation that they brought."""
    rows = await sql.fetch(
        "SELECT c.generation, (SELECT count(*) FROM acme_order WHERE rotation_id = r.id) AS orders"
        " FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id ORDER BY 1"
    )
    return [tuple(row) for row in rows]


async def forget(issuances, *, after, sql):
    await turn_clock(sql, after)
    return await finished.forget(issuances.database, older_than=DEFAULT, limit=10)


async def test_what_ended_a_year_ago_is_forgotten_and_what_is_served_is_not(issuances, rotated, sql):
    """The order of what is served is named by the next one (RFC 9773 section 5)."""
    await rotated()
    audited = await sql.fetchval("SELECT count(*) FROM certaudit")
    early = await forget(issuances, after=DEFAULT - timedelta(days=1), sql=sql)
    due = await forget(issuances, after=LATER, sql=sql)

    assert (0, 1) == (early, due)
    assert [(2, 1)] == await left(sql)
    assert 2 == await sql.fetchval("SELECT count(*) FROM certificate_chain")
    assert audited == await sql.fetchval("SELECT count(*) FROM certaudit")


@pytest.mark.parametrize(
    "needed",
    [
        "UPDATE acme_order SET state = 'abandoned', key_until = 'infinity'",
        "UPDATE acme_order SET state = 'ordered'",
        "INSERT INTO challenge_value SELECT 'n' || id, 'v', 'internal', id, now(), now() FROM certrotation",
        "INSERT INTO challenge_token SELECT 't' || id, 'a', id, 'infinity' FROM certrotation",
    ],
)
async def test_it_stays_while_something_is_left_to_do_for_it(issuances, rotated, sql, needed):
    await rotated()
    await sql.execute(needed)

    assert 0 == await forget(issuances, after=LATER, sql=sql)


async def test_the_scheduler_looks_once_an_hour(issuances, rotated, sql):
    await rotated()
    clock, tokens = TurnedClock(), Tokens(issuances.database)
    scheduler = Scheduler(database=issuances.database, tokens=tokens, clock=clock, actor="r")
    await scheduler.step()
    await turn_clock(sql, LATER)
    await sql.execute("UPDATE secret SET issuer = 'upload'")  # nobody renews it
    await scheduler.step()
    within_the_hour = await left(sql)
    clock.turn(FORGET_EVERY)
    await scheduler.step()

    assert [1, 2] == [generation for generation, _ in within_the_hour]
    assert 1 not in [generation for generation, _ in await left(sql)]
