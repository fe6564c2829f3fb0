"""Transcripts: a conversation with the core, line by line, compared whole.

Inputs:
    ``! a@v1``              the Catalog's entry of a; also ``a absent``, ``a pending``, ``a unloaded``
    ``> a b``               state of the world: the full list of names, without a nonce
    ``> +a -b``             delta: subscribe, unsubscribe; ``known:a@v1`` is one of initial_resource_versions
    ``> ack 1 a b``         the same with a nonce; ``nack`` has an error_detail
    ``wait 10``             turns the clock, stopping only where `next_wake` says so
Outputs, all that there are:
    ``< 1 a@v1``            a response: nonce, and the Resource; ``< 2 a removed``
    ``= accepted a@v1``     an event; subscribing and unsubscribing are not shown

A transcript fails when the core says more than is written: "never responds more than necessary" is asserted
everywhere.
"""

import random
from textwrap import dedent

from sds_server.xds.catalog import ABSENT, PENDING, Resource
from sds_server.xds.stream import Accepted, Ignored, Refused, Request, Stream, Unverified


class Steady(random.Random):
    """No jitter."""

    def uniform(self, a, b):
        return (a + b) / 2


def resource(name: str, version: str) -> Resource:
    """``v3`` is of generation 3."""
    return Resource(name, version, int(version.lstrip("v")), f"{name} {version}".encode())


def play(text: str, *, delta: bool, refused=()) -> None:
    """Act out the inputs, and hold what comes out against the whole text."""
    script = [line for line in dedent(text).splitlines() if line.strip()]

    assert script == Play(delta=delta, refused=refused).act(line for line in script if line[0] not in "<=")


class Play:
    def __init__(self, *, delta, refused=()):
        self.delta = delta
        self.now = 0.0
        self.catalog = {}
        self.stream = Stream(delta=delta, now=self.now, rng=Steady(), refused=refused)

    def act(self, inputs):
        lines = []
        for line in inputs:
            lines.append(line)
            lines += self.turn(line)
        return lines

    def turn(self, line):
        verb, *words = line.split()
        if verb == ">":
            events = self.stream.receive(self.request(words), self.now)
            return [*map(show_event, filter(shown, events)), *self.responses()]
        if verb == "wait":
            return self.wait(float(words[0]))
        name, _, version = words[0].partition("@")
        values = {"absent": ABSENT, "pending": PENDING, "unloaded": None}
        self.catalog[name] = resource(name, version) if version else values[words[1]]
        self.stream.changed(name)
        return self.responses()

    def request(self, words):
        nonce, error = "", None
        if words[:1] in (["ack"], ["nack"]):
            error = "no good" if words[0] == "nack" else None
            nonce, words = words[1], words[2:]
        if not self.delta:
            return Request(names=tuple(words), nonce=nonce, error=error)
        return Request(
            subscribe=tuple(word[1:] for word in words if word[0] == "+"),
            unsubscribe=tuple(word[1:] for word in words if word[0] == "-"),
            known=dict(word[6:].split("@") for word in words if word.startswith("known:")),
            nonce=nonce,
            error=error,
        )

    def responses(self):
        lines = []
        while response := self.stream.respond(self.catalog.get, self.now):
            content = response.resource
            lines.append(
                f"< {response.nonce} {response.name}" + (f"@{content.version}" if content else " removed")
            )
        return lines

    def wait(self, seconds):
        lines, until = [], self.now + seconds
        while (wake := self.stream.next_wake(self.now)) is not None and wake <= until:
            self.now = max(self.now, wake)
            lines += self.responses()
        self.now = until
        return lines


def shown(event):
    return isinstance(event, Accepted | Refused | Unverified | Ignored)


def show_event(event):
    if isinstance(event, Ignored):
        return f"= ignored {event.count}"
    return f"= {type(event).__name__.lower()} {event.name}@{event.version}"
