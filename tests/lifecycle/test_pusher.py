# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""Pushes: an agent that fetches nothing gets what it is offered, and its word is a report like any other."""

import asyncio
import json
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random

import pytest

from sds_server.admin.target_shapes import Delivery
from sds_server.clock import SystemClock
from sds_server.errors import CallerError, Unavailable
from sds_server.inventory import deliveries, freezes, progress, pushes, roll_outs, rotations, targets
from sds_server.inventory.deliveries import News
from sds_server.lifecycle import pusher as pushers
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.pusher import AT_ONCE, LEASE, Pusher, pause_s
from sds_server.model import Outcome, Reason
from sds_server.xds.catalog import Catalog
from tests.support.admin import agents_of
from tests.support.agents import LOOPBACK, Program, agent, answering, enrolled, enroller_of, request_of
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase, Listener
from tests.support.issuances import Issuances
from tests.support.pki import authority as any_authority

SEEN_FOR = timedelta(minutes=10)
RESERVED = "spiffe://certvoy/"

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
ANSWERS = [
    (b'HTTP/1.1 503 Busy\r\nRetry-After: 900\r\n\r\n{"detail": "one\\nis under way"}', "HTTP 503: one is"),
    (HEAD + b"nonsense", "not JSON"),
    (HEAD + b"[" * 60_000, "not JSON"),
    (HEAD + b'{"state": ["proved"], "generation": 1}', "its state is none of"),
    (b"HTTP/1.1 500 Oops\r\n\r\n" + b"[" * 60_000, "HTTP 500"),
    (HEAD + b'{"state": "proved", "generation": 1}', "served_fingerprint"),
    (HEAD + b'{"state": "accepted", "generation": 7}', "generation 7"),
    (
        HEAD + b'{"state": "proved", "generation": 1, "served_fingerprint": "%s"}' % (b"0" * 64),
        "not the current leaf",
    ),
]
"""What an endpoint says, and what is told of it."""


def identity(name):
    return f"{RESERVED}proxy/{name}"


@pytest.fixture
async def issuances(database, tmp_path):
    return await Issuances.open(database, tmp_path)


@pytest.fixture
async def enroller(database, tmp_path):
    return await enroller_of(database, tmp_path)


class Replica:
    """The publisher and the pusher of one replica."""

    def __init__(self, database, issuances, enroller):
        clock = SystemClock()
        self.catalog = Catalog()
        self.publisher = Publisher(
            database=database,
            sealer=issuances.sealer,
            catalog=self.catalog,
            version_key=b"k" * 32,
            clock=clock,
            actor="replica:test",
        )
        self.admission = Admission(
            database=database, enroller=enroller, configured=[], trust_domain="certvoy", clock=clock
        )
        self.said, self.results, self._tasks = [], [], set()
        self.pusher = Pusher(
            database=database,
            catalog=self.catalog,
            agents=agents_of(enroller, self.admission, allowed=LOOPBACK, total_s=30.0),
            authorize=self.admission.authorize,
            seen_for=SEEN_FOR,
            clock=clock,
            rng=Random(1),
            actor="replica:test",
        )
        self.pusher.on_said, self.pusher.on_pushed = self.said.append, self.results.append
        self.catalog.on_want = self._want

    def _want(self, name):
        self.publisher.want(name)
        self._tasks.add(asyncio.create_task(self.publisher.step()))

    async def push(self):
        """Push all that is due, as a replica does that has heard of all that changed."""
        await self.admission.step()
        self.publisher.missed()
        await self.publisher.step()
        await self.pusher.step()


@pytest.fixture
async def replica(database, issuances, enroller):
    return Replica(database, issuances, enroller)


@pytest.fixture
def prover(database):
    return Prover(database=database, settle=timedelta(hours=1), clock=SystemClock(), actor="replica:test")


@pytest.fixture
def credential(enroller, tmp_path):
    """Enrol a proxy; returns the files of its certificate and key."""

    async def credential(name):
        return (await enrolled(enroller, tmp_path, name)).held().paths[:2]

    return credential


