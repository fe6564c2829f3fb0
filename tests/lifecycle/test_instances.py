"""Several proxies that call themselves alike: one hides neither another's refusal nor its silence."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from sds_server.inventory import roll_outs, targets, watches
from sds_server.inventory.database import Transaction
from sds_server.inventory.reports import Report, Said
from sds_server.inventory.reports import write as report
from sds_server.inventory.voices import Look
from sds_server.inventory.watches import Seen
from sds_server.lifecycle.heartbeat import EVERY, LASTING, LIFE, Heartbeat
from sds_server.lifecycle.recorder import Recorder
from sds_server.model import Identity, ProvedBy, TargetKind
from sds_server.xds.catalog import Resource
from sds_server.xds.service import PeerNode
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.roll_outs import confirm

IDENTITY = Identity("spiffe://example.test/edge")
SEEN_FOR = timedelta(minutes=10)


def on(stream, node_id="edge-1"):
    """A proxy on a stream of its own; all of them call themselves edge-1."""
    return PeerNode(IDENTITY, node_id, stream=stream)


X, Y = on("x"), on("y")


class Replica:
    """What of a replica tells of streams: its recorder and its heartbeat."""

    def __init__(self, database, name, life=1):
        self.clock = TurnedClock()
        self.told = []
        self.recorder = Recorder(
            database=database,
            authorize=lambda _identity, _name: True,
            seen_for=SEEN_FOR,
            clock=self.clock,
            actor=f"replica:{name}",
            replica=f"{name}/{life}",
            on_written=self.told.append,
        )
        self.heartbeat = Heartbeat(
            database=database,
            token=f"{name}/{life}",
            name=name,
            clock=self.clock,
            actor=f"replica:{name}",
            on_lapsed=self.recorder.refresh,
            on_rolled_up=self.told.append,
        )

    async def beat(self):
        await self.heartbeat.step()
        await self.recorder.step()

    async def comes(self, peer):
        self.recorder.subscribed(peer, "www")
        await self.recorder.step()

    async def accepts(self, peer, generation):
        self.recorder.accepted(peer, "www", f"v{generation}", generation)
        await self.recorder.step()

    async def refuses(self, peer, generation):
        self.recorder.refused(peer, "www", f"v{generation}", generation, "KEY_VALUES_MISMATCH")
        await self.recorder.step()

    async def leaves(self, peer):
        self.recorder.disconnected(peer, "www")
        await self.recorder.step()

    async def takes(self, peer, generation=1):
        await self.comes(peer)
        await self.accepts(peer, generation)


@pytest.fixture
async def replicas(database, issuances):
    """Two that live, of one Secret with its first Certificate."""
    declared = await issuances.declare()
    await issuances.issue(declared)
    both = Replica(database, "a"), Replica(database, "b")
    for replica in both:
        await replica.beat()
    return both


@pytest.fixture(params=["one replica", "two replicas"])
def pair(replicas, request):
    """Where X has its stream, and where Y."""
    a, b = replicas
    return (a, a) if request.param == "one replica" else (a, b)


async def live(database):
    (item,) = await targets.live_set(database, "www")
    return item


async def marks(database):
    item = await live(database)
    return item.accepted, item.refused


async def rows(sql):
    return await sql.fetchval("SELECT count(*) FROM target_instance")


async def prove(database, generation_of):
    """Let a handshake have shown the new leaf, at whichever of them it reached."""
    item = await live(database)
    return await confirm(
        database,
        await roll_outs.get(database, generation_of),
        proved=[item.target.id],
        actor="replica:a",
    )


async def test_accepted_is_what_each_has_accepted(pair, database):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await here.accepts(X, 2)
    one = await marks(database)
    await there.accepts(Y, 2)

    assert (1, None) == one
    assert (2, None) == await marks(database)


async def test_a_refusal_is_not_hidden_by_who_accepts(pair, database):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await there.refuses(Y, 2)
    await here.accepts(X, 2)

    assert (1, 2) == await marks(database)


async def test_a_refusal_is_not_hidden_by_who_has_accepted(pair, database):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await here.accepts(X, 2)
    await there.refuses(Y, 2)

    assert (1, 2) == await marks(database)


async def test_a_refusal_ends_when_who_refused_takes_the_same_as_other_bytes(pair, database):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await here.accepts(X, 2)
    await there.refuses(Y, 2)
    await there.accepts(Y, 2)

    assert (2, None) == await marks(database)


async def test_who_comes_takes_nothing_back(pair, database):
    here, there = pair
    await here.takes(X, 2)
    await there.comes(Y)

    assert (2, None) == await marks(database)


async def test_who_comes_hinders_what_is_accepted_next(pair, database):
    here, there = pair
    await here.takes(X)
    await there.comes(Y)
    await here.accepts(X, 2)

    assert (1, None) == await marks(database)


@pytest.mark.parametrize("refuses", [True, False], ids=["who refused", "who said nothing"])
async def test_without_who_hindered_the_others_count_at_once(pair, database, sql, refuses):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await here.accepts(X, 2)
    if refuses:
        await there.refuses(Y, 2)
    there.told.clear()
    await there.leaves(Y)

    assert (2, None) == await marks(database)
    assert {"www"} == set(there.told)
    assert (1, 0) == ((await live(database)).instances, await rows(sql))


async def test_a_proxy_that_comes_back_waits_for_its_old_stream_alone(pair, database):
    """Half open, the old one says nothing any more."""
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await there.accepts(Y, 2)
    half_open = await marks(database)
    await here.leaves(X)

    assert (1, None) == half_open
    assert (2, None) == await marks(database)


async def test_the_last_word_stays_when_the_last_stream_ends(pair, database, sql):
    here, there = pair
    await here.takes(X)
    await there.takes(Y)
    await here.accepts(X, 2)
    await there.accepts(Y, 2)
    await here.leaves(X)
    await there.leaves(Y)

    assert (2, None) == await marks(database)
    assert None is await sql.fetchval("SELECT replica FROM delivery")


async def test_a_certificate_that_was_taken_back_is_accepted_no_more(pair, database):
    """All go back to the one before."""
    here, there = pair
    await here.takes(X, 2)
    await there.takes(Y, 2)
    await here.accepts(X, 1)
    await there.accepts(Y, 1)

    assert (1, None) == await marks(database)


async def test_a_handshake_proves_nothing_while_one_has_not_accepted(pair, database):
    here, there = pair
    await here.takes(X)
    await there.comes(Y)
    early = await prove(database, "www")
    divided = (await live(database)).divided(1)
    await there.accepts(Y, 1)

    assert (None, True) == (early, divided)
    assert "completed" == await prove(database, "www")
    assert 1 == (await live(database)).proved


async def test_a_refusal_by_one_takes_the_proof_away(pair, database):
    here, there = pair
    await here.takes(X)
    await prove(database, "www")
    await there.comes(Y)
    proved = (await live(database)).proved
    await there.refuses(Y, 1)

    assert (1, None) == (proved, (await live(database)).proved)


async def test_a_watch_heals_nothing_while_one_has_not_accepted(pair, database):
    here, there = pair
    await here.takes(X)
    await prove(database, "www")
    await there.comes(Y)
    await there.refuses(Y, 1)
    seen = []
    for _ in range(2):
        (watch,) = await _watch(database)
        look = Look(watch.target.id, by=ProvedBy.HANDSHAKE)
        seen.append(await watches.settle(database, watch, look, actor="replica:a"))
        await there.leaves(Y)

    assert [Seen.UNKNOWN, Seen.PROVED] == seen


async def _watch(database):
    item = await live(database)
    await targets.register(
        database,
        item.target.name,
        probe="127.0.0.1:1",
        identity=None,
        node_id=None,
        serves=[],
        actor="person:test",
    )
    return await watches.unproved(database, "www", limit=10)


async def test_an_operator_speaks_for_no_stream(pair, database):
    here, there = pair
    await here.takes(X)
    await there.comes(Y)
    await there.refuses(Y, 1)
    said = Report("www", "edge-1", None, TargetKind.ENVOY, Said.ACCEPTED, 1, (), None, None)
    await report(database, said, seen_for=SEEN_FOR, actor="person:test")

    assert (None, 1) == await marks(database)


# What it costs


async def test_one_stream_costs_no_row_and_no_statement(replicas, database, sql, monkeypatch):
    a, _ = replicas
    asked = []
    real = Transaction.rows

    async def counted(self, statement, *arguments):
        asked.append(statement)
        return await real(self, statement, *arguments)

    monkeypatch.setattr(Transaction, "rows", counted)
    await a.takes(X)

    batch = ["touch_targets", "deliveries_before", "write_deliveries", "refuse_content"]
    assert [*batch, *batch[:3], "contents_of", "append_audit", batch[3]] == asked
    assert 0 == await rows(sql)


async def test_a_proxy_that_moves_leaves_no_row(replicas, database, sql):
    a, b = replicas
    await a.takes(X)
    await a.leaves(X)
    await b.takes(Y)

    assert (0, "b/1") == (await rows(sql), await sql.fetchval("SELECT replica FROM delivery"))


async def test_a_proxy_that_is_elsewhere_before_it_has_left_is_one_again(replicas, database, sql):
    a, b = replicas
    await a.takes(X)
    await b.comes(Y)
    both = (await live(database)).instances
    await a.leaves(X)

    assert (2, 1) == (both, (await live(database)).instances)
    assert (0, "b/1") == (await rows(sql), await sql.fetchval("SELECT replica FROM delivery"))


async def test_fetches_of_an_agent_are_no_instances(replicas, database):
    a, b = replicas
    for replica in (a, a, b):
        replica.recorder.subscribed(PeerNode(IDENTITY, "edge-1", TargetKind.NGINX), "www")
        await replica.recorder.step()

    assert 1 == (await live(database)).instances


async def test_an_agent_and_an_envoy_that_call_themselves_alike_are_written_in_one_batch(replicas, database):
    a, _ = replicas
    agent = PeerNode(IDENTITY, "edge-1", TargetKind.NGINX)
    a.recorder.subscribed(agent, "www")
    await a.comes(X)
    await a.accepts(X, 1)
    a.recorder.disconnected(agent, "www")
    await a.recorder.step()

    assert ((1, None), 1) == (await marks(database), (await live(database)).instances)


async def test_an_agent_does_not_keep_the_hold_of_an_envoy_that_has_left(replicas, database, sql):
    a, _ = replicas
    await a.takes(X)
    a.recorder.subscribed(PeerNode(IDENTITY, "edge-1", TargetKind.NGINX), "www")
    await a.leaves(X)

    assert None is await sql.fetchval("SELECT replica FROM delivery")


async def test_a_hold_that_nobody_renews_ends(replicas, database, sql):
    """A Target that is another's now: who held it tells of it no more."""
    a, b = replicas
    await a.takes(X)
    await b.takes(Y)
    await turn_clock(sql, SEEN_FOR + timedelta(seconds=1))
    await b.heartbeat.step()  # it lives, and has nothing to write
    await a.beat()
    await a.accepts(X, 2)

    assert (2, None) == await marks(database)
    assert (1, 0) == ((await live(database)).instances, await rows(sql))


