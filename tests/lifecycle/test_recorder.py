"""The recorder: what the streams tell is merged, kept while the database is down, and written once."""

import asyncio
import json
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial

import asyncpg
import pytest

from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import audit, roll_outs, rotations, targets
from sds_server.inventory.tokens import Tokens
from sds_server.lifecycle import recorder as recorders
from sds_server.lifecycle.recorder import MAX_DENIED, SWEEP, Recorder
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.model import Identity, Reason, TargetKind
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import Resource
from sds_server.xds.service import PeerNode
from tests.support.clocks import TurnedClock
from tests.support.control_plane import until
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.roll_outs import confirm

EDGE = PeerNode(Identity("spiffe://example.test/edge"), "edge-1")
SEEN_FOR = timedelta(minutes=10)


@pytest.fixture
def cuttable(database):
    return CuttableDatabase(database)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def written():
    return []


@pytest.fixture
def make(cuttable, clock, written):
    def make():
        return Recorder(
            database=cuttable,
            authorize=lambda _identity, name: not name.startswith("secret-of-others"),
            seen_for=SEEN_FOR,
            clock=clock,
            actor="replica:test",
            replica="test/1",
            on_written=written.append,
        )

    return make


@pytest.fixture
def recorder(make):
    return make()


@pytest.fixture
async def declared(issuances):
    return await issuances.declare()


def calls(work, *arguments):
    """Count the calls of functions, and the values that generators yield, while the work is done."""
    count = 0

    def note(_frame, event, _argument):
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        work(*arguments)
    finally:
        sys.setprofile(None)
    return count


def story(recorder, names):
    """One stream asks for so many names below one wildcard, accepts what it gets, and leaves."""
    each = [replace(EDGE, stream=f"one/{number}.example.test") for number in range(names)]
    for peer in each:
        recorder.subscribed(peer, "*.example.test")
    for peer in each:
        recorder.sent(peer, replace(resource(), name="*.example.test"))
    for peer in each:
        recorder.accepted(peer, "*.example.test", "v1", 1)
    for peer in each:
        recorder.disconnected(peer, "*.example.test")


def test_names_below_a_wildcard_cost_each_the_same_however_many_there_are(make):
    few, many = calls(story, make(), 100), calls(story, make(), 1000)

    assert many < 11 * few


def test_names_that_are_declared_cost_each_the_same_however_many_are_wanted(make):
    def declare(recorder, names):
        for name in names:
            recorder.declared(name)

    counts = []
    for number in (100, 1000):
        recorder, names = make(), [f"{n}.example.test" for n in range(number)]
        for name in names:
            recorder.subscribed(replace(EDGE, stream="one"), name)
        looked = Looked(recorder._streams)
        recorder._streams = looked
        declare(recorder, names)
        counts.append(looked.looks)

    assert [0, 0] == counts


class Looked(dict):
    """Counts how often all of it is gone through."""

    looks = 0

    def __iter__(self):
        self.looks += 1
        return super().__iter__()


def resource(generation=1):
    return Resource(name="www", version=f"v{generation}", generation=generation, body=b"")


async def delivery(database, secret="www"):
    (live,) = await targets.live_set(database, secret)
    return live.sent, live.accepted, live.refused, live.refusal


async def live(database, secret="www"):
    return [item.target.name for item in await targets.live_set(database, secret)]


async def actions(sql):
    return [row["action"] for row in await sql.fetch("SELECT action FROM certaudit ORDER BY id")]


async def denials(sql):
    return await sql.fetch(
        "SELECT subject, payload FROM certaudit WHERE action = 'delivery.denied' ORDER BY id"
    )


async def test_two_steps_at_once_write_a_denial_once(make, sql):
    """The last step of a process comes while its loop is at one."""
    recorder = make()
    recorder.denied(EDGE, "secret-of-others", Denied.UNGRANTED)
    await asyncio.gather(recorder.step(), recorder.step())

    assert 1 == await sql.fetchval("SELECT times FROM audit_tally WHERE action = 'delivery.denied'")


