"""A real Envoy 1.40, in each form in which it can ask for secrets, through what happens to it.

How many scenarios ran is in the summary at the end of the run.
"""

import asyncio
import itertools
import os
import time

import pytest

from sds_server.xds import codec
from sds_server.xds.catalog import ABSENT, Resource
from tests.xds.edge import FORMS, NODE, Edge, der, is_gone, site, until

ROTATIONS = int(os.environ.get("CERTVOY_MATRIX_ROTATIONS", "5"))
"""Under handshakes that never pause; `make chaos` asks for 100."""

pytestmark = [
    pytest.mark.parametrize("form", FORMS),
    pytest.mark.timeout(120 + 2 * ROTATIONS),
]


@pytest.fixture
async def edge(form, tmp_path):
    edge = Edge(tmp_path, form)
    yield edge
    await edge.stop()


async def test_first_start(edge):
    first = site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)

    assert await edge.envoy.live()
    if edge.says_yes:
        await edge.server.witness.until("accepted", NODE, "a", 1)


async def test_rotation_under_handshakes(edge):
    """None fails, none shows anything older than the one before it, and each rotation is shown."""
    pairs = [site() for _ in range(ROTATIONS + 1)]
    order = {der(pair): number for number, pair in enumerate(pairs)}
    edge.server.publish("a", 1, pairs[0])
    await edge.start()
    await edge.until_served(pairs[0])
    shown, going = [], True

    async def shake():
        while going:
            shown.append(order[await edge.served()])

    shaking = [asyncio.create_task(shake()) for _ in range(2)]
    for number, pair in enumerate(pairs[1:], start=2):
        edge.server.publish("a", number, pair)
        await edge.until_served(pair)
    going = False
    await asyncio.gather(*shaking)

    assert ROTATIONS == max(shown)
    assert len(shown) > ROTATIONS
    drops = [before - after for before, after in itertools.pairwise(shown)]
    assert max(drops) <= 1  # two shake at once: one may have begun before the other


async def test_restart_of_the_server(edge):
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    await edge.server.stop()
    await edge.server.start()
    edge.server.publish("a", 2, second)

    await edge.until_served(second)


async def test_server_down_and_up_again(edge):
    """Down, Envoy serves on; what was issued meanwhile comes soon after."""
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    await edge.server.stop()
    edge.server.publish("a", 2, second)
    await asyncio.sleep(1)  # down for so long: nothing is waited for

    assert der(first) == await edge.served()
    await edge.server.start()
    started = time.monotonic()
    await edge.until_served(second)
    assert time.monotonic() - started < 20


async def test_refusal(edge):
    """The old pair stays, and the next good one is taken."""
    first, second, third = site(), site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)

    assert der(first) == await edge.served()
    if edge.says_yes:
        await edge.server.witness.until("refused", NODE, "a", 2)
        assert 1 == edge.server.witness.facts.count(("sent", NODE, "a", 2))
    edge.server.publish("a", 3, third)
    await edge.until_served(third)


async def test_refusal_and_restart_of_the_server(edge):
    """What a proxy refused is not sent to it again by a server that has started anew."""
    first, second, third = site(), site(), site()
    edge.server.publish("a", 1, first)
    before = edge.server.catalog.look("a")
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)
    bad = edge.server.catalog.look("a")
    if edge.says_yes:
        await edge.server.witness.until("refused", NODE, "a", 2)
        edge.server.witness.refused_before = frozenset({("a", bad.version)})
        edge.server.catalog.offer("a", bad, {}, before=before)
    asked = edge.server.witness.facts.count(("subscribed", NODE, "a"))
    sent = edge.server.witness.facts.count(("sent", NODE, "a", 2))
    await edge.server.stop()
    await edge.server.start()
    await edge.server.witness.until("subscribed", NODE, "a", times=asked + 1)

    assert der(first) == await edge.served()
    if edge.says_yes:
        assert sent == edge.server.witness.facts.count(("sent", NODE, "a", 2))
    edge.server.publish("a", 3, third)
    await edge.until_served(third)
    if edge.says_yes:
        assert sent == edge.server.witness.facts.count(("sent", NODE, "a", 2))


async def test_listeners_come_and_go(edge):
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.listen("https", "more")
    await edge.until_served(first, "more")
    edge.listen("more")
    await until(lambda: is_gone(edge, "https"))
    edge.server.publish("a", 2, second)
    await edge.until_served(second, "more")
    edge.listen("https")
    await until(lambda: is_gone(edge, "more"))

    await edge.until_served(second)


async def test_a_listener_whose_source_differs_by_a_byte(edge):
    """Another provider in Envoy: state of the world asks again, delta ADS lives by a refresh."""
    edge.server.refresh_s = 1.0
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.listen("https", fetch_timeout="5s")
    await until(lambda: _was_updated(edge))
    await edge.until_served(first)
    edge.server.publish("a", 2, second)

    await edge.until_served(second)


async def _was_updated(edge):
    stats = await edge.envoy.stats("listener_manager.")
    return stats["listener_manager.listener_modified"] == 1 and (
        stats["listener_manager.total_listeners_warming"] == 0
    )


async def test_missing_and_then_made(edge):
    first = site()
    edge.server.catalog.publish({"a": ABSENT})
    await edge.start()
    await edge.server.witness.until("subscribed", NODE, "a")
    edge.server.publish("a", 1, first)

    await edge.until_served(first)


async def test_the_same_certificate_as_other_bytes(edge):
    """After a refusal the same bytes would be taken unseen: another newline is judged."""
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.refused(1)
    body = codec.tls_certificate("a", second.chain_pem + b"\n", second.key_pem)
    edge.server.catalog.publish({"a": Resource("a", codec.version(b"key", body), 2, body)})

    await edge.until_served(second)
