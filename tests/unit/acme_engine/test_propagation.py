"""When a value can be relied on: what every combination of answers means."""

import pytest

from acme_engine.dns.propagation import SILENT_FOR_S, Look, Seen, decide
from acme_engine.dns.servers import Server

ONE, TWO = Server("ns1", "192.0.2.1", 53), Server("ns2", "192.0.2.2", 5353)
THERE, MISSING = Seen(Look.THERE, "has it"), Seen(Look.MISSING, "does not have it")
SILENT, NO_ROUTE = Seen(Look.SILENT, "does not answer"), Seen(Look.NO_ROUTE, "cannot be reached")


@pytest.mark.parametrize(
    ("one", "two", "waited_s", "served", "reason"),
    [
        (THERE, THERE, 0, True, "all servers have it: 2"),
        (THERE, MISSING, 0, False, "ns2 (192.0.2.2 port 5353) does not have it"),
        # One that answers without the value is waited for, however long.
        (THERE, MISSING, 1e6, False, "ns2 (192.0.2.2 port 5353) does not have it"),
        (THERE, SILENT, SILENT_FOR_S - 1, False, "ns2 (192.0.2.2 port 5353) does not answer"),
        (
            THERE,
            SILENT,
            SILENT_FOR_S,
            True,
            "1 have it; passed over: ns2 (192.0.2.2 port 5353) does not answer",
        ),
        # This host has no IPv6, and the zone's servers do.
        (THERE, NO_ROUTE, 0, True, "all servers have it: 1"),
        (
            SILENT,
            SILENT,
            1e6,
            False,
            "ns1 (192.0.2.1) does not answer; ns2 (192.0.2.2 port 5353) does not answer",
        ),
        (
            NO_ROUTE,
            NO_ROUTE,
            1e6,
            False,
            "ns1 (192.0.2.1) cannot be reached; ns2 (192.0.2.2 port 5353) cannot be reached",
        ),
    ],
)
def test_verdict(one, two, waited_s, served, reason):
    verdict = decide({ONE: one, TWO: two}, waited_s=waited_s)

    assert (served, reason) == (verdict.served, verdict.reason)


def test_no_server_shows_nothing():
    assert not decide({}, waited_s=1e6).served
