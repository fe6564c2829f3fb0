"""Trust bundles after their roll-out: who has lost one is found, named, and offered it as other bytes."""

from datetime import timedelta

import pytest

from sds_server.errors import Conflict
from sds_server.inventory import bundle_watches, declarations, targets
from sds_server.inventory.watches import Seen
from sds_server.lifecycle import looks
from sds_server.lifecycle.watcher import Watcher
from sds_server.model import Identity
from sds_server.payloads.trust import fingerprint_of
from sds_server.targets.verdict import Stated
from tests.support.databases import turn_clock
from tests.support.payloads import EDGE, NAME, NEW, OLD, Plane, sent


class Watched(Plane):
    """With an Envoy whose admin interface states what it has loaded, and what the watcher made of it."""

    def __init__(self, issuances):
        super().__init__(issuances)
        self.watcher = Watcher(
            database=self.database, every=timedelta(minutes=5), clock=self.clock, actor="replica:test"
        )
        self.seen = []
        self.watcher.on_seen = self.seen.append

    async def watched(self):
        """What a look at all that is due comes to."""
        self.seen.clear()
        await self.watcher.step()
        return self.seen

    async def delivery(self):
        (live,) = await targets.live_set(self.database, NAME)
        return live


@pytest.fixture
async def plane(issuances, admin):
    """The second bundle is with the one Envoy that there is, and proved there."""
    plane, (address, contexts) = Watched(issuances), admin
    plane.contexts = contexts
    await plane.put(OLD)
    await plane.turned()
    await targets.register(
        plane.database,
        "edge-1",
        probe=None,
        admin=address,
        identity=Identity(f"{EDGE}-edge-1"),
        node_id="edge-1",
        serves=[NAME],
        actor="person:test",
    )
    await plane.put(OLD, NEW)
    contexts[:] = [[OLD, NEW]]
    await plane.says("edge-1", accepted=2)
    await plane.turned()
    assert ["completed", "completed_unobserved"] == await plane.outcome()
    return plane


async def test_a_bundle_that_is_removed_while_it_is_looked_at_takes_no_other_look_along(
    plane, sql, monkeypatch
):
    look = looks.bundle

    async def meanwhile(*arguments):
        seen = await look(*arguments)
        await declarations.remove(plane.database, NAME, actor="person:test")
        return seen

    await turn_clock(sql, timedelta(minutes=10))
    monkeypatch.setattr(looks, "bundle", meanwhile)

    assert [Seen.OVER] == await plane.watched()


async def test_who_has_lost_its_bundle_is_named_offered_other_bytes_and_heals(plane, sql):
    await turn_clock(sql, timedelta(minutes=10))
    well = list(await plane.watched())
    before = await plane.offered_to("edge-1")
    plane.contexts[:] = [[OLD]]
    await turn_clock(sql, timedelta(minutes=20))
    lost = list(await plane.watched())
    delivery = await plane.delivery()
    (count,) = [since for since in await facts_stale(plane) if since == NAME]
    after = await plane.offered_to("edge-1")
    plane.contexts[:] = [[OLD, NEW]]
    await turn_clock(sql, timedelta(minutes=30))
    healed = list(await plane.watched())

    assert [Seen.WELL] == well
    assert [Seen.STALE] == lost
    assert NAME == count
    assert delivery.proved is None
    assert delivery.stale_since is not None
    assert "generation 1 is loaded, and generation 2 is not" in delivery.probe_error
    cas = [sent(entry).validation_context.trusted_ca.inline_bytes for entry in (before, after)]
    assert cas[0] + b"\n" == cas[1]
    assert [Seen.HEALED] == healed
    assert (await plane.delivery()).stale_since is None
    told = await sql.fetch("SELECT action FROM certaudit WHERE action LIKE 'delivery.%' ORDER BY id")
    assert ["delivery.stale", "delivery.healed"] == [row["action"] for row in told][-2:]


