"""How an attempt ended, in the words of metrics: who must act is told apart."""

import pytest

from acme_engine.errors import (
    ChainError,
    DnsProviderError,
    NotServed,
    OrderFailed,
    Refused,
    Unfinished,
    Unreachable,
    Untrusted,
    ZoneNotFound,
)
from sds_server.errors import CustodyError, GateRefused
from sds_server.lifecycle.failure import Ended, ended


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GateRefused("issuer", "unknown"), Ended.GATE),
        (ChainError.__new__(ChainError), Ended.GATE),
        (CustodyError("kek"), Ended.CUSTODY),
        (Unreachable.__new__(Unreachable), Ended.UNREACHABLE),
        (Untrusted.__new__(Untrusted), Ended.UNREACHABLE),
        (DnsProviderError("no", retryable=False), Ended.DNS),
        (ZoneNotFound("no"), Ended.DNS),
        (NotServed("no"), Ended.DNS),
        (Unfinished.__new__(Unfinished), Ended.UNFINISHED),
        (OrderFailed.__new__(OrderFailed), Ended.REFUSED),
        (Refused.__new__(Refused), Ended.REFUSED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failure_is_told_by_who_must_act(error, expected):
    assert expected == ended(error)
