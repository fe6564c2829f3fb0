"""Names on demand, on a real database: wishes become Secrets within limits, and go when nobody wants them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from sds_server.inventory import declarations, deliveries, freezes, on_demand, progress, rotations
from sds_server.inventory.deliveries import News
from sds_server.lifecycle.on_demand import HOLD_FOR, STEADY, OnDemand
from sds_server.model import Reason
from sds_server.on_demand.names import Names, Standing
from sds_server.on_demand.rules import Result, Rule
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.issuances import secret

EDGE, OTHER = "spiffe://td/edge", "spiffe://td/other"
SHOPS = Rule("shops", "internal", suffix=".shops.test", per_identity=3, per_domain=5, keep=timedelta(days=30))


class Answer:
    """Stands for the operator's URL."""

    def __init__(self, no=None):
        self.no = no
        self.asked = []

    async def ask(self, url, name):
        self.asked.append((url, name))
        return self.no


class Replica:
    def __init__(self, database, *rules, asker=None):
        self.clock = TurnedClock()
        self.names = Names(rules, clock=self.clock, may_issue=lambda _identity, _name: True)
        self.asker = asker or Answer()
        self.demand = OnDemand(
            database=database, names=self.names, asker=self.asker, clock=self.clock, actor="replica:test"
        )
        self.results = []
        self.demand.on_result = self.results.append

    async def wish(self, *asked, identity=EDGE):
        for name in asked:
            self.names.look(identity, "edge-1", name)
        await self.demand.decide()
        return self.results[-1]


@pytest.fixture
async def replica(database):
    replica = Replica(database, SHOPS)
    await replica.demand.step()
    return replica


@pytest.fixture
def audited(sql):
    async def audited(action):
        rows = await sql.fetch("SELECT subject, payload FROM certaudit WHERE action = $1 ORDER BY id", action)
        return [(row["subject"], row["payload"]) for row in rows]

    return audited


async def test_a_name_that_is_wished_for_becomes_a_secret_with_a_rotation(replica, database, audited):
    result = await replica.wish("a.shops.test")
    asked = await on_demand.asked(database, "a.shops.test")
    rotation = await progress.latest(database, "a.shops.test")

    assert Result.CREATED == result
    assert ("shops", EDGE, timedelta(days=30)) == (asked.rule, asked.identity, asked.keep)
    assert Reason.INITIAL == rotation.reason
    assert Standing.SECRET == replica.names.look(OTHER, "x", "a.shops.test")
    ((subject, payload),) = await audited("on_demand.created")
    assert "a.shops.test" == subject
    assert '"rule":"shops"' in payload


async def test_a_name_that_is_made_while_all_are_read_stays_known(replica, monkeypatch):
    """Its Envoy would be told that there is none, in the middle of a first handshake."""
    read = on_demand.secrets

    async def meanwhile(*arguments):
        found = await read(*arguments)
        await replica.wish("a.shops.test")
        return found

    monkeypatch.setattr(on_demand, "secrets", meanwhile)
    replica.demand.missed()
    await replica.demand.step()

    assert Standing.SECRET == replica.names.look(OTHER, "x", "a.shops.test", fresh=False)


async def test_replicas_that_are_asked_together_make_one_secret_and_one_rotation(database, sql):
    replicas = [Replica(database, SHOPS) for _ in range(4)]
    for replica in replicas:
        await replica.demand.step()
    results = await asyncio.gather(*(replica.wish("a.shops.test") for replica in replicas))

    assert [Result.CREATED, *[Result.EXISTS] * 3] == sorted(results)
    assert 1 == await sql.fetchval("SELECT count(*) FROM certrotation")


async def test_limits_hold_for_all_replicas_together_and_in_time_there_is_room_again(database, sql):
    replicas = [Replica(database, SHOPS) for _ in range(2)]
    for replica in replicas:
        await replica.demand.step()
    first, second = replicas
    made = [await first.wish(f"{name}.shops.test") for name in "ab"]
    made += [await second.wish(f"{name}.shops.test") for name in "cd"]
    others = [await second.wish(f"{name}.shops.test", identity=OTHER) for name in "efg"]

    assert [Result.CREATED] * 3 + [Result.IDENTITY_LIMIT] == made
    assert [Result.CREATED] * 2 + [Result.DOMAIN_LIMIT] == others

    await turn_clock(sql, timedelta(days=8))
    later = Replica(database, SHOPS)

    assert Result.CREATED == await later.wish("d.shops.test")


async def test_a_rule_holds_so_many_names(database):
    rule = Rule("few", "internal", suffix=".few.test", max_names=1)
    replica = Replica(database, rule)
    await replica.demand.step()

    assert [Result.CREATED, Result.FULL] == [
        await replica.wish("a.few.test"),
        await replica.wish("b.few.test", identity=OTHER),
    ]