@pytest.fixture
async def hosts(database, enroller, tmp_path):
    """Run hosts, each with a program and an agent that is pushed to; registered for www."""
    async with AsyncExitStack() as stack:

        async def host(name, *, names=("www",), probed=False, kind="nginx"):
            listener = await stack.enter_async_context(Listener(tmp_path))
            listener.serve(any_authority().issue(dns=["stopgap.example.test"]))
            program = Program(listener)
            files = await enrolled(enroller, tmp_path, name, names=names)
            url = await stack.enter_async_context(agent(files, program))
            await register(database, name, url, probe=listener.address if probed else None, kind=kind)
            return program

        yield host


async def register(database, name, url, *, probe=None, by=None, kind="nginx"):
    await targets.register(
        database,
        name,
        probe=probe,
        identity=by or identity(name),
        node_id=None,
        serves=["www"],
        kind=kind,
        push=url,
        reserved=RESERVED,
        actor="person:test",
    )


async def rotate(database, issuances, declared):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    return await issuances.issue(declared)


async def outcome(database):
    return (await progress.latest(database, "www")).outcome


async def told(database, name):
    """The state and reason of www at a target, as people are told."""
    (live,) = [item for item in await targets.live_set(database, "www") if item.target.name == name]
    delivery = Delivery.of(live, secret="www")
    return delivery.state, delivery.reason


@pytest.mark.parametrize(("named", "known"), [(None, "nginx"), ("haproxy", "haproxy")])
async def test_which_program_it_is_its_agent_says_unless_somebody_has(
    database, issuances, replica, hosts, named, known
):
    await issuances.issue(await issuances.declare())
    await hosts("web-1", kind=named)
    before = (await targets.get(database, "web-1")).target.kind
    await replica.push()

    assert (named or "files", known) == (before, (await targets.get(database, "web-1")).target.kind)


async def test_an_agent_that_is_only_pushed_to_completes_rotations_by_its_proof(
    database, issuances, replica, prover, hosts
):
    declared = await issuances.declare()
    web = await hosts("web-1")
    for generation in (1, 2):
        certificate = await (
            issuances.issue(declared) if generation == 1 else rotate(database, issuances, declared)
        )
        await replica.push()
        await prover.step()

        assert Outcome.COMPLETED == await outcome(database)
        assert certificate.fingerprint == web.given[-1].fingerprint

    assert (["proved"] * 2, ["www"] * 2) == (replica.results, replica.said)
    assert [1, 2] == [given.generation for given in web.given]


async def test_what_is_proved_is_not_pushed_again(database, issuances, replica, prover, hosts):
    web = (
        await hosts(
            "web-1",
        )
        if await issuances.declare()
        else None
    )
    await issuances.issue(await issuances.declare())
    for _ in range(3):
        await replica.push()
        await prover.step()

    assert 1 == len(web.given)


async def test_whose_word_is_overdue_is_asked_again_though_it_is_proved(
    database, issuances, replica, prover, hosts, sql
):
    """It cannot call us, say; what is pushed to it again it has already, and looks."""
    declared = await issuances.declare()
    web = await hosts("web-1")
    certificate = await issuances.issue(declared)
    await replica.push()
    await prover.step()

    async def after(hours):
        await sql.execute("UPDATE delivery SET said_at = now() - make_interval(hours => $1)", hours)
        await replica.push()
        return (await told(database, "web-1"))[0], len(web.given)

    assert [("proved", 1), ("proved", 2), ("proved", 2)] == [await after(hours) for hours in (1, 4, 0)]
    assert certificate.fingerprint == web.given[-1].fingerprint

    web.sees = False

    assert ("unseen", 3) == await after(4)

    web.sees = True
    await sql.execute("UPDATE delivery SET push_at = now()")

    assert ("proved", 4) == await after(4)


async def test_who_refused_what_it_had_is_asked_again_though_nothing_is_rolled_out(
    database, issuances, replica, prover, hosts, sql
):
    """Its program served something else when it was asked, and has been mended since: only asking tells."""
    declared = await issuances.declare()
    web = await hosts("web-1")
    await issuances.issue(declared)
    await replica.push()
    await prover.step()
    web.dislikes = "it serves another leaf"
    await sql.execute("UPDATE delivery SET said_at = now() - interval '2 hours'")
    await replica.push()
    refused = await told(database, "web-1")
    web.dislikes = None
    await turn_clock(sql, timedelta(hours=2))
    await replica.push()

    assert ("refused", "it serves another leaf") == refused
    assert ("proved", None) == await told(database, "web-1")


