"""What is known of names on demand: a miss costs nothing, and what is remembered of it is bounded."""

import tracemalloc
from datetime import timedelta
from random import Random
from time import perf_counter

import pytest

from sds_server.on_demand import names as names_module
from sds_server.on_demand import rules as rules_module
from sds_server.on_demand.names import MAX_WISHES, MAX_WISHES_OF_ONE, Names, Standing
from sds_server.on_demand.rules import Result, Rule, Verdict, refused
from tests.support.clocks import TurnedClock

SHOPS = Rule("shops", "ca", suffix=".shops.test")
EDGE, OTHER, STRANGER = "spiffe://td/edge", "spiffe://td/other", "spiffe://td/stranger"
CREATED = Verdict(Result.CREATED)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def denied():
    return []


@pytest.fixture
def names(clock, denied):
    names = Names([SHOPS], clock=clock, may_issue=lambda identity, _name: identity != STRANGER)
    names.on_denied = lambda identity, name, _rule, result: denied.append((identity, name, result))
    return names


def look(names, asked="a.shops.test", identity=EDGE, **options):
    return names.look(identity, "edge-1", asked, **options)


def test_a_name_that_no_rule_governs_is_a_secret_as_any_other(names):
    assert ("WWW", Standing.SECRET) == (names.answers("WWW"), look(names, "WWW"))


def test_a_new_name_is_wished_once_however_many_ask(names):
    standings = [look(names, asked) for asked in ("a.shops.test", "A.Shops.Test", "a.shops.test")]

    assert [Standing.WISHED] * 3 == standings
    assert "a.shops.test" == names.next_wish().name
    assert names.next_wish() is None
    assert Standing.WISHED == look(names)  # it is being found out


def test_a_wish_that_is_granted_is_a_secret_for_everybody(names):
    woken = []
    names.watch("A.shops.test", woken.append)
    look(names)
    names.settle(names.next_wish(), CREATED)

    assert Standing.SECRET == look(names, identity=STRANGER)
    assert ["A.shops.test"] == woken


def test_without_a_grant_to_issue_nothing_is_wished(names, denied):
    assert Standing.NOTHING == look(names, identity=STRANGER)
    assert names.next_wish() is None
    assert [(STRANGER, "a.shops.test", Result.NO_GRANT)] == denied


def test_what_was_subscribed_before_is_not_wished_for(names):
    """It was deleted under who has it: only a new handshake asks for it."""
    assert Standing.NOTHING == look(names, fresh=False)
    assert names.next_wish() is None


def test_a_no_is_remembered_for_its_time_and_asked_about_again_then(names, clock, denied):
    look(names)
    names.settle(names.next_wish(), refused(Result.REFUSED, clock.now()))

    assert Standing.NOTHING == look(names)
    assert (EDGE, "a.shops.test", Result.REFUSED) == denied[-1]

    clock.turn(timedelta(seconds=61))

    assert Standing.WISHED == look(names)


@pytest.mark.parametrize(
    ("result", "identity", "standing"),
    [
        (Result.IDENTITY_LIMIT, EDGE, Standing.NOTHING),
        (Result.IDENTITY_LIMIT, OTHER, Standing.WISHED),
        (Result.DOMAIN_LIMIT, OTHER, Standing.NOTHING),
        (Result.FULL, OTHER, Standing.NOTHING),
        (Result.REFUSED, EDGE, Standing.WISHED),
    ],
)
def test_a_limit_is_remembered_for_all_whom_it_is_about(names, clock, result, identity, standing):
    look(names)
    names.settle(names.next_wish(), Verdict(result, clock.now() + timedelta(hours=1)))

    assert standing == look(names, "b.shops.test", identity)


def test_a_wildcard_answers_for_one_label_where_there_is_no_secret_of_the_name(names):
    woken = []
    names.watch("a.shops.test", woken.append)
    names.learn({"wild": ["*.shops.test"], "b.shops.test": ["b.shops.test"]})

    assert ["wild", "b.shops.test", "c.a.shops.test"] == [
        names.answers(asked) for asked in ("A.shops.test", "b.shops.test", "c.a.shops.test")
    ]
    assert Standing.SECRET == look(names, identity=STRANGER)
    assert ["a.shops.test"] == woken


def test_a_wildcard_answers_for_who_may_see_it_and_is_nothing_to_others(names):
    names.learn({"wild": ["*.shops.test"]})

    def may_not(_secret):
        return False

    assert "a.shops.test" == names.answers("a.shops.test", may_not)
    assert Standing.WISHED == look(names, may_see=may_not)
    assert Standing.SECRET == look(names)


def test_what_one_makes_of_a_name_takes_nothing_from_who_has_its_wildcard(names):
    names.learn({"wild": ["*.shops.test"]})
    look(names, may_see=lambda secret: secret != "wild")
    names.settle(names.next_wish(), CREATED)

    assert "wild" == names.answers("a.shops.test", lambda secret: secret == "wild")
    assert "a.shops.test" == names.answers("a.shops.test")