async def test_a_random_name_that_a_limit_has_refused_comes_to_no_database(replica, database):
    for name in "abcd":
        await replica.wish(f"{name}.shops.test")
    cut = CuttableDatabase(database)
    cut.cut()
    replica.demand._database = cut

    assert Result.IDENTITY_LIMIT == await replica.wish("random.shops.test")


async def test_the_operators_url_says_whether_and_its_no_costs_nothing(database, sql):
    rule = Rule("asked", "internal", ask="http://127.0.0.1/ask")
    replica = Replica(database, rule, asker=Answer(Result.REFUSED))
    await replica.demand.step()
    refused = await replica.wish("a.example.test", "a.example.test")

    assert Result.REFUSED == refused
    assert [("http://127.0.0.1/ask", "a.example.test")] == replica.asker.asked
    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")

    replica.asker.no = None

    assert Result.REFUSED == await replica.wish("a.example.test")

    replica.clock.turn(timedelta(seconds=61))

    assert Result.CREATED == await replica.wish("a.example.test")


async def test_while_the_database_is_away_a_new_name_is_absent_at_once_and_wished_again_later(database):
    cut = CuttableDatabase(database)
    replica = Replica(cut, SHOPS)
    await replica.demand.step()
    cut.cut()

    assert Result.UNAVAILABLE == await replica.wish("a.shops.test")
    assert Standing.NOTHING == replica.names.look(EDGE, "edge-1", "a.shops.test")

    cut.heal()
    replica.clock.turn(timedelta(seconds=6))

    assert Result.CREATED == await replica.wish("a.shops.test")


async def test_denials_are_told_of_once_for_each_kind_and_not_for_each_name(database, audited):
    replica = Replica(database, Rule("asked", "internal", ask="http://a/"), asker=Answer(Result.REFUSED))
    await replica.demand.step()
    for number in range(50):
        await replica.wish(f"{number}.example.test")
        await replica.wish(f"{number}.example.test", identity=OTHER)
    await replica.demand.step()
    told = await audited("on_demand.denied")

    assert 2 == len(told)
    assert '"reason":"refused"' in told[0][1]


async def test_what_is_a_secret_already_is_known_and_never_made(database, issuances):
    await issuances.declare("www.shops.test", ["www.shops.test"])
    await issuances.declare("elsewhere", ["www.example.test"])
    replica = Replica(database, SHOPS)
    await replica.demand.step()

    assert Standing.SECRET == replica.names.look(EDGE, "edge-1", "WWW.shops.test")
    assert 1 == replica.names.known
    assert await on_demand.asked(database, "www.shops.test") is None


async def test_a_rule_takes_no_secret_from_who_has_it_already(database, issuances, sql):
    """Of another kind, or spelt otherwise than a handshake is: its name may end as a rule's suffix does."""
    await sql.execute("INSERT INTO secret (name, kind) VALUES ('clients.shops.test', 'validation_context')")
    await issuances.declare("WWW.Shops.test", ["www.shops.test"])
    replica = Replica(database, SHOPS)
    await replica.demand.step()
    names = ["clients.shops.test", "WWW.Shops.test"]

    assert names == [replica.names.answers(name) for name in names]
    assert {Standing.SECRET} == {replica.names.look(EDGE, "edge-1", name) for name in names}

    for name in names:
        replica.demand.told(name)
    await replica.demand.step()

    assert {Standing.SECRET} == {replica.names.look(EDGE, "edge-1", name) for name in names}


async def test_a_grant_that_is_taken_while_the_wish_waits_counts(replica, database, sql):
    granted = [True]
    replica.names._may_issue = lambda _identity, _name: granted[0]
    replica.names.look(EDGE, "edge-1", "a.shops.test")
    granted.clear()
    granted.append(False)
    await replica.demand.decide()

    assert [Result.NO_GRANT] == replica.results
    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")


async def test_two_rules_that_come_to_one_name_at_once_make_one_secret(database, sql):
    """As while a configuration is rolled out in which a rule has another name."""
    replicas = [Replica(database, replace(SHOPS, name=name)) for name in ("before", "after")]
    results = await asyncio.gather(*(replica.wish("a.shops.test") for replica in replicas))

    assert {Result.CREATED, Result.EXISTS} == {*results}
    assert 1 == await sql.fetchval("SELECT count(*) FROM certrotation")


async def test_a_limit_holds_before_any_replica_has_said_to_have_the_rule(database):
    rule = replace(SHOPS, max_names=1)
    replicas = [Replica(database, rule) for _ in range(4)]
    results = await asyncio.gather(
        *(replica.wish(f"{number}.shops.test") for number, replica in enumerate(replicas))
    )

    assert 1 == results.count(Result.CREATED)


