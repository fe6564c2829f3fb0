"""Outages that others had, made here with a real Envoy 1.40, and survived.

Each names where it was reported.
"""

import json
import sys
import time
from datetime import timedelta

import pytest

import tests.xds.quiet  # noqa: F401
from benchmarks import filling
from sds_server.demo.sabotage import store_mismatched_pair
from sds_server.xds.bootstrap import Api
from tests.support.control_plane import until
from tests.support.exposition import samples
from tests.support.fleet import Fleet
from tests.support.outage import SLOW_MACHINE_S, scrape, tell
from tests.support.releases import this_release, tomorrows_release
from tests.support.traffic import Traffic

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
async def fleet(connect, database, sql, tmp_path, request):
    made = await Fleet.filled(tmp_path, connect, database, sql, size=getattr(request, "param", 2))
    yield made
    await made.stop()


async def modified(fleet):
    """Wait until Envoy has taken the new listeners, and none of them waits for its Secret any more."""

    async def holds():
        stats = await fleet.envoy.stats("listener_manager.")
        changed = stats["listener_manager.listener_modified"]
        return changed == len(fleet.names) and stats["listener_manager.total_listeners_warming"] == 0

    await until(holds)


def serial_numbers(certs):
    return sorted(int(cert["cert_chain"][0]["serial_number"], 16) for cert in certs)


@pytest.mark.parametrize("api", [Api.ADS, Api.ADS_SOTW])
async def test_a_listener_update_that_loses_its_secret_stops_no_service(fleet, api):
    """envoyproxy/envoy#47309, envoyproxy/gateway#9519: its `sds_config` is another, and nobody is asked."""
    fleet.plane.settings["sds"]["refresh"] = "2s"
    await fleet.plane.start()
    await fleet.start_envoy(api)
    async with Traffic(fleet.address, "any.test") as users:
        await users.more(20)
        began = time.monotonic()
        fleet.listen(api, timedelta(seconds=30))
        await modified(fleet)
        took_s = time.monotonic() - began
        await users.more(20)

    tell(f"a listener update that starves, {api}", warmed=f"{took_s:.1f} s", users=users)
    assert (0, 0) == (users.failed, users.cut), users.errors
    assert took_s < 28, "it did not wait its time out"


async def test_a_listener_that_serves_nobody_since_its_update_is_healed_by_the_refresh(fleet):
    """The outage itself: delta ADS is not asked again, the time to wait is over, and handshakes are reset."""
    fleet.plane.settings["sds"]["refresh"] = "10s"
    await fleet.plane.start()
    await fleet.start_envoy(Api.ADS)
    fleet.listen(Api.ADS, timedelta(milliseconds=100))
    await modified(fleet)
    began = time.monotonic()
    starved = not await fleet.served()
    await until(fleet.served)
    healed_s = time.monotonic() - began

    tell("a listener without its secret", healed=f"after {healed_s:.1f} s, refreshed every 10 s")
    assert starved, "this Envoy asks again: the refresh could go"
    assert healed_s < 10 * 1.3 + SLOW_MACHINE_S


BAD = 500


@pytest.mark.parametrize("fleet", [1_000], indirect=True)
async def test_one_bad_secret_among_a_thousand_touches_no_other_and_is_named(fleet, database, sql):
    """gateway#9918, envoy#10046: a refusal that stops the whole stream, or is answered by the same again."""
    bad = filling.name(BAD)
    fleet.plane.program = [sys.executable, "-m", "tests.support.gateless"]
    await fleet.plane.start()
    await fleet.start_envoy()

    async def all_taken():  # Envoy is live also where its time to wait for some is over
        return 0 not in (await fleet.taken()).values()

    await until(all_taken)
    before = await fleet.taken()
    serials = serial_numbers(await fleet.envoy.certs())
    async with Traffic(fleet.address, "any.test") as users:
        await store_mismatched_pair(database, bad)

        async def taken_back():
            return await sql.fetchval("SELECT status FROM certificate WHERE generation = 2") == "rejected"

        async def pushed_back():
            return (await fleet.taken())[bad] == 2

        await until(taken_back)
        await until(pushed_back)
        await users.more(20)
    taken = await fleet.taken()
    _, why = await fleet.plane.command("why", bad)
    counted = samples((await scrape(fleet.plane)).encode())
    refusals = [line for line in fleet.plane.log().splitlines() if '"secret.refused"' in line]
    audited = await sql.fetch("SELECT payload FROM certaudit WHERE action = 'certificate.rejected'")

    tell("one bad secret among 1,000", pushes=counted["certvoy_xds_pushes_total",], users=users)
    assert (0, 0) == (users.failed, users.cut), users.errors
    assert {bad} == {name for name, times in taken.items() if times != before[name]}
    assert serials == serial_numbers(await fleet.envoy.certs())
    # It once, and after its refusal the one before it again.
    assert len(fleet.names) + 2 == counted["certvoy_xds_pushes_total",]
    assert 1 == counted["certvoy_xds_nacks_total",]
    assert 1 == counted["certvoy_rotations_rolled_back_total", "targets-refused"]
    assert "target edge-1: sent 1, accepted 1, refused 2" in why
    assert "KEY_VALUES_MISMATCH" in why
    assert [bad] == [json.loads(line)["secret"] for line in refusals]
    assert 1 == len(audited)


CARRIED_WITHIN_S = 5.0
"""The promise, from the moment that the new one is ready."""


@pytest.mark.parametrize("fleet", [200], indirect=True)
@pytest.mark.parametrize("successor", [this_release, tomorrows_release])
async def test_a_control_plane_that_is_killed_and_replaced_is_noticed_by_no_user(fleet, successor, tmp_path):
    """By the same release or the next one; every Secret is carried to the proxy anew, and soon."""
    await fleet.plane.start()
    await fleet.start_envoy()
    before = await fleet.taken()
    async with Traffic(fleet.address, "any.test") as users:
        await users.more(10)
        fleet.plane.child.kill()
        fleet.plane.home = successor(tmp_path)
        await users.more(20)
        await fleet.plane.start()
        began = time.monotonic()

        async def carried():
            return all(times > before[name] for name, times in (await fleet.taken()).items())

        await until(carried)
        took_s = time.monotonic() - began
        await users.more(10)

    name = successor.__name__.replace("_", " ")
    tell(f"killed and replaced by {name}", carried=f"{len(before)} secrets in {took_s:.2f} s", users=users)
    assert (0, 0, 0) == (users.failed, users.cut, users.broken), users.errors
    assert took_s < CARRIED_WITHIN_S + SLOW_MACHINE_S
