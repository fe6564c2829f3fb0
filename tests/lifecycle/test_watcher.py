"""The watcher: what was proved is looked at for ever, and healed where something else is served."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from sds_server.errors import Unavailable
from sds_server.inventory import certificates, declarations, deliveries, offers, targets, watches
from sds_server.inventory.deliveries import News
from sds_server.inventory.voices import Look
from sds_server.inventory.watches import Seen, asked_for
from sds_server.lifecycle import looks
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.watcher import Watcher
from sds_server.model import Identity, Peer, ProvedBy
from sds_server.programs.child import free_port
from tests.support import haproxy
from tests.support.clocks import HastyClock
from tests.support.databases import turn_clock
from tests.support.fakes import Listener, pair_of
from tests.support.quic_server import QuicListener
from tests.support.roll_outs import rolling_out

EVERY = timedelta(minutes=5)
LATER = EVERY * 2
EDGE = Peer(Identity("spiffe://example.test/edge-1"), "edge-1")


class Watch:
    """An Envoy that was proved to serve what it should, and what is seen of it since."""

    def __init__(self, issuances, sql, listener):
        self.issuances, self.sql, self.listener = issuances, sql, listener
        self.database = issuances.database
        self.watcher = Watcher(database=self.database, every=EVERY, clock=HastyClock(), actor="replica:test")
        self.seen = []
        self.watcher.on_seen = self.seen.append
        self.pair, self.turned = None, timedelta(0)

    async def prove(self, domains=("www.example.test",)):
        declared = await self.issuances.declare(domains=domains)
        self.pair = await pair_of(self.issuances, await self.issuances.issue(declared))
        self.listener.serve(self.pair)
        await Prover(database=self.database, settle=EVERY, clock=HastyClock(), actor="replica:test").step()

    async def subscribe(self, accepted=1, refused=None, sent=1):
        news = News(
            *EDGE,
            "www",
            sent=sent,
            accepted=accepted,
            refused=refused,
            refusal=None,
            refused_version=None,
            seen_for=timedelta(days=1),
        )
        await deliveries.write(self.database, [news], actor="replica:test")

    async def look(self, after=timedelta(0)):
        self.turned += after
        await turn_clock(self.sql, self.turned)
        await self.watcher.step()
        return self.seen[-1] if self.seen else None

    def serve_another(self):
        self.listener.serve(self.issuances.ca.issue(dns=["www.example.test"]))

    async def live(self):
        (live,) = await targets.live_set(self.database, "www")
        return live

    async def salt(self):
        return (await offers.of(self.database, ["www"]))["www"].salted.get(EDGE)

    async def audited(self):
        rows = await self.sql.fetch("SELECT action FROM certaudit WHERE action LIKE 'delivery%' ORDER BY id")
        return [row["action"] for row in rows if row["action"] not in {"delivery.sent", "delivery.accepted"}]


@pytest.fixture
async def watch(issuances, sql, tmp_path):
    async with Listener(tmp_path) as listener:
        made = Watch(issuances, sql, listener)
        await issuances.declare()
        await targets.register(
            issuances.database,
            "edge-1",
            probe=listener.address,
            identity=EDGE.identity,
            node_id="edge-1",
            serves=["www"],
            actor="p",
        )
        await made.subscribe(accepted=None)
        yield made


async def test_who_serves_what_it_should_is_well_and_looked_at_again_later(watch):
    await watch.prove()
    first, again = await watch.look(), await watch.look(timedelta(minutes=1))
    later = await watch.look(LATER)

    assert Seen.WELL is first is again is later
    assert [Seen.WELL] * 2 == watch.seen


async def test_a_secret_that_is_removed_while_it_is_looked_at_takes_no_other_look_along(watch, monkeypatch):
    look = looks.look

    async def meanwhile(*arguments, **named):
        seen = await look(*arguments, **named)
        await declarations.remove(watch.database, "www", actor="person:test")
        return seen

    await watch.prove()
    monkeypatch.setattr(looks, "look", meanwhile)

    assert Seen.OVER is await watch.look(LATER)


async def test_what_the_database_does_not_take_keeps_no_other_look_from_being_written(watch, monkeypatch):
    settle, calls = watches.settle, []

    async def first_fails(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise Unavailable("database: cut off")
        return await settle(*arguments, **named)

    await watch.prove()
    await targets.register(
        watch.database,
        "edge-2",
        probe=watch.listener.address,
        identity=None,
        node_id=None,
        serves=["www"],
        actor="p",
    )
    monkeypatch.setattr(watches, "settle", first_fails)

    with pytest.raises(Unavailable):
        await watch.look(LATER)
    assert 1 == len(watch.seen)


async def test_who_came_late_is_looked_at_once_the_database_is_back(watch, monkeypatch):
    unproved, asked = watches.unproved, []

    async def first_fails(_database, secret, *, limit):
        asked.append(secret)
        if len(asked) == 1:
            raise Unavailable("database: cut off")
        return await unproved(_database, secret, limit=limit)

    monkeypatch.setattr(watches, "unproved", first_fails)
    watch.watcher.look_at("www")
    with pytest.raises(Unavailable):
        await watch.watcher.step()
    await watch.watcher.step()

    assert ["www", "www"] == asked


async def test_who_serves_something_else_is_stale_named_and_offered_it_again(watch):
    await watch.prove()
    watch.serve_another()
    with capture_logs() as logs:
        seen = await watch.look(LATER)
    live = await watch.live()

    assert Seen.STALE is seen
    assert live.proved is None
    assert live.stale_since is not None
    assert watch.listener.address in live.probe_error
    assert 1 == await watch.salt()
    assert ["delivery.proved", "delivery.stale"] == await watch.audited()
    assert [("error", "delivery.stale", "edge-1")] == [
        (line["log_level"], line["event"], line["target"]) for line in logs if "stale" in line["event"]
    ]


@pytest.mark.debian
async def test_one_behind_a_balancer_is_seen_once_it_says_that_it_wants_the_proxy_protocol(watch, tmp_path):
    """At once, and what was proved in one way is not proved in another."""
    edge = haproxy.HAProxy(tmp_path, "accept-proxy")
    edge.write(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"listen tls\n bind {edge.address} accept-proxy\n server tls {watch.listener.address}\n"
    )
    await edge.start()

    async def register(**more):
        fields = {"probe": edge.address, "identity": EDGE.identity, "node_id": "edge-1", "serves": []}
        await targets.register(watch.database, "edge-1", actor="p", **fields | more)
        return await watch.live()

    try:
        await watch.prove()
        await register()
        hung_up, why = await watch.look(), (await watch.live()).probe_error
        await register(proxy_protocol=True)
        seen, kept = await watch.look(), await register(identity=None)
        moved = await register(proxy_protocol=False)
    finally:
        await edge.stop()

    assert (Seen.UNKNOWN, True) == (hung_up, "--proxy-protocol" in why)
    assert (Seen.PROVED, 1, None) == (seen, kept.proved, moved.proved)


async def test_what_is_served_over_quic_is_proved_and_watched_once_it_says_that_there_is_http3(watch):
    async def register(**more):
        fields = {
            "probe": watch.listener.address,
            "identity": EDGE.identity,
            "node_id": "edge-1",
            "serves": [],
        }
        await targets.register(watch.database, "edge-1", actor="p", **fields | more)
        return await watch.live()

    await watch.prove()
    async with QuicListener(watch.listener.address) as beside:
        beside.serve(watch.pair)
        forgotten = await register(http3=True)
        proved, kept = await watch.look(), await register(identity=None)
        beside.serve(watch.issuances.ca.issue(dns=["www.example.test"]))
        stale, why = await watch.look(LATER), (await watch.live()).probe_error
    await register(http3=False)
    alone = await watch.look()

    assert (None, Seen.PROVED, 1) == (forgotten.proved, proved, kept.proved)
    assert Seen.STALE is stale
    assert f"{watch.listener.address} over QUIC serves" in why
    assert Seen.HEALED is alone


async def test_it_is_alarmed_once_and_keeps_its_age_until_it_serves_what_it_should(watch):
    await watch.prove()
    watch.serve_another()
    await watch.look(LATER)
    since = (await watch.live()).stale_since
    still = await watch.look(LATER)
    kept = (await watch.live()).stale_since
    watch.listener.serve(watch.pair)
    healed = await watch.look(LATER)
    live = await watch.live()

    assert (Seen.STILL_STALE, Seen.HEALED) == (still, healed)
    assert since == kept
    assert (1, None, None) == (live.proved, live.stale_since, live.served)
    assert await watch.salt()  # on another stream it must get the bytes that it took
    assert ["delivery.proved", "delivery.stale", "delivery.healed"] == await watch.audited()


async def test_it_is_offered_again_less_and_less_often(watch):
    await watch.prove()
    watch.serve_another()
    salts = []
    for pause in (LATER, timedelta(seconds=30), timedelta(seconds=40), timedelta(minutes=5)):
        await watch.look(pause)
        salts.append(await watch.salt())

    assert [1, 1, 2, 3] == salts


async def test_a_stale_one_is_looked_at_soon_again(watch):
    """Healed in seconds, not at the next round."""
    await watch.prove()
    watch.serve_another()
    await watch.look(LATER)
    looks = len(watch.seen)
    await watch.look(timedelta(seconds=70))

    assert looks < len(watch.seen)


async def test_who_cannot_be_reached_keeps_its_proof_and_tells_why(watch, sql):
    """What it serves is unknown, which takes nothing back."""
    await watch.prove()
    await sql.execute("UPDATE target SET probe = $1", f"127.0.0.1:{free_port()}")
    seen = await watch.look(LATER)
    live = await watch.live()

    assert Seen.UNKNOWN is seen
    assert (1, True) == (live.proved, live.unseen)
    assert "127.0.0.1" in live.probe_error

    await sql.execute("UPDATE target SET probe = $1", watch.listener.address)

    assert Seen.WELL is await watch.look(LATER)
    assert not (await watch.live()).unseen


async def test_who_cannot_be_reached_for_long_is_looked_at_no_more_often_for_its_subscription(watch, sql):
    """That is written every few minutes, and says nothing new."""
    await watch.prove()
    await sql.execute("UPDATE target SET probe = $1", f"127.0.0.1:{free_port()}")
    await watch.look(LATER)
    await watch.look(timedelta(hours=2))
    await watch.subscribe(accepted=None, sent=None)
    await watch.look(LATER)
    pause = await sql.fetchval("SELECT look_at - certvoy_now() FROM delivery")

    assert [Seen.UNKNOWN] * 3 == watch.seen
    assert pause > timedelta(minutes=2)


async def test_who_comes_after_the_rotation_is_proved_when_it_says_yes(watch, sql):
    await watch.prove()
    await sql.execute(
        "UPDATE delivery SET proved = NULL, accepted = NULL, look_at = now() + interval '1 day'"
    )
    await watch.subscribe()
    watch.watcher.look_at("www")
    await watch.look()

    assert [Seen.PROVED] == watch.seen
    assert 1 == (await watch.live()).proved


async def test_who_refuses_what_it_was_proved_to_serve_is_looked_at_at_once(watch):
    """It was started anew, by another version, say, and has nothing by now."""
    await watch.prove()
    await watch.look()
    watch.serve_another()
    await watch.subscribe(accepted=None, refused=1)

    assert Seen.STALE is await watch.look()
    assert 1 == await watch.salt()


async def test_who_was_never_given_it_is_not_stale(watch, sql):
    await watch.prove()
    await sql.execute("UPDATE delivery SET proved = NULL, accepted = NULL, sent = NULL")
    watch.serve_another()

    assert Seen.UNKNOWN is await watch.look(LATER)
    assert await watch.salt() is None


async def test_while_something_is_rolled_out_the_prover_looks(watch):
    await watch.issuances.issue(await watch.issuances.declare())

    assert await watch.look(LATER) is None


async def test_two_replicas_look_at_each_target_once(watch, issuances):
    await watch.prove()
    other = Watcher(database=watch.database, every=EVERY, clock=HastyClock(), actor="replica:other")
    other.on_seen = watch.seen.append
    await watch.look(LATER)
    await other.step()

    assert [Seen.WELL] == watch.seen


async def test_who_is_proved_is_looked_at_also_while_others_are_not(watch, issuances, sql):
    """A roll-out may stay open for weeks, by one proxy that is switched off."""
    await watch.prove()
    await targets.register(
        watch.database, "off", probe=None, identity=None, node_id=None, serves=["www"], actor="p"
    )
    await sql.execute("UPDATE certrotation SET completed_at = NULL, outcome = NULL")
    watch.serve_another()

    assert Seen.STALE is await watch.look(LATER)


async def test_who_refused_it_is_offered_other_bytes_though_the_rotation_is_over(watch, sql):
    """By a quorum, say."""
    await watch.prove()
    await sql.execute("UPDATE delivery SET proved = NULL, accepted = NULL, refused = 1")
    watch.serve_another()
    await watch.look(LATER)

    assert 1 == await watch.salt()


async def test_who_states_that_it_has_lost_it_is_stale_and_offered_it_again(watch, sql, admin):
    """An Envoy that nobody reaches by a handshake, started again with files of somebody's."""
    await watch.prove()
    at, loaded = admin
    await sql.execute("UPDATE target SET probe = NULL, admin = $1", at)
    wanted = watch.pair.certificate.serial_number
    loaded[:] = [wanted]
    well = await watch.look(LATER)
    loaded[:] = [wanted + 1]
    stale, salt, live = await watch.look(LATER), await watch.salt(), await watch.live()
    still = await watch.look(LATER)
    loaded[:] = [wanted]
    healed = await watch.look(LATER)

    assert (Seen.WELL, Seen.STALE, Seen.STILL_STALE, Seen.HEALED) == (well, stale, still, healed)
    assert (1, None) == (salt, live.proved)
    assert f"{at}/certs: generation 1 is not loaded" == live.probe_error