async def test_a_stream_counts_from_its_first_secret_if_it_might_not_see_it_before(database, issuances):
    await issuances.declare()
    a = Replica(database, "a")
    await a.beat()
    a.recorder._authorize = lambda _identity, _name: False
    a.recorder.subscribed(X, "www")
    a.recorder._authorize = lambda _identity, _name: True
    for peer in (X, Y):
        a.recorder.sent(peer, Resource("www", "v1", 1, b""))
    await a.accepts(X, 1)

    assert (None, None) == await marks(database)
    assert 2 == (await live(database)).instances


async def test_a_stream_that_opens_while_the_same_is_written_counts(replicas, database, monkeypatch):
    a, _ = replicas
    await a.comes(X)
    real = Transaction.rows

    async def meanwhile(self, statement, *arguments):
        if statement == "refuse_content":
            monkeypatch.setattr(Transaction, "rows", real)
            a.recorder.subscribed(Y, "www")
        return await real(self, statement, *arguments)

    monkeypatch.setattr(Transaction, "rows", meanwhile)
    a.recorder.refresh()
    await a.recorder.step()

    assert 2 == (await live(database)).instances


# Replicas that die


async def test_what_a_dead_replica_said_counts_no_more(replicas, database, sql):
    a, b = replicas
    await a.takes(X)
    await b.takes(Y)
    await b.refuses(Y, 2)
    await a.accepts(X, 2)
    await turn_clock(sql, LIFE - EVERY)
    await a.beat()
    before = await marks(database)
    a.told.clear()
    await turn_clock(sql, LIFE + timedelta(seconds=1))
    await a.beat()

    assert (1, 2) == before
    assert (2, None) == await marks(database)
    assert "www" in a.told
    assert (1, 0) == ((await live(database)).instances, await rows(sql))
    assert 1 == await sql.fetchval("SELECT count(*) FROM replica")


