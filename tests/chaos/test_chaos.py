"""The short form of `make chaos`: every kind of fault once, in an order that a seed has drawn."""

import pytest

from tests.chaos.campaign import run
from tests.chaos.checker import _false_completes, _strangers
from tests.chaos.faults import KINDS
from tests.chaos.targets import Run, Target

SEED = 1
OLD, NEW, AT = "0" * 64, "1" * 64, 100.0
COMPLETED = {"id": 7, "outcome": "completed", "completed_at": AT, "fingerprint": NEW, "generation": 2}
CERTIFICATES = [
    {"generation": 1, "fingerprint": OLD, "issued_at": 10.0, "broken": False},
    {"generation": 2, "fingerprint": NEW, "issued_at": 90.0, "broken": False},
]


@pytest.mark.timeout(600)
async def test_through_every_kind_of_fault_nothing_false_is_called_complete_and_no_handshake_fails():
    figures = await run(seed=SEED, rotations=len(KINDS))

    assert [] == figures.violations
    assert (len(KINDS), set(KINDS)) == (figures.rotations, set(figures.faults))
    assert (0, 0) == (figures.false_completes, figures.failed)
    assert figures.handshakes > 0


def target(*runs, outages=()):
    return Target("edge", "www", ("www.test",), 1, runs=list(runs), outages=list(outages))


@pytest.mark.parametrize(
    ("seen", "false"),
    [
        (target(Run(OLD, 20, 99), Run(NEW, 99.5, 200)), False),
        (target(Run(OLD, 20, 100.5), Run(NEW, 101, 200)), True),
        (target(Run(OLD, 20, 200)), True),
        (target(Run(OLD, 20, 50), Run(NEW, 151, 200), outages=[(51, 150)]), True),
        (target(Run(OLD, 20, 50), Run(NEW, 51, 95), outages=[(96, 150)]), False),
    ],
)
def test_a_rotation_is_falsely_complete_where_a_handshake_that_began_later_shows_another_leaf(seen, false):
    assert false == bool(_false_completes([COMPLETED], CERTIFICATES, [seen], since=15.0))


@pytest.mark.parametrize(("leaf", "strange"), [(OLD, False), (NEW, False), ("2" * 64, True)])
def test_a_leaf_that_was_never_issued_for_the_secret_is_a_stranger(leaf, strange):
    assert strange == bool(_strangers(CERTIFICATES, [target(Run(leaf, 91, 92))], since=15.0))
