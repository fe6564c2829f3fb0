"""What handshakes at every name say together."""

from datetime import UTC, datetime, timedelta

import pytest

from sds_server.agent import looker
from sds_server.agent.looker import Look, Looker, Sight, judge
from sds_server.agent.pair import Bundle
from sds_server.agent.pair import judge as gate
from sds_server.targets.places import Served
from sds_server.targets.probe import ProbeFailed
from tests.support import pki
from tests.support.clocks import HastyClock
from tests.support.front import bundle

NEW, OLD = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("looks", "sight", "words"),
    [
        ({"a": Look(NEW), "b": Look(NEW)}, Sight.WANTED, ""),
        ({"a": Look(NEW), "b": Look(OLD)}, Sight.OTHER, f"here serves {OLD} for b, not {NEW}"),
        ({"a": Look(OLD, place="here at b")}, Sight.OTHER, f"here at b serves {OLD} for a, not {NEW}"),
        ({"a": Look(None, "refused"), "b": Look(None, "x")}, Sight.NOBODY, "refused"),
        ({"a": Look(NEW), "b": Look(None, "hung up")}, Sight.OTHER, "here serves nothing for b: hung up"),
        ({"a": Look(None, "hung up"), "b": Look(OLD)}, Sight.OTHER, f"here serves {OLD} for b, not {NEW}"),
    ],
)
def test_every_name_counts(looks, sight, words):
    seen = judge(looks, wanted=NEW, address="here")

    assert (sight, words) == (seen.sight, seen.words)


@pytest.fixture
def pair():
    issued = pki.authority().issue(dns=["www.example.test", "*.example.test"])
    return gate(Bundle.of(bundle(issued, 1), etag=""), secret="www", now=datetime.now(UTC))


class Listener:
    """Shows one leaf after the other; then the last for ever."""

    def __init__(self, *leaves):
        self.leaves = list(leaves)
        self.asked = []

    async def __call__(self, _address, name, *, wanted):
        assert wanted not in {None, ""}, "where several leaves are served, that one is looked for"
        self.asked.append(name)
        leaf = self.leaves.pop(0) if len(self.leaves) > 1 else self.leaves[0]
        if leaf is None:
            raise ProbeFailed("nobody")
        return Served(leaf, "here at there")


@pytest.fixture
def look(pair, monkeypatch):
    clock = HastyClock(datetime.now(UTC))

    async def look(listener, *, names=("www.example.test",), **how):
        monkeypatch.setattr(looker, "served", listener)
        at = Looker("here:443", names=names, within=timedelta(seconds=10), clock=clock)
        return await at.look(pair, **{"once": False, **how}), clock.monotonic()

    return look


async def test_an_old_leaf_is_waited_out(look, pair):
    seen, _ = await look(Listener(OLD, OLD, pair.fingerprint))

    assert Sight.WANTED is seen.sight


async def test_one_that_comes_back_is_no_proof(look, pair):
    """An old worker may accept still, after a new one has."""
    listener = Listener(pair.fingerprint, OLD, pair.fingerprint, OLD, OLD)
    seen, _ = await look(listener)

    assert Sight.OTHER is seen.sight


async def test_it_is_waited_for_so_long_and_no_longer(look):
    seen, spent = await look(Listener(OLD))

    assert Sight.OTHER is seen.sight
    assert 10 <= spent <= 10 + 2 * looker.LONGEST_PAUSE_S


async def test_who_did_not_run_before_is_not_waited_for(look):
    listener = Listener(None)
    seen, spent = await look(listener, patient=False)

    assert (Sight.NOBODY, 0, 1) == (seen.sight, spent, len(listener.asked))


async def test_the_leafs_own_names_are_asked_for_and_one_below_a_wildcard(look, pair):
    listener = Listener(pair.fingerprint)
    await look(listener, names=(), once=True)

    assert ["www.example.test", "certvoy-probe.example.test"] == listener.asked