def test_of_two_secrets_for_one_wildcard_the_first_that_may_be_seen_answers(names):
    """Such as one of an RSA key beside one of an ECDSA key; what goes leaves the other."""
    names.learn({"wild-ecdsa": ["*.shops.test"]})
    names.learn({"wild-rsa": ["*.shops.test"]}, among=["wild-rsa"])

    assert "wild-ecdsa" == names.answers("a.shops.test")
    assert "wild-rsa" == names.answers("a.shops.test", lambda secret: secret == "wild-rsa")

    names.learn({}, among=["wild-ecdsa"])

    assert "wild-rsa" == names.answers("a.shops.test")

    names.learn({"wild-ecdsa": ["*.shops.test"]}, among=["wild-ecdsa"])
    names.learn({}, among=["wild-rsa"])

    assert "wild-ecdsa" == names.answers("a.shops.test")


@pytest.mark.parametrize("spelt", ["WWW.shops.test", "www.Shops.test", "www.shops.test."])
def test_a_secret_that_is_not_spelt_in_lower_case_is_still_had_by_its_name(names, spelt):
    woken = []
    names.watch(spelt, woken.append)
    names.learn({spelt: ["www.shops.test"]})

    assert [spelt] == woken
    assert (spelt, Standing.SECRET) == (names.answers(spelt), look(names, spelt, identity=STRANGER))


def test_what_is_gone_is_forgotten_and_those_who_watch_it_know(names):
    names.learn(
        {"a.shops.test": ["a.shops.test"], "b.shops.test": ["b.shops.test"], "wild": ["*.shops.test"]}
    )
    woken = []
    names.watch("a.shops.test", woken.append)
    names.learn({}, among=["a.shops.test", "wild"])

    assert "a.shops.test" in woken
    assert Standing.NOTHING == look(names, fresh=False)
    assert Standing.SECRET == look(names, "b.shops.test", fresh=False)

    names.learn({})

    assert Standing.NOTHING == look(names, "b.shops.test", fresh=False)


def test_who_unwatches_is_woken_no_more(names):
    woken = []
    names.watch("A.shops.test", woken.append)
    names.unwatch("A.shops.test", woken.append)
    names.learn({"a.shops.test": ["a.shops.test"]})

    assert [] == woken


def test_one_identity_has_so_many_wishes_and_leaves_room_for_others(names, denied):
    for number in range(MAX_WISHES_OF_ONE):
        look(names, f"{number}.shops.test")

    assert Standing.NOTHING == look(names)
    assert (EDGE, "a.shops.test", Result.BUSY) == denied[-1]
    assert Standing.WISHED == look(names, identity=OTHER)

    names.settle(names.next_wish(), CREATED)

    assert Standing.WISHED == look(names, "z.shops.test")


def test_who_has_many_wishes_keeps_no_other_waiting(names):
    for number in range(MAX_WISHES_OF_ONE):
        look(names, f"{number}.shops.test")
    look(names, identity=OTHER)

    assert [EDGE, OTHER, EDGE] == [names.next_wish().identity for _ in range(3)]


def test_wishes_have_an_end_in_all(names):
    for number in range(MAX_WISHES + 50):
        look(names, f"{number}.shops.test", f"spiffe://td/{number % 50}")

    assert MAX_WISHES == names.wishes


def test_the_name_of_a_handshake_is_read_once_however_often_it_is_asked_about(names, monkeypatch):
    """IDNA takes 0.5 ms of the event loop for a name that is made to be slow."""
    read = []
    monkeypatch.setattr(rules_module, "normalise", lambda asked: read.append(asked) or asked)
    names.watch("slow.shops.test", read.append)
    look(names, "slow.shops.test", identity=STRANGER)
    names.answers("slow.shops.test")
    names.unwatch("slow.shops.test", read.append)

    assert ["slow.shops.test"] == read


def test_a_flood_of_made_up_names_takes_no_more_memory_than_its_beginning(names, clock, monkeypatch):
    """And each is answered in well under 5 ms."""
    most = 1_000
    monkeypatch.setattr(names_module, "MAX_REMEMBERED", most)
    rng = Random(7)
    names.on_denied = lambda *_about: None

    def nobody(_asked):
        """Nobody is woken."""

    def flood(count):
        for _ in range(count):
            asked = f"{rng.getrandbits(64):x}.shops.test"
            names.watch(asked, nobody)
            if look(names, asked) is Standing.WISHED:
                names.settle(names.next_wish(), refused(Result.REFUSED, clock.now()))
            names.unwatch(asked, nobody)

    flood(most)
    started = perf_counter()
    flood(most)
    took_s = perf_counter() - started
    tracemalloc.start()
    flood(2 * most)  # all that is remembered is counted from now on
    before, _ = tracemalloc.get_traced_memory()
    flood(5 * most)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most == names.remembered
    assert after < 1.1 * before
    assert took_s / most < 0.005