async def test_what_comes_together_is_written_as_one_row(recorder, declared, database, sql):
    recorder.subscribed(EDGE, "www")
    recorder.sent(EDGE, resource(1))
    recorder.accepted(EDGE, "www", "v1", 1)
    recorder.sent(EDGE, resource(2))
    await recorder.step()

    assert (2, 1, None, None) == await delivery(database)
    assert 1 == await sql.fetchval("SELECT count(*) FROM delivery")


async def test_who_is_registered_as_it_is_first_seen_is_one_target(
    recorder, declared, database, sql, connect
):
    recorder.sent(EDGE, resource(1))
    registering = await asyncpg.connect(**connect)
    async with registering.transaction():
        await registering.execute(
            "INSERT INTO target (name, identity, probe, registered, vouched)"
            " VALUES ('edge-1', $1, '127.0.0.1:1', true, true)",
            EDGE.identity,
        )
        step = asyncio.create_task(recorder.step())
        await until(
            partial(sql.fetchval, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        )
    await step
    await registering.close()

    assert [("edge-1", "edge-1", True)] == [
        (row["name"], row["node_id"], row["registered"]) for row in await sql.fetch("SELECT * FROM target")
    ]


async def test_what_was_written_is_not_written_again(recorder, declared, sql):
    recorder.accepted(EDGE, "www", "v1", 1)
    await recorder.step()
    before = await sql.fetchval("SELECT updated_at FROM delivery")
    await recorder.step()

    assert before == await sql.fetchval("SELECT updated_at FROM delivery")


async def test_an_acceptance_gives_the_prover_a_hint_once_it_is_written(
    recorder, cuttable, declared, written
):
    recorder.accepted(EDGE, "www", "v1", 1)
    cuttable.cut()
    with pytest.raises(Unavailable):
        await recorder.step()
    unwritten = list(written)
    cuttable.heal()
    await recorder.step()

    assert [] == unwritten
    assert ["www"] == written


async def test_news_wakes_the_writer(recorder):
    woken = []
    recorder.on_news = lambda: woken.append(True)
    recorder.sent(EDGE, resource())

    assert woken


async def test_nothing_is_lost_while_the_database_is_down(recorder, cuttable, declared, database, sql):
    recorder.subscribed(EDGE, "www")
    recorder.sent(EDGE, resource(1))
    cuttable.cut()
    with pytest.raises(Unavailable):
        await recorder.step()
    recorder.refused(EDGE, "www", "v1", 1, "KEY_VALUES_MISMATCH")
    recorder.denied(EDGE, "secret-of-others", Denied.UNGRANTED)
    with pytest.raises(Unavailable):
        await recorder.step()
    cuttable.heal()
    await recorder.step()

    assert (1, None, 1, "KEY_VALUES_MISMATCH") == await delivery(database)
    assert {"delivery.refused", "delivery.denied"} <= set(await actions(sql))


async def test_what_comes_while_a_batch_is_written_is_written_next(recorder, declared, database, monkeypatch):
    real = recorders.deliveries.write

    async def write(*args, **kwargs):
        monkeypatch.setattr(recorders.deliveries, "write", real)
        capped = await real(*args, **kwargs)
        recorder.accepted(EDGE, "www", "v2", 2)
        return capped

    monkeypatch.setattr(recorders.deliveries, "write", write)
    recorder.accepted(EDGE, "www", "v1", 1)
    await recorder.step()

    assert (None, 2, None, None) == await delivery(database)


async def test_more_than_a_batch_is_written_in_one_step(recorder, declared, database, monkeypatch):
    monkeypatch.setattr(recorders, "BATCH", 2)
    for number in range(5):
        recorder.subscribed(PeerNode(EDGE.identity, f"edge-{number}"), "www")
    await recorder.step()

    assert 5 == len(await live(database))


async def test_who_unsubscribes_counts_no_more(recorder, declared, database):
    recorder.subscribed(EDGE, "www")
    await recorder.step()
    recorder.unsubscribed(EDGE, "www")
    await recorder.step()

    assert [] == await live(database)


async def test_who_unsubscribes_on_one_of_two_streams_still_counts(recorder, declared, database):
    recorder.subscribed(EDGE, "www")
    recorder.subscribed(EDGE, "www")
    recorder.unsubscribed(EDGE, "www")
    await recorder.step()

    assert ["edge-1"] == await live(database)


async def test_who_is_cut_off_serves_on_and_counts_for_a_while(recorder, declared, database, sql, clock):
    recorder.subscribed(EDGE, "www")
    await recorder.step()
    await turn_clock(sql, SEEN_FOR / 2)  # no refresh is due yet by our clock
    recorder.disconnected(EDGE, "www")
    await recorder.step()
    await turn_clock(sql, SEEN_FOR * 1.4)
    still = await live(database)
    await turn_clock(sql, SEEN_FOR * 1.6)

    assert ["edge-1"] == still
    assert [] == await live(database)


async def test_a_living_subscription_counts_for_as_long_as_it_lives(recorder, declared, database, sql, clock):
    recorder.subscribed(EDGE, "www")
    await recorder.step()
    for minutes in (4, 8, 12, 16):
        clock.turn(timedelta(minutes=4))
        await turn_clock(sql, timedelta(minutes=minutes))
        await recorder.step()

    assert ["edge-1"] == await live(database)


async def test_who_wanted_a_name_before_it_was_declared_counts_from_then_on(recorder, issuances, database):
    """Else its rotation could be complete before the first thing that is heard of it."""
    recorder.subscribed(EDGE, "www")
    recorder.subscribed(EDGE, "other")
    await recorder.step()
    await issuances.declare()
    before = await live(database)
    recorder.declared("www")
    await recorder.step()

    assert ([], ["edge-1"]) == (before, await live(database))


async def test_a_subscription_that_ended_is_not_refreshed(recorder, declared, database, sql, clock):
    recorder.subscribed(EDGE, "www")
    recorder.disconnected(EDGE, "www")
    await recorder.step()
    clock.turn(SEEN_FOR)
    await turn_clock(sql, SEEN_FOR + timedelta(seconds=1))
    await recorder.step()

    assert [] == await live(database)


async def test_refused_content_is_known_at_once_and_after_a_restart(recorder, make, declared):
    recorder.refused(EDGE, "www", "v1", 1, "KEY_VALUES_MISMATCH")
    await recorder.step()
    restarted = make()
    await restarted.load()

    assert {("www", "v1")} == recorder.of(EDGE) == restarted.of(EDGE)
    assert frozenset() == restarted.of(PeerNode(EDGE.identity, "edge-2"))


async def test_content_refused_while_the_database_is_down_survives_as_well(
    recorder, make, cuttable, declared
):
    recorder.refused(EDGE, "www", "v1", 1, "KEY_VALUES_MISMATCH")
    cuttable.cut()
    with pytest.raises(Unavailable):
        await recorder.step()
    cuttable.heal()
    await recorder.step()
    restarted = make()
    await restarted.load()

    assert {("www", "v1")} == restarted.of(EDGE)


async def test_two_refusals_before_a_write_are_both_kept(recorder, make, declared):
    """The same generation under two versions: the salted one is refused as well."""
    recorder.refused(EDGE, "www", "v1", 1, "first")
    recorder.refused(EDGE, "www", "v1-salted", 1, "second")
    await recorder.step()
    restarted = make()
    await restarted.load()

    assert {("www", "v1"), ("www", "v1-salted")} == restarted.of(EDGE)


async def test_a_refusal_is_forgotten_when_its_content_can_be_offered_no_more(
    recorder, make, issuances, clock, sql
):
    """Two rotations later: the one that is served and the one before it are both newer."""
    declared = await issuances.declare()
    await issuances.issue(declared)
    recorder.refused(EDGE, "www", "v1", 1, "KEY_VALUES_MISMATCH")
    await recorder.step()
    kept = []
    for _ in range(2):
        kept.append(recorder.of(EDGE))
        await rotations.open_for(issuances.database, "www", reason=Reason.OPERATOR, actor="person:test")
        await issuances.issue(declared)
        clock.turn(SWEEP)
        await recorder.step()
    roll_out = await roll_outs.get(issuances.database, "www")
    await confirm(issuances.database, roll_out, proved=[], actor="r", unobserved=True)
    recorder.refused(EDGE, "www", "v3", 3, "KEY_VALUES_MISMATCH")
    clock.turn(SWEEP)
    await recorder.step()

    assert [{("www", "v1")}] * 2 == kept
    assert {("www", "v3")} == recorder.of(EDGE)
    assert ["v3"] == [row["version"] for row in await sql.fetch("SELECT version FROM refused_content")]


async def test_what_is_refused_while_the_refusals_are_read_is_not_forgotten(recorder, declared, monkeypatch):
    real = recorders.refusals.newest

    async def newest(database):
        found = await real(database)
        recorder.refused(EDGE, "www", "v2", 2, "KEY_VALUES_MISMATCH")
        return found

    monkeypatch.setattr(recorders.refusals, "newest", newest)
    await recorder.load()

    assert {("www", "v2")} == recorder.of(EDGE)


async def test_the_newest_refusals_are_read_where_there_are_too_many(recorder, make, declared, monkeypatch):
    monkeypatch.setattr(recorders.refusals, "NEWEST", 1)
    for version in ("v1", "v2"):
        recorder.refused(EDGE, "www", version, 1, "KEY_VALUES_MISMATCH")
        await recorder.step()
    restarted = make()
    await restarted.load()

    assert {("www", "v2")} == restarted.of(EDGE)


async def test_a_name_that_the_peer_may_not_see_makes_no_delivery(recorder, issuances, sql):
    await issuances.declare("secret-of-others", ["others.example.test"])
    recorder.subscribed(EDGE, "secret-of-others")
    await recorder.step()
    recorder.unsubscribed(EDGE, "secret-of-others")
    await recorder.step()

    assert 0 == await sql.fetchval("SELECT count(*) FROM delivery")


async def test_who_may_not_see_what_it_wanted_counts_no_more(recorder, declared, database, clock):
    """Of what kind a name is shows when it is loaded: a roll-out must not wait for who never gets it."""
    streaming = replace(EDGE, stream="one")
    recorder.subscribed(streaming, "www")
    await recorder.step()
    before = await live(database)
    recorder.denied(streaming, "www", Denied.UNGRANTED)
    await recorder.step()
    clock.turn(SEEN_FOR)
    await recorder.step()

    assert ["edge-1"] == before
    assert [] == await live(database)


async def test_who_polled_for_what_it_may_not_see_does_not_count(recorder, declared, database):
    allowed = {"www"}
    recorder._authorize = lambda _identity, name: name in allowed
    recorder.subscribed(EDGE, "www")
    allowed.clear()
    recorder.disconnected(EDGE, "www")
    await recorder.step()

    assert [] == await live(database)


async def test_a_denial_is_audited_with_who_asked_for_what(recorder, sql):
    recorder.denied(EDGE, "secret-of-others", Denied.UNGRANTED)
    await recorder.step()
    await recorder.step()
    (row,) = await sql.fetch("SELECT subject, actor, payload FROM certaudit WHERE action = 'delivery.denied'")

    assert ("secret-of-others", "replica:test") == (row["subject"], row["actor"])
    assert EDGE.identity == json.loads(row["payload"])["identity"]


async def test_of_many_denials_a_few_are_written_and_the_rest_counted(recorder, database, sql, clock):
    """How much is written is not what a client decides, however long it asks and whatever it makes up."""
    other = PeerNode(Identity("spiffe://example.test/other"), "o")
    for number in range(15):
        recorder.denied(EDGE, f"secret-of-others-{number}", Denied.UNGRANTED)
    recorder.denied(other, "secret-of-others", Denied.UNGRANTED)
    await recorder.step()
    for number in range(15, 38):
        recorder.denied(EDGE, f"secret-of-others-{number}", Denied.UNGRANTED)
        await recorder.step()
    await audit.end_windows(database, limit=100, actor="replica:test")
    before = [row["subject"] for row in await denials(sql)]
    await turn_clock(sql, audit.WINDOW)
    ended = [await audit.end_windows(database, limit=100, actor="replica:test") for _ in range(2)]
    *_, last = await denials(sql)

    assert {"secret-of-others", *(f"secret-of-others-{number}" for number in range(10))} == set(before)
    assert 11 == len(before)
    assert [2, 0] == ended
    assert 12 == len(await denials(sql))
    assert (EDGE.identity, 28) == (last["subject"], json.loads(last["payload"])["more"])


async def test_in_the_next_window_a_denial_is_written_again(recorder, database, sql):
    for _ in range(11):
        recorder.denied(EDGE, "secret-of-others", Denied.UNGRANTED)
    await recorder.step()
    await turn_clock(sql, audit.WINDOW)
    await Scheduler(
        database=database, tokens=Tokens(database), clock=SystemClock(), actor="replica:test"
    ).step()
    recorder.denied(EDGE, "secret-of-others-again", Denied.UNGRANTED)
    await recorder.step()

    assert "secret-of-others-again" == (await denials(sql))[-1]["subject"]


async def test_denials_are_bounded_while_the_database_is_down(recorder, cuttable, sql):
    for number in range(MAX_DENIED + 10):
        stranger = PeerNode(Identity(f"spiffe://example.test/{number}"), "n")
        for _ in range(20):
            recorder.denied(stranger, "secret-of-others", Denied.UNGRANTED)
    cuttable.cut()
    with pytest.raises(Unavailable):
        await recorder.step()
    kept = recorder.unwritten
    cuttable.heal()
    recorder.denied(EDGE, "secret-of-others", Denied.UNGRANTED)

    assert MAX_DENIED == kept == recorder.unwritten


async def test_the_first_answer_of_each_kind_is_audited_with_what_it_was_about(
    recorder, declared, issuances, sql
):
    """Identity, node, serial number, key and nonce, so that a log of the proxy's can be laid beside it."""
    certificate = await issuances.issue(declared)
    for generation, nonce in ((1, "n-1"), (1, "n-2")):
        recorder.accepted(EDGE, "www", "v1", generation, nonce=nonce)
        await recorder.step()
    recorder.refused(EDGE, "www", "v1", 1, "bad", nonce="n-3")
    await recorder.step()
    rows = await sql.fetch("SELECT cert_id, payload FROM certaudit WHERE action ~ '^delivery' ORDER BY id")
    told = [json.loads(row["payload"]) for row in rows]
    known = ("action", "identity", "node_id", "serial_number", "key_id", "nonce", "refusal")
    what = (EDGE.identity, "edge-1", certificate.serial_number, str(certificate.key_id))

    assert [("delivery.accepted", *what, "n-1", None), ("delivery.refused", *what, "n-3", "bad")] == [
        tuple(entry[key] for key in known) for entry in told
    ]
    assert [certificate.id] * 2 == [row["cert_id"] for row in rows]


async def test_what_left_without_a_word_is_audited_once(recorder, declared, issuances, sql):
    """Who takes a key and says nothing has it all the same."""
    certificate = await issuances.issue(declared)
    for _ in range(2):
        recorder.sent(EDGE, resource(1))
        await recorder.step()
    row = await sql.fetchrow("SELECT cert_id, subject FROM certaudit WHERE action = 'delivery.sent'")

    assert (certificate.id, "www") == tuple(row)
    assert 1 == (await actions(sql)).count("delivery.sent")


async def test_what_was_answered_at_once_needs_no_entry_besides(recorder, declared, issuances, sql):
    await issuances.issue(declared)
    recorder.sent(EDGE, resource(1))
    recorder.accepted(EDGE, "www", "v1", 1)
    await recorder.step()

    assert ["delivery.accepted"] == [action for action in await actions(sql) if "delivery" in action]


@pytest.mark.parametrize(
    "others",
    [
        [EDGE, PeerNode(EDGE.identity, EDGE.node_id, TargetKind.NGINX)],
        [PeerNode(EDGE.identity, "x" * 400 + last) for last in "ab"],
    ],
    ids=["an Envoy and an agent", "alike as far as is kept"],
)
async def test_who_is_one_target_is_one_peer(recorder, declared, database, others):
    """As two in one batch they would be one row twice, which nothing writes: all would wait for ever."""
    for peer in others:
        recorder.subscribed(peer, "www")
    await recorder.step()

    assert 1 == len(await live(database))


@pytest.mark.parametrize("node_id", ["edge\x00", "x" * 5000, "\u2028" * 400])
async def test_a_node_id_that_no_table_takes_holds_up_nobody(recorder, declared, database, node_id):
    recorder.accepted(PeerNode(EDGE.identity, node_id), "www", "v1", 1)
    recorder.accepted(EDGE, "www", "v1", 1)
    await recorder.step()

    assert "edge-1" in await live(database)
    assert 2 == len(await live(database))