async def test_what_comes_and_goes_is_known_when_it_is_told(replica, database, issuances):
    await issuances.declare("b.shops.test", ["b.shops.test"])
    replica.demand.told("b.shops.test")
    await replica.demand.step()

    assert Standing.SECRET == replica.names.look(EDGE, "edge-1", "b.shops.test")

    await declarations.remove(database, "b.shops.test", actor="person:test")
    replica.demand.told("b.shops.test")
    await replica.demand.step()

    assert Standing.NOTHING == replica.names.look(EDGE, "edge-1", "b.shops.test", fresh=False)


async def test_what_nobody_told_of_is_found_after_a_gap(replica, issuances):
    await issuances.declare("b.shops.test", ["b.shops.test"])
    await replica.demand.step()

    assert 0 == replica.names.known

    replica.demand.missed()
    await replica.demand.step()

    assert 1 == replica.names.known


async def subscribes(database, name, *, seen_for):
    news = News(EDGE, "edge-1", name, None, None, None, None, None, seen_for)
    await deliveries.write(database, [news], actor="replica:test")


async def test_a_name_that_nobody_subscribes_to_is_removed_after_its_time(replica, database, sql, audited):
    await replica.wish("a.shops.test", "b.shops.test")
    await turn_clock(sql, timedelta(days=29))
    await subscribes(database, "b.shops.test", seen_for=timedelta(minutes=10))
    await replica.demand.step()

    assert [] == await audited("on_demand.removed")

    await turn_clock(sql, timedelta(days=31))
    await replica.demand.step()
    removed = await audited("on_demand.removed")

    assert ["a.shops.test"] == [subject for subject, _ in removed]
    assert '"reason":"unwanted"' in removed[0][1]
    assert await on_demand.asked(database, "b.shops.test") is not None

    await turn_clock(sql, timedelta(days=60))
    await replica.demand.step()

    assert 2 == len(await audited("on_demand.removed"))
    assert 0 == await rotations.open_due(database, limit=10, actor="replica:test")


async def test_a_name_that_is_frozen_stays_until_it_goes_on(replica, database, sql):
    await replica.wish("a.shops.test")
    await freezes.freeze(database, "a.shops.test", reason="evidence", actor="person:test")
    await turn_clock(sql, timedelta(days=31))
    await replica.demand.step()

    assert await on_demand.asked(database, "a.shops.test") is not None

    await freezes.resume(database, "a.shops.test", actor="person:test")
    await replica.demand.step()

    assert await on_demand.asked(database, "a.shops.test") is None


async def test_a_name_that_is_subscribed_to_stays_though_its_targets_are_forgotten_later(
    replica, database, sql
):
    """Seen again and again, a Target that nobody has seen for a week is swept, and its Deliveries with it."""
    await replica.wish("a.shops.test")
    for day in range(0, 36, 4):
        await turn_clock(sql, timedelta(days=day))
        await subscribes(database, "a.shops.test", seen_for=timedelta(minutes=10))
        await replica.demand.step()
    await sql.execute("DELETE FROM target")
    await turn_clock(sql, timedelta(days=60))
    await replica.demand.step()

    assert await on_demand.asked(database, "a.shops.test") is not None


async def test_names_of_a_rule_that_no_replica_has_are_removed_in_time(replica, database, sql, audited):
    await replica.wish("a.shops.test")
    without = Replica(database)
    await without.demand.step()
    await turn_clock(sql, HOLD_FOR + timedelta(minutes=1))
    await without.demand.step()

    assert [] == await audited("on_demand.removed")  # others may not have spoken yet

    without.clock.turn(STEADY)
    await without.demand.step()
    ((name, detail),) = await audited("on_demand.removed")

    assert "a.shops.test" == name
    assert '"reason":"rule_gone"' in detail
    assert 0 == await sql.fetchval("SELECT count(*) FROM on_demand_rule")


async def test_a_rule_that_one_replica_has_keeps_its_names(replica, database, sql, audited):
    await replica.wish("a.shops.test")
    without = Replica(database)
    await without.demand.step()
    await turn_clock(sql, HOLD_FOR + timedelta(minutes=1))
    replica.clock.turn(timedelta(seconds=61))
    await replica.demand.step()
    without.clock.turn(STEADY)
    await without.demand.step()

    assert [] == await audited("on_demand.removed")


async def test_a_name_that_somebody_declares_is_theirs_from_then_on(replica, database):
    await replica.wish("a.shops.test")
    await declarations.put(database, secret("a.shops.test", ["a.shops.test"]), actor="person:test")

    assert await on_demand.asked(database, "a.shops.test") is None


async def test_a_removed_name_that_is_wished_again_is_made_again(replica, database, sql):
    await replica.wish("a.shops.test")
    await declarations.remove(database, "a.shops.test", actor="person:test")
    replica.demand.told("a.shops.test")
    await replica.demand.step()

    assert Result.CREATED == await replica.wish("a.shops.test")
    assert 2 == await sql.fetchval("SELECT count(*) FROM certrotation")
    assert 1 == await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL")