async def test_what_moved_elsewhere_is_pushed_there(database, issuances, replica, prover, hosts):
    """What an agent proved says nothing of a host that takes its place."""
    declared = await issuances.declare()
    old = await hosts("web-1")
    await issuances.issue(declared)
    await replica.push()
    await prover.step()
    new = await hosts("web-1")
    before = (await told(database, "web-1"))[0]
    await replica.push()

    assert ("accepted", [1], [1]) == (before, generations(old), generations(new))
    assert ("proved", None) == await told(database, "web-1")

    await register(database, "web-1", (await targets.get(database, "web-1")).target.push)

    assert ("proved", None) == await told(database, "web-1"), "named again as it is, it has not moved"


async def test_an_answer_from_where_it_was_proves_nothing_of_where_it_is(
    database, issuances, replica, hosts, sql
):
    """The host is replaced while its agent looks whether the pair is served."""
    declared = await issuances.declare()
    old = await hosts("web-1")
    await issuances.issue(declared)
    call, moved = replica.pusher._agents.call, []

    async def answered_late(*what, **more):
        reply = await call(*what, **more)
        if not moved:
            moved.append(await hosts("web-1"))
        return reply

    replica.pusher._agents.call = answered_late
    await replica.push()
    before = (await told(database, "web-1"))[0]
    await turn_clock(sql, LEASE)
    await replica.push()

    assert "proved" != before
    assert ([1], [1]) == (generations(old), generations(moved[0]))
    assert ("proved", None) == await told(database, "web-1")


async def test_whose_word_is_overdue_waits_for_no_fleet_that_is_away(
    database, issuances, replica, hosts, sql
):
    declared = await issuances.declare()
    await hosts("web-1")
    await issuances.issue(declared)
    await replica.push()
    await sql.execute("UPDATE delivery SET said_at = now() - interval '2 hours'")
    await hosts("away-1")
    await register(database, "away-1", "https://127.0.0.1:1")
    await replica.push()
    await sql.execute("UPDATE delivery SET said_at = now() - interval '2 hours'")
    await turn_clock(sql, timedelta(minutes=5))
    (first,) = await pushes.claim(database, lease_for=LEASE, limit=1)

    assert "web-1" == first.target.name


async def test_two_replicas_push_once(database, issuances, enroller, hosts):
    declared = await issuances.declare()
    web = await hosts("web-1")
    certificate = await issuances.issue(declared)
    deliver = web.deliver

    async def slowly(bundle):
        await asyncio.sleep(0.3)
        return await deliver(bundle)

    web.deliver = slowly
    replicas = [Replica(database, issuances, enroller) for _ in range(2)]
    await asyncio.gather(*(one.push() for one in replicas))

    assert [certificate.fingerprint] == [given.fingerprint for given in web.given]
    assert ["proved"] == [result for one in replicas for result in one.results]


async def test_a_refusal_is_told_in_its_words_and_those_bytes_are_not_pushed_again(
    database, issuances, replica, hosts, sql
):
    declared = await issuances.declare()
    web = await hosts("web-1")
    await issuances.issue(declared)
    web.dislikes = "nginx: [emerg] unknown directive"
    await replica.push()
    await turn_clock(sql, timedelta(minutes=10))
    await replica.push()

    assert ("refused", "nginx: [emerg] unknown directive") == await told(database, "web-1")
    assert 1 == len(web.given)

    # The roll-out offers it as other bytes, to be judged anew.
    web.dislikes = None
    await sql.execute("UPDATE delivery SET salt = 1, salted_at = certvoy_now()")
    await replica.push()

    assert "proved" == (await told(database, "web-1"))[0]
    assert web.given[0].version != web.given[1].version
    assert web.given[0].fingerprint == web.given[1].fingerprint


async def staged(database, issuances, replica, prover, hosts):
    """Let www be rolled out to one of two hosts; returns its canary and the other one, by name."""
    declared = await issuances.declare()
    found = {name: await hosts(name) for name in ("web-1", "web-2")}
    await issuances.issue(declared)
    await replica.push()
    await prover.step()
    await rotate(database, issuances, declared)
    (canary,) = (await progress.latest(database, "www")).canaries
    return found.pop(canary), found.popitem()[1]