async def test_who_has_not_loaded_what_it_was_not_proved_to_have_is_not_stale(watch, sql, admin):
    """It took it, and no listener of it may use it yet."""
    await watch.prove()
    at, _nothing = admin
    await sql.execute("UPDATE target SET probe = NULL, admin = $1", at)
    await sql.execute("UPDATE delivery SET proved = NULL, accepted = 1")

    assert Seen.UNKNOWN is await watch.look(LATER)
    assert await watch.salt() is None


async def test_a_name_that_its_certificate_has_not_is_not_looked_for(watch):
    """It was added, and the CA has not issued yet: who serves what there is serves what it should."""
    await watch.prove()
    await watch.issuances.declare(domains=["www.example.test", "new.example.test"])
    watch.listener.serve(watch.issuances.ca.issue(dns=["new.example.test"]), "new.example.test")

    assert Seen.WELL is await watch.look(LATER)


async def test_a_name_that_its_secret_has_no_more_is_not_looked_for(watch):
    """Its listener may be gone already."""
    await watch.issuances.declare(domains=["www.example.test", "old.example.test"])
    await watch.prove(domains=["www.example.test", "old.example.test"])
    await watch.issuances.declare(domains=["www.example.test"])
    watch.listener.serve(watch.issuances.ca.issue(dns=["old.example.test"]), "old.example.test")

    assert Seen.WELL is await watch.look(LATER)