async def test_who_loses_what_it_was_proved_to_have_while_another_has_yet_to_take_it_is_stale(plane, sql):
    """The other one may be off for weeks."""
    await targets.register(
        plane.database, "off", probe=None, identity=None, node_id=None, serves=[NAME], actor="person:test"
    )
    await plane.put(NEW)
    plane.contexts[:] = [[NEW]]
    await plane.says("edge-1", accepted=3)
    await plane.turned()
    await turn_clock(sql, timedelta(minutes=10))
    well = list(await plane.watched())
    plane.contexts[:] = [[OLD, NEW]]
    await turn_clock(sql, timedelta(minutes=20))
    lost = list(await plane.watched())
    (edge, _) = await targets.live_set(plane.database, NAME)

    assert (None, [Seen.WELL], [Seen.STALE]) == ((await plane.outcome())[0], well, lost)
    assert (None, "edge-1") == (edge.proved, edge.target.name)

    plane.contexts[:] = [[NEW]]
    await plane.turned()
    (edge, _) = await targets.live_set(plane.database, NAME)

    assert (3, None) == (edge.proved, edge.stale_since)


async def facts_stale(plane):
    """The Secrets of which a metric says since when a Target is stale: the alarm is made of it."""
    async with plane.database.transaction() as tx:
        return [row["secret"] for row in await tx.rows("stale_since", 10)]


async def test_a_context_that_has_no_bundle_any_more_is_stale_and_one_that_had_none_is_not(plane, sql):
    plane.contexts.clear()
    await turn_clock(sql, timedelta(minutes=10))
    lost = list(await plane.watched())
    await sql.execute("UPDATE delivery SET proved = NULL, stale_since = NULL")
    await turn_clock(sql, timedelta(minutes=20))

    assert [Seen.STALE] == lost
    assert [Seen.UNKNOWN] == await plane.watched(), "its word alone may be about a context that is not there"


async def test_an_envoy_that_does_not_answer_loses_nothing_and_is_named_until_it_does(plane, sql):
    answers_at = (await plane.delivery()).target.admin
    await sql.execute("UPDATE target SET admin = '127.0.0.1:1'")
    await turn_clock(sql, timedelta(minutes=10))

    assert [Seen.UNKNOWN] == await plane.watched()
    assert 2 == (await plane.delivery()).proved
    assert "127.0.0.1:1" in (await plane.delivery()).probe_error

    await sql.execute("UPDATE target SET admin = $1", answers_at)
    await turn_clock(sql, timedelta(minutes=20))

    assert [Seen.WELL] == await plane.watched()
    assert (await plane.delivery()).probe_error is None


async def test_what_was_stated_at_an_address_says_nothing_of_another(plane, sql):
    """It was changed during the look."""
    target = (await plane.delivery()).target.id
    async with plane.database.transaction() as tx:
        (before,) = await bundle_watches.of(tx, [{"target_id": target, "secret": NAME}])
    await sql.execute("UPDATE target SET admin = '127.0.0.1:1'")
    seen = await bundle_watches.settle(plane.database, before, Stated.MISSING, error=None, actor="r")

    assert Seen.OVER is seen
    assert 2 == (await plane.delivery()).proved


async def test_a_root_stays_while_a_proxy_has_lost_the_union(plane, sql):
    plane.contexts[:] = [[OLD]]
    await turn_clock(sql, timedelta(minutes=10))
    await plane.watched()

    with pytest.raises(Conflict, match="not with every proxy yet: edge-1"):
        await plane.service.remove_ca(NAME, fingerprint_of(OLD.certificate), actor="person:test")


async def test_who_takes_it_after_its_roll_out_is_proved_at_once(plane, sql):
    await sql.execute("UPDATE delivery SET proved = NULL")
    plane.watcher.look_at(NAME)

    assert Seen.PROVED in await plane.watched()
    assert 2 == (await plane.delivery()).proved