def generations(program):
    return [given.generation for given in program.given]


async def test_canaries_are_pushed_to_first_and_all_others_once_they_are_proved(
    database, issuances, replica, prover, hosts
):
    canary, other = await staged(database, issuances, replica, prover, hosts)
    await replica.push()
    await replica.push()

    assert ([1, 2], [1]) == (generations(canary), generations(other))

    await prover.step()
    await replica.push()
    await prover.step()

    assert ([1, 2], [1, 2]) == (generations(canary), generations(other))
    assert Outcome.COMPLETED == await outcome(database)


async def test_a_frozen_secret_is_pushed_to_nobody_else(database, issuances, replica, prover, hosts):
    canary, other = await staged(database, issuances, replica, prover, hosts)
    await freezes.freeze(database, "www", reason="wait", actor="person:test")
    await replica.push()
    await prover.step()
    await replica.push()

    assert ([1, 2], [1]) == (generations(canary), generations(other))


async def test_what_is_taken_back_is_pushed_back(database, issuances, replica, prover, hosts):
    canary, other = await staged(database, issuances, replica, prover, hosts)
    await replica.push()
    await roll_outs.roll_back(database, "www", actor="person:test")
    await replica.push()

    assert ([1, 2, 1], [1]) == (generations(canary), generations(other))
    assert canary.given[0].fingerprint == canary.given[2].fingerprint


@pytest.mark.parametrize("says", ["accepted", "proved"])
async def test_what_is_taken_back_before_it_is_proved_is_pushed_back(
    database, issuances, replica, prover, hosts, sql, says
):
    """What was proved of the one before is not what an agent serves that was given the next one."""
    canary, _ = await staged(database, issuances, replica, prover, hosts)
    canary.sees = says == "proved"
    if says == "proved":
        canary.after = lambda: roll_outs.roll_back(database, "www", actor="person:test")
    await replica.push()
    canary.after = None
    if says == "accepted":
        await roll_outs.roll_back(database, "www", actor="person:test")
    canary.sees = True
    before = {(await told(database, name))[0] for name in ("web-1", "web-2")}
    await turn_clock(sql, timedelta(seconds=2))
    await replica.push()
    after = {(await told(database, name))[0] for name in ("web-1", "web-2")}

    assert [1, 2, 1] == generations(canary)
    assert ({"accepted", "proved"}, {"proved"}) == (before, after)


async def test_what_a_frozen_replica_brings_too_late_is_pushed_over(
    database, issuances, replica, prover, hosts, enroller, sql
):
    """It wakes after its lease, with what was taken back meanwhile."""
    canary, _ = await staged(database, issuances, replica, prover, hosts)
    frozen = Replica(database, issuances, enroller)
    sending, awake = asyncio.Event(), asyncio.Event()
    call = frozen.pusher._agents.call

    async def late(*what, **more):
        sending.set()
        await awake.wait()
        return await call(*what, **more)

    frozen.pusher._agents.call = late
    pushing = asyncio.create_task(frozen.push())
    await sending.wait()
    await roll_outs.roll_back(database, "www", actor="person:test")
    await turn_clock(sql, LEASE)
    await replica.push()
    awake.set()
    await pushing
    state = {(await told(database, name))[0] for name in ("web-1", "web-2")}
    await turn_clock(sql, LEASE + timedelta(seconds=2))
    await replica.push()

    assert [1, 1, 2, 1] == generations(canary)
    assert state != {"proved"}
    assert {"proved"} == {(await told(database, name))[0] for name in ("web-1", "web-2")}


async def test_who_cannot_be_reached_is_told_with_the_reason_and_tried_again(
    database, issuances, replica, hosts, sql
):
    declared = await issuances.declare()
    web = await hosts("web-1")
    url = (await targets.get(database, "web-1")).target.push
    await register(database, "web-1", "https://127.0.0.1:1")
    await issuances.issue(declared)
    await replica.push()
    await replica.push()
    state, reason = await told(database, "web-1")

    assert ("never", 1) == (state, replica.results.count("failed"))
    assert reason.startswith("push: https://127.0.0.1:1: ")

    await turn_clock(sql, timedelta(seconds=5))
    await replica.push()
    attempts = await sql.fetchval("SELECT push_attempts FROM delivery")

    assert (2, 2) == (replica.results.count("failed"), attempts)

    await register(database, "web-1", url)  # its address is mended: at once
    await replica.push()

    assert ("proved", None) == await told(database, "web-1")
    assert 1 == len(web.given)