async def test_of_a_dead_replica_alone_nothing_is_kept_or_lost(replicas, database, sql):
    """The proxy went to another one, and said there what it had said before."""
    a, b = replicas
    await b.takes(Y)
    await turn_clock(sql, LIFE + timedelta(seconds=1))
    await a.beat()
    await a.comes(X)

    assert (1, None) == await marks(database)
    assert (1, 0) == ((await live(database)).instances, await rows(sql))


async def test_more_than_a_batch_is_buried(replicas, database, sql, issuances, monkeypatch):
    monkeypatch.setattr("sds_server.inventory.replicas.BURIED_AT_ONCE", 2)
    a, b = replicas
    for replica, stream in ((a, "x"), (b, "y")):
        for number in range(5):
            replica.recorder.subscribed(on(stream, f"edge-{number}"), "www")
        await replica.recorder.step()
    both = await rows(sql)
    await turn_clock(sql, LIFE + timedelta(seconds=1))
    await a.beat()

    assert (10, 0) == (both, await rows(sql))


async def test_a_replica_that_starts_again_ends_its_earlier_life(replicas, database, sql):
    a, b = replicas
    await a.takes(X)
    await b.comes(Y)
    again = Replica(database, "b", life=2)
    await again.beat()

    assert (1, 0) == ((await live(database)).instances, await rows(sql))
    assert {"a/1", "b/2"} == {row["token"] for row in await sql.fetch("SELECT token FROM replica")}


