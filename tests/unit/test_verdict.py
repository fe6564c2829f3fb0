"""What a handshake means, on a life of any length."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from sds_server.targets.verdict import Stated, Verdict, judge, stated

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "life", [timedelta(days=398), timedelta(days=90), timedelta(hours=160), timedelta(hours=1)]
)
@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (0.0, Verdict.OK),
        (0.89, Verdict.OK),
        (0.91, Verdict.EXPIRING),
        (1.0, Verdict.EXPIRED),
        (2.0, Verdict.EXPIRED),
    ],
)
def test_how_much_is_left_is_judged_by_the_share_of_the_life(life, share, verdict):
    current = SimpleNamespace(generation=2, fingerprint="aa", not_before=START, not_after=START + life)

    found, _ = judge(current, fingerprint="aa", generation=2, now=START + life * share)

    assert verdict == found


def test_another_leaf_is_stale_if_it_was_ours_and_foreign_if_not():
    current = SimpleNamespace(
        generation=2, fingerprint="aa", not_before=START, not_after=START + timedelta(days=1)
    )

    assert Verdict.STALE == judge(current, fingerprint="bb", generation=1, now=START)[0]
    assert Verdict.FOREIGN == judge(current, fingerprint="cc", generation=None, now=START)[0]


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ([{1, 2}], Stated.LOADED),
        ([{1, 2}, {9}], Stated.LOADED),
        ([{1}], Stated.BEFORE),
        ([{1}, {1, 2}], Stated.NOTHING),
        ([{9}], Stated.MISSING),
        ([], Stated.MISSING),
    ],
)
def test_the_cas_of_each_context_say_which_of_two_bundles_is_loaded(loaded, said):
    contexts = [frozenset(cas) for cas in loaded]

    assert said == stated(contexts, wanted=frozenset({1, 2}), before=frozenset({1}))
    assert Stated.NOTHING == stated(contexts, wanted=frozenset({1}), before=frozenset({1}))
