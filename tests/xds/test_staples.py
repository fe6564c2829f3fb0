"""A staple that a proxy refuses costs it the staple, and never the certificate."""

import random
from dataclasses import replace

import pytest

from sds_server.xds.catalog import Resource
from sds_server.xds.stream import Accepted, Refused, Request, Stream

BARE = Resource("a", "bare", 7, b"chain and key")
STAPLED = Resource("a", "stapled", 7, b"chain, key and staple", bare=BARE)
NEWER = replace(STAPLED, version="newer", body=b"chain, key and another staple")
MUST = replace(STAPLED, must=True)
OLD = Resource("a", "old", 6, b"the one before")


class Talk:
    """One delta stream that is subscribed to a."""

    def __init__(self, entry, **options):
        self.entry = entry
        self.stream = Stream(delta=True, now=0.0, rng=random.Random(1), **options)
        self.stream.receive(Request(subscribe=("a",)), 0.0)

    def sent(self):
        self.response = self.stream.respond(lambda _name: self.entry, 0.0)
        return None if self.response is None else self.response.resource

    def says(self, error=None):
        return self.stream.receive(Request(nonce=self.response.nonce, error=error), 0.0)


def test_who_refuses_it_stapled_gets_it_without_at_once():
    talk = Talk(STAPLED)
    first, refusal, second = talk.sent(), talk.says("bad staple"), talk.sent()

    assert (STAPLED, BARE) == (first, second)
    assert [Refused("a", "stapled", 7, "bad staple", stapled=True)] == refusal
    assert [Accepted("a", "bare", 7)] == talk.says()
    assert talk.sent() is None


def test_who_refuses_it_without_as_well_has_refused_the_certificate():
    talk = Talk(STAPLED, before=lambda _name: OLD)
    talk.sent()
    talk.says("no")
    talk.sent()

    assert [Refused("a", "bare", 7, "no", stapled=False)] == talk.says("no")
    assert OLD == talk.sent()


def test_one_that_must_be_stapled_is_refused_with_its_staple():
    talk = Talk(MUST, before=lambda _name: OLD)
    talk.sent()

    assert [Refused("a", "stapled", 7, "no", stapled=False)] == talk.says("no")
    assert OLD == talk.sent()


def test_a_staple_that_was_refused_on_an_earlier_stream_is_not_sent_again():
    assert BARE == Talk(STAPLED, refused=[("a", "stapled")]).sent()


def test_the_next_staple_is_tried_again():
    """It was the bytes that were refused."""
    talk = Talk(STAPLED)
    talk.sent()
    talk.says("bad staple")
    talk.sent()
    talk.says()
    talk.entry = NEWER
    talk.stream.changed("a")

    assert NEWER == talk.sent()


@pytest.mark.parametrize("entry", [STAPLED, MUST, BARE])
def test_who_does_not_staple_gets_chain_and_key_alone(entry):
    assert BARE == entry.unstapled
