"""What counts passes on what it hears, and counts nothing twice."""

from datetime import timedelta
from uuid import UUID

import pytest

from sds_server import instruments
from sds_server.errors import CustodyError, Unavailable
from sds_server.instruments import MeasuredKms, MeasuredStreams, watch_custody, watch_types
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.loop import Loop
from sds_server.metrics import Metrics
from sds_server.model import Identity
from sds_server.xds.caller import Denied
from sds_server.xds.catalog import Resource
from sds_server.xds.service import PeerNode
from tests.support.clocks import TurnedClock
from tests.support.exposition import samples

PEER = PeerNode(Identity("dns:edge"), "edge-1")
OTHER = PeerNode(Identity("dns:edge"), "edge-2")
ACCEPTED = "certvoy_delivery_accepted_seconds"


class Heard:
    """An Observer that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **_: self.calls.append((name, *arguments))


def resource(version="v1", generation=1):
    return Resource("www", version, generation, b"body")


@pytest.fixture
def told():
    return Metrics(version="1")


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def streams(told, clock, heard):
    return MeasuredStreams(heard, to=told, clock=clock)


def test_everything_is_passed_on_and_counted(streams, heard, told):
    calls = [
        ("subscribed", PEER, "www"),
        ("sent", PEER, resource()),
        ("accepted", PEER, "www", "v1", 1),
        ("refused", PEER, "www", "v1", 1, "no"),
        ("denied", PEER, "other", Denied.UNGRANTED),
        ("unsubscribed", PEER, "www"),
        ("disconnected", PEER, "www"),
    ]
    for name, *arguments in calls:
        getattr(streams, name)(*arguments)
    found = samples(told.exposition())

    assert calls == heard.calls
    assert [1, 1, 1, 1] == [
        found[f"certvoy_xds_{name}_total",] for name in ("pushes", "acks", "nacks", "denials")
    ]


def test_the_time_from_published_to_accepted_is_told_once_a_version(streams, told, clock):
    streams.subscribed(PEER, "www")
    clock.turn(timedelta(hours=1))
    streams.published(resource())
    clock.turn(timedelta(milliseconds=20))
    streams.accepted(PEER, "www", "v1", 1)
    clock.turn(timedelta(minutes=10))
    streams.accepted(PEER, "www", "v1", 1)  # sent again, unchanged
    found = samples(told.exposition())

    assert (1, pytest.approx(0.02)) == (found[f"{ACCEPTED}_count",], found[f"{ACCEPTED}_sum",])


def test_a_proxy_that_came_late_waited_only_since_it_came(streams, told, clock):
    streams.published(resource())
    clock.turn(timedelta(days=3))
    streams.subscribed(OTHER, "www")
    clock.turn(timedelta(milliseconds=5))
    streams.accepted(OTHER, "www", "v1", 1)

    assert pytest.approx(0.005) == samples(told.exposition())[f"{ACCEPTED}_sum",]


def test_the_answer_to_a_version_before_is_not_timed(streams, told):
    streams.subscribed(PEER, "www")
    streams.published(resource("v1"))
    streams.published(resource("v2", 2))
    streams.accepted(PEER, "www", "v1", 1)

    assert 0 == samples(told.exposition())[f"{ACCEPTED}_count",]


def test_nothing_is_kept_of_peers_that_are_gone(streams, told):
    streams.subscribed(PEER, "www")
    streams.subscribed(OTHER, "www")
    before = samples(told.exposition())["certvoy_xds_subscriptions",]
    streams.disconnected(PEER, "www")
    streams.unsubscribed(OTHER, "www")

    assert (2, 0) == (before, samples(told.exposition())["certvoy_xds_subscriptions",])


async def test_the_operations_of_a_kms_are_told_by_their_result(told, clock, tmp_path):
    kms = MeasuredKms(LocalKms(tmp_path / "kek", create=True), to=told, clock=clock)
    wrapped = await kms.wrap(bytes(32), {"key": "1"})
    assert bytes(32) == await kms.unwrap(
        wrapped.ciphertext, kek_version=wrapped.kek_version, context={"key": "1"}
    )
    with pytest.raises(CustodyError):
        await kms.unwrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context={"key": "2"})
    found = samples(told.exposition())

    assert [1, 1, 1] == [
        found["certvoy_kms_operations_total", "wrap", "success"],
        found["certvoy_kms_operations_total", "unwrap", "success"],
        found["certvoy_kms_operations_total", "unwrap", "refused"],
    ]


@pytest.mark.parametrize("insecure", [True, False])
async def test_only_the_kek_that_wraps_is_told_to_be_for_trials(told, clock, tmp_path, insecure):
    file, other = LocalKms(tmp_path / "kek", create=True), LocalKms(tmp_path / "other", create=True)
    other.insecure = not insecure
    file.insecure = insecure
    watch_custody(Sealer(file, deployment=UUID(int=1), clock=clock, previous=[other]), to=told)

    assert insecure == samples(told.exposition())["certvoy_kms_insecure",]


async def test_a_kms_that_is_away_is_told(told, clock):
    class Away:
        kek_uri, insecure = "test:kek", False

        async def wrap(self, dek, context):
            raise Unavailable("gone")

    with pytest.raises(Unavailable):
        await MeasuredKms(Away(), to=told, clock=clock).wrap(bytes(32), {})

    assert 1 == samples(told.exposition())["certvoy_kms_operations_total", "wrap", "unavailable"]


def test_a_loop_is_told_by_its_failures_and_its_last_success(told, clock):
    loop = Loop("feed", lambda: None, every=timedelta(seconds=1))
    instruments.watch_loops([loop], to=told, clock=clock)
    never = samples(told.exposition())
    loop._failed(Unavailable("gone"))
    loop.succeeded()
    found = samples(told.exposition())

    assert ("certvoy_loop_last_success_timestamp_seconds", "feed") not in never
    assert (1, pytest.approx(clock.now().timestamp())) == (
        found["certvoy_loop_failures_total", "feed"],
        found["certvoy_loop_last_success_timestamp_seconds", "feed"],
    )
    assert 0 == loop.failures


def test_what_clients_make_up_is_one_label(told):
    ignored = watch_types(told)
    for type_url in ("type.googleapis.com/envoy.config.cluster.v3.Cluster", "made/up", "made/up/too", ""):
        ignored(type_url)
    found = samples(told.exposition())

    assert {"Cluster": 1, "other": 3} == {
        key[1]: value for key, value in found.items() if key[0] == "certvoy_xds_types_ignored_total"
    }
