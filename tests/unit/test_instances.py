"""Instances: what several streams of one Target say together."""

import random

import pytest

from sds_server.lifecycle.instances import Instance, Living, find, freed, together

ACCEPTED, SILENT = Instance("x", accepted=2), Instance("y")
OLDER = Instance("z", accepted=1)
REFUSED = Instance("r", accepted=1, refused=2)


@pytest.mark.parametrize(
    ("some", "accepted", "refused"),
    [
        ((), None, None),
        ((ACCEPTED,), 2, None),
        ((ACCEPTED, OLDER), 1, None),
        ((ACCEPTED, SILENT), None, None),
        ((ACCEPTED, REFUSED), 1, 2),
        ((REFUSED, Instance("s", refused=3)), None, 3),
    ],
)
def test_accepted_is_what_each_accepted_and_refused_what_any_refused(some, accepted, refused):
    rolled = together("all", some)

    assert ("all", len(some), accepted, refused) == (
        rolled.of,
        rolled.streams,
        rolled.accepted,
        rolled.refused,
    )


def test_streams_of_replicas_add_up():
    assert 5 == together("all", (Instance("a", streams=2), Instance("b", streams=3))).streams


@pytest.mark.parametrize(
    ("generation", "accepted", "refused"),
    [
        (1, 1, 2),  # what it has is pushed back to it
        (2, 2, None),  # the same as other bytes
        (3, 3, None),
    ],
)
def test_a_refusal_stays_until_something_as_new_is_accepted(generation, accepted, refused):
    said = REFUSED.accept(generation)

    assert (accepted, refused) == (said.accepted, said.refused)


@pytest.mark.parametrize(("generation", "accepted"), [(2, None), (3, 2)])
def test_what_is_refused_is_no_more_accepted(generation, accepted):
    said = ACCEPTED.refuse(generation)

    assert (accepted, generation) == (said.accepted, said.refused)


@pytest.mark.parametrize(
    ("leaves", "rest", "generation"),
    [
        (SILENT, (ACCEPTED,), 2),
        (REFUSED, (ACCEPTED,), 2),
        (OLDER, (ACCEPTED,), 2),
        (ACCEPTED, (OLDER,), None),
        (SILENT, (Instance("w"),), None),
        (ACCEPTED, (), None),
    ],
)
def test_who_leaves_frees_what_it_alone_hindered(leaves, rest, generation):
    assert generation == freed(together("all", (leaves, *rest)), together("all", rest))


def test_one_is_found_in_a_row():
    assert SILENT == find((ACCEPTED, SILENT), "y")
    assert None is find((ACCEPTED, SILENT), "nobody")


def test_what_is_added_up_as_they_speak_is_what_a_look_at_each_says():
    """A walk of a thousand steps over a few streams: they come, say yes or no, and leave."""
    rng, living, each = random.Random(1), Living(), {}
    for _ in range(1000):
        of, generation = rng.choice("abcdef"), rng.randrange(4)
        before = each.get(of, Instance(of))
        match rng.randrange(4):
            case 0:
                living.remove(of)
                each.pop(of, None)
            case 1:
                each[of] = before.accept(generation)
            case 2:
                each[of] = before.refuse(generation)
            case 3:
                each[of] = Instance(of)
        if of in each:
            living.put(each[of])

        assert together("all", each.values()) == living.together("all")
        assert (len(each), each.get(of)) == (len(living), living.find(of))