@pytest.mark.parametrize(
    ("wanted", "names", "asked"),
    [
        (["a.test", "b.test"], ["a.test", "b.test"], ("a.test", "b.test")),
        (["www.a.test"], ["*.a.test"], ("www.a.test",)),
        (["*.a.test", "a.test"], ["*.a.test"], ("*.a.test",)),
        (["b.test"], ["a.test"], ("a.test",)),
    ],
)
def test_who_is_asked_for(wanted, names, asked):
    assert asked == asked_for(wanted, names)


@pytest.mark.parametrize("change", ["probe = '127.0.0.1:1'", "proxy_protocol = true", "http3 = true"])
async def test_what_was_seen_at_an_address_says_nothing_of_another(watch, sql, change):
    """It was changed during the look, or the way there was."""
    await watch.prove()
    watch.serve_another()
    await watch.look(LATER)
    (before,) = await watches.unproved(watch.database, "www", limit=1)
    await sql.execute(f"UPDATE target SET {change}")
    look = Look(before.target.id, by=ProvedBy.HANDSHAKE)

    assert Seen.OVER is await watches.settle(watch.database, before, look, actor="r")
    assert (await watch.live()).proved is None


async def test_who_waits_for_the_canaries_should_serve_the_one_before_and_is_looked_at(
    issuances, sql, tmp_path
):
    """A roll-out may stand at its canaries for weeks, where somebody has frozen it."""
    _canaries, (waiting,) = await rolling_out(issuances, "edge-1", "edge-2")
    before = await sql.fetchval("SELECT id FROM certificate WHERE generation = 1")
    issuance = await certificates.get(issuances.database, before)
    pair = await pair_of(issuances, issuance.certificate)
    async with Listener(tmp_path) as listener:
        watch = Watch(issuances, sql, listener)
        await sql.execute("UPDATE target SET probe = $1 WHERE name = $2", listener.address, waiting)
        watch.serve_another()
        await watch.look(LATER)
        listener.serve(pair)
        await watch.look(LATER)
        await watch.look(LATER)

    assert [Seen.STALE, Seen.HEALED, Seen.WELL] == watch.seen
