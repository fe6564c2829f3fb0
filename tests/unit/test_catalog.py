"""The Catalog: what can be served now, and who waits for it."""

from random import Random

from sds_server.model import Peer
from sds_server.xds.catalog import ABSENT, PENDING, Catalog, Resource

A1, A2 = Resource("a", "v1", 1, b"1"), Resource("a", "v2", 2, b"2")


def watched(*names):
    catalog, woken = Catalog(), []
    catalog.watch(names, woken.append)
    return catalog, woken


def test_what_nobody_loaded_is_not_known():
    assert Catalog().look("a") is None


def test_a_name_is_wanted_by_its_first_watcher_once():
    wanted = []
    catalog = Catalog(on_want=wanted.append)
    catalog.watch(["a", "b"], print)
    catalog.publish({"a": PENDING})
    catalog.watch(["a"], repr)

    assert wanted == ["a", "b"]


def test_watchers_are_told_the_names_that_changed():
    catalog, woken = watched("a", "b")
    catalog.publish({"a": A1, "b": ABSENT, "c": ABSENT})
    catalog.publish({"a": A2, "b": ABSENT})

    assert woken == ["a", "b", "a"]
    assert catalog.look("a") is A2


def test_who_stopped_watching_is_told_nothing():
    catalog, woken = watched("a")
    catalog.unwatch(["a", "unknown"], woken.append, now=1.0)
    catalog.publish({"a": A1})

    assert woken == []


def test_a_name_is_kept_for_a_while_after_its_last_watcher():
    """A proxy that restarts while the database is down still gets its last version."""
    catalog, woken = watched("a")
    catalog.publish({"a": A1})
    catalog.unwatch(["a"], woken.append, now=10.0)

    assert catalog.forget_idle(before=10.0) == []
    assert catalog.look("a") is A1
    assert catalog.known == {"a"}


def test_an_idle_name_is_forgotten_with_its_key():
    catalog, woken = watched("a")
    catalog.publish({"a": A1})
    catalog.unwatch(["a"], woken.append, now=10.0)

    assert catalog.forget_idle(before=11.0) == ["a"]
    assert catalog.look("a") is None
    assert catalog.known == frozenset()


def test_a_name_that_is_watched_again_is_not_idle():
    catalog, woken = watched("a")
    catalog.unwatch(["a"], woken.append, now=10.0)
    catalog.watch(["a"], woken.append)

    assert catalog.forget_idle(before=11.0) == []


def test_a_resource_does_not_show_its_key():
    assert "body" not in repr(A1)


def test_a_peer_can_be_offered_another_resource_than_all_others():
    catalog, woken = watched("a")
    one, other = Peer("spiffe://td/one", "n"), Peer("spiffe://td/other", "n")
    catalog.offer("a", A1, {one: A2}, before=A1)
    catalog.offer("a", A1, {one: A2}, before=None)

    assert (A2, A1, A1) == (catalog.look("a", one), catalog.look("a", other), catalog.look("a"))
    assert ["a"] == woken
    assert catalog.before("a") is None


def test_what_is_left_for_who_refused_is_forgotten_with_the_name():
    catalog, woken = watched("a")
    catalog.offer("a", A2, {}, before=A1)
    left = catalog.before("a")
    catalog.unwatch(["a"], woken.append, now=10.0)
    catalog.forget_idle(before=11.0)

    assert (A1, None) == (left, catalog.before("a"))


def test_watchers_are_told_in_another_order_each_time():
    catalog, woken = Catalog(rng=Random(7)), []
    for number in range(20):
        catalog.watch(["a"], lambda _name, number=number: woken.append(number))
    for generation in (1, 2):
        catalog.publish({"a": Resource("a", f"v{generation}", generation, b"")})
    first, second = woken[:20], woken[20:]

    assert sorted(first) == sorted(second) == [*range(20)]
    assert first != second