async def test_two_that_were_given_one_name_both_live(replicas, database, sql):
    twin = Replica(database, "a", life=2)
    await twin.beat()
    for replica in (*replicas, twin):
        await replica.beat()

    assert {"a/1", "a/2", "b/1"} == {row["token"] for row in await sql.fetch("SELECT token FROM replica")}


async def test_a_replica_that_stops_counts_no_more(replicas, database, sql):
    a, b = replicas
    await a.takes(X)
    await b.comes(Y)
    await b.heartbeat.end()
    await b.heartbeat.step()  # its loop may go round once more
    await a.beat()

    assert (1, 0) == ((await live(database)).instances, await rows(sql))


async def test_one_that_was_taken_for_dead_says_all_of_its_streams_again(replicas, database, sql):
    a, b = replicas
    await b.comes(Y)
    await turn_clock(sql, LIFE + timedelta(seconds=1))
    await a.beat()
    await a.takes(X)
    without = (await live(database)).instances
    with capture_logs() as logs:
        await b.beat()
    await a.accepts(X, 2)

    assert (1, 2) == (without, (await live(database)).instances)
    assert ["replica.lapsed"] == [line["event"] for line in logs]
    assert (1, None) == await marks(database)


async def test_several_are_told_of_once_when_it_lasts(replicas, database):
    a, b = replicas
    await a.takes(X)
    await b.takes(Y)
    with capture_logs() as logs:
        await a.beat()
        soon = list(logs)
        for _ in range(3):
            a.clock.turn(LASTING)
            await a.heartbeat.step()

    assert [] == soon
    assert [("target.shared", "edge-1", 2)] == [
        (line["event"], line["target"], line["instances"]) for line in logs
    ]


async def test_who_speaks_and_goes_at_once_leaves_whoever_holds_it_told_apart(replicas, database, sql):
    a, b = replicas
    c = Replica(database, "c")
    await c.beat()
    await a.takes(X)
    await b.takes(Y)
    await sql.execute("DELETE FROM target_instance WHERE replica = 'b/1'")
    c.recorder.subscribed(on("z"), "www")
    c.recorder.accepted(on("z"), "www", "v1", 1)
    c.recorder.unsubscribed(on("z"), "www")
    await c.recorder.step()

    assert ["a/1", "b/1"] == [
        row["replica"] for row in await sql.fetch("SELECT replica FROM target_instance ORDER BY 1")
    ]