async def test_an_impostor_is_named_audited_once_and_given_nothing(issuances, replica, credential, sql):
    database, declared = issuances.database, await issuances.declare()
    await credential("web-1")
    other = await credential("web-2")
    heard = []

    async def listen(reader, writer):
        heard.append(await request_of(reader))

    await issuances.issue(declared)
    async with answering(listen, other) as url:
        await register(database, "web-1", url)
        await replica.push()
        await turn_clock(sql, timedelta(minutes=1))
        await replica.push()

    _, reason = await told(database, "web-1")
    audited = await sql.fetch("SELECT subject, payload FROM certaudit WHERE action = 'push.impostor'")

    assert "it is spiffe://certvoy/proxy/web-2" in reason
    assert [("web-1", url)] == [(row["subject"], json.loads(row["payload"])["push"]) for row in audited]
    assert (["impostor"] * 2, []) == (replica.results, heard)


async def test_without_a_grant_nothing_is_pushed(database, issuances, replica, hosts):
    declared = await issuances.declare()
    web = await hosts("web-1", names=("mail",))
    await issuances.issue(declared)
    await replica.push()

    assert "no grant lets spiffe://certvoy/proxy/web-1 see www" in (await told(database, "web-1"))[1]
    assert [] == web.given


async def test_one_that_never_answers_keeps_no_other_waiting(issuances, replica, credential, hosts):
    database, declared = issuances.database, await issuances.declare()
    web = await hosts("web-1")
    dark = await credential("dark")
    await issuances.issue(declared)

    async def silent(reader, writer):
        await reader.read()
        await asyncio.Event().wait()

    async with answering(silent, dark) as url:
        await register(database, "dark", url)
        pushing = asyncio.create_task(replica.push())
        async with asyncio.timeout(20):
            while not replica.results:
                await asyncio.sleep(0.02)
        still = not pushing.done()
        pushing.cancel()

    assert (["proved"], True, 1) == (replica.results, still, len(web.given))


async def test_at_most_a_few_are_pushed_at_once(database, issuances, replica, credential):
    declared = await issuances.declare()
    busy = most = 0

    async def slow(reader, writer):
        nonlocal busy, most
        await request_of(reader)
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.2)
        busy -= 1

    many = AT_ONCE + 4
    shown = await credential("web")
    await issuances.issue(declared)
    async with answering(slow, shown) as url:
        for number in range(many):
            await targets.register(
                database,
                f"web-{number}",
                probe=None,
                identity=identity("web"),
                node_id=f"web-{number}",
                serves=["www"],
                push=url,
                reserved=RESERVED,
                actor="person:test",
            )
        await replica.push()

    assert many <= len(replica.results)
    assert most == AT_ONCE


async def test_what_a_dead_replica_had_is_pushed_after_its_lease(database, issuances, replica, hosts, sql):
    declared = await issuances.declare()
    web = await hosts("web-1")
    await issuances.issue(declared)
    (claimed,) = await pushes.claim(database, lease_for=LEASE, limit=9)
    await replica.push()
    before = len(web.given)
    await turn_clock(sql, LEASE)
    await replica.push()

    assert ("web-1", 1, 1) == (claimed.target.name, claimed.generation, claimed.attempt)
    assert (0, 1) == (before, len(web.given))


async def test_where_we_can_look_the_agents_word_is_only_a_reason_to(
    database, issuances, replica, prover, hosts
):
    declared = await issuances.declare()
    await hosts("web-1", probed=True)
    await issuances.issue(declared)
    await replica.push()

    assert ["www"] == replica.said
    assert "accepted" == (await told(database, "web-1"))[0]

    await prover.step()

    assert ("proved", None) == await told(database, "web-1")


