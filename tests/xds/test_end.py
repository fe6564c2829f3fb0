"""A stream that has ended holds no key, whoever still holds the stream."""

import random
import sys

from sds_server.xds.catalog import Resource
from sds_server.xds.stream import Request, Stream


def test_an_ended_stream_holds_nothing_of_what_was_sent_accepted_or_left_unanswered():
    resources = {name: Resource(name, "v1", 1, b"a key of " + name.encode()) for name in "abc"}
    before = [sys.getrefcount(resource) for resource in resources.values()]
    stream = Stream(delta=True, now=0.0, rng=random.Random(1))
    stream.receive(Request(subscribe=("a", "b", "c")), 0.0)
    nonces = []
    while response := stream.respond(resources.get, 0.0):
        nonces.append(response.nonce)
    stream.receive(Request(nonce=nonces[0]), 0.0)
    stream.receive(Request(unsubscribe=("b",)), 0.0)
    held = [sys.getrefcount(resource) for resource in resources.values()]
    stream.end()

    assert all(more > few for more, few in zip(held, before, strict=True))
    assert before == [sys.getrefcount(resource) for resource in resources.values()]