async def test_an_agent_that_sees_another_leaf_proves_nothing_and_is_asked_again(
    issuances, replica, prover, hosts, sql
):
    """Nobody else can look: when its program serves the leaf at last, only asking tells."""
    database = issuances.database
    declared = await issuances.declare()
    web = await hosts("web-1")
    web.keeps_old = True
    await issuances.issue(declared)
    await replica.push()
    await prover.step()

    assert "accepted" == (await told(database, "web-1"))[0]
    assert await outcome(database) is None

    web.keeps_old = False
    await replica.push()
    early = len(web.given)
    await turn_clock(sql, timedelta(seconds=20))
    await replica.push()
    await prover.step()

    assert (1, 2) == (early, len(web.given))
    assert Outcome.COMPLETED == await outcome(database)


@pytest.mark.parametrize("said", ANSWERS)
async def test_an_answer_that_is_no_report_proves_nothing(issuances, replica, credential, sql, said):
    (said, why), database, declared = said, issuances.database, await issuances.declare()
    shown = await credential("web-1")
    await issuances.issue(declared)

    async def answer(reader, writer):
        await request_of(reader)
        writer.write(said)
        await writer.drain()

    async with answering(answer, shown) as url:
        await register(database, "web-1", url)
        await replica.push()
    state, reason = await told(database, "web-1")
    pause = await sql.fetchval("SELECT push_at - certvoy_now() FROM delivery")
    exported = await sql.fetch("SELECT subject FROM certaudit WHERE action = 'delivery.sent'")

    assert "sent" == state
    assert ["www"] == [row["subject"] for row in exported], "who has the key, whatever it says"
    assert why in reason
    assert (pause > timedelta(minutes=14)) == (b"Retry-After" in said)


async def test_while_the_database_is_away_what_was_claimed_is_taken_up_again_later(
    database, issuances, enroller, hosts, sql
):
    declared = await issuances.declare()
    web = await hosts("web-1")
    await issuances.issue(declared)
    away = CuttableDatabase(database)
    replica = Replica(database, issuances, enroller)
    replica.pusher._database = away
    away.cut(after=1)  # the claim, and no more
    with pytest.raises(Unavailable):
        await replica.push()
    away.heal()
    await turn_clock(sql, LEASE)
    await replica.push()

    assert [1, 1] == generations(web)
    assert ("proved", None) == await told(database, "web-1")


async def test_who_is_pushed_to_and_fetches_later_is_one_target(database, issuances, replica, hosts):
    declared = await issuances.declare()
    await hosts("web-1")
    await issuances.issue(declared)
    await replica.push()
    fetched = News(
        identity=identity("web-1"),
        node_id=identity("web-1"),
        secret="www",
        sent=1,
        accepted=None,
        refused=None,
        refusal=None,
        refused_version=None,
        seen_for=SEEN_FOR,
    )
    await deliveries.write(database, [fetched], actor="replica:test")

    assert ["web-1"] == [live.target.name for live in await targets.live_set(database, "www")]


@pytest.mark.parametrize("who", [None, "spiffe://example.test/web-1", "dns:web-1.example.test"])
async def test_who_could_not_be_told_from_an_impostor_cannot_be_pushed_to(database, issuances, who):
    await issuances.declare()
    with pytest.raises(CallerError) as refused:
        await targets.register(
            database,
            "web-1",
            probe=None,
            identity=who,
            node_id=None,
            serves=["www"],
            push="https://web-1:443",
            reserved=RESERVED,
            actor="person:test",
        )

    assert "cannot be pushed to" in str(refused.value)
    assert "--identity spiffe://certvoy/proxy/web-1" in refused.value.next_step


async def test_a_push_address_stays_until_it_is_taken_away(database, issuances, hosts, replica):
    declared = await issuances.declare()
    web = await hosts("web-1")
    for push, left in ((None, True), ("", False)):
        await register(database, "web-1", push)

        assert left == ((await targets.get(database, "web-1")).target.push is not None)
    await issuances.issue(declared)
    await replica.push()

    assert [] == web.given


def test_pauses_grow_to_five_minutes_and_are_never_shorter_than_asked_for():
    rng = Random(1)
    pauses = [pause_s(attempt, after_s=None, rng=rng) for attempt in range(1, 15)]

    assert 0.5 <= pauses[0] <= 1.0
    assert max(pauses) <= pushers.LONGEST_PAUSE_S
    assert 150 <= pauses[-1]
    assert 900 <= pause_s(1, after_s=900.0, rng=rng)
