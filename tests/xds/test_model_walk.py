"""Random walks of a model client against the core, in both variants; a failure names its seed."""

import random

import pytest

from sds_server.xds.catalog import ABSENT, Resource
from sds_server.xds.stream import Accepted, Refused, Request, Stream, Unverified

NAMES = "abcdef"
FORBIDDEN = "f"
WALKS = 300
STEPS = 300


class Walk:
    """A client like Envoy, the Catalog, and the wires between them, with the core in the middle."""

    def __init__(self, seed, *, delta):
        self.rnd = random.Random(seed)
        self.delta = delta
        self.stream = Stream(delta=delta, now=0.0, rng=random.Random(seed))
        self.now = 0.0
        self.catalog = {}  # name -> Resource or ABSENT; missing: not loaded
        self.generation = 0
        self.poison = set()  # versions that the client refuses
        self.want, self.have, self.last_refused = set(), {}, {}
        self.nonce = ""
        self.up, self.down = [], []
        self.sent = 0
        self.told_refused, self.in_flight = set(), {}  # as the core must see them
        self.subscribe()

    def view(self, name):
        return ABSENT if name == FORBIDDEN else self.catalog.get(name)

    # The client

    def subscribe(self):
        new = set(self.rnd.sample(NAMES, self.rnd.randint(0, 4)))
        if self.delta:
            forgotten = {name for name in new & self.want if self.rnd.random() < 0.1}
            added, gone = (new - self.want) | forgotten, self.want - new
            self.up.append(Request(subscribe=tuple(sorted(added)), unsubscribe=tuple(sorted(gone))))
        else:
            forgotten, gone = set(), self.want - new
            self.up.append(Request(names=tuple(sorted(new)), nonce=self.rnd.choice(["", self.nonce])))
        for name in forgotten | gone | (new - self.want):
            self.have.pop(name, None)
        self.want = new

    def ask_again(self):
        """A new watcher of known names (Envoy, state of the world on ADS)."""
        if not self.delta and self.nonce and not self.down:
            self.up.append(Request(names=tuple(sorted(self.want)), nonce=self.nonce))

    def answer(self):
        """Judge like Envoy 1.40: what was just refused is ACKed when it comes again unchanged."""
        response = self.down.pop(0)
        self.nonce, name, content, error = response.nonce, response.name, response.resource, None
        if name in self.want:
            if content is None:
                self.have.pop(name, None)
            elif content.version in self.poison and self.last_refused.get(name) != content.version:
                error = "bad"
                self.last_refused[name] = content.version
            elif content.version not in self.poison:
                self.have[name] = content.version
                self.last_refused.pop(name, None)
        names = None if self.delta else tuple(sorted(self.want))
        self.up.append(Request(names=names, nonce=response.nonce, error=error))

    # The server

    def publish(self):
        name = self.rnd.choice(NAMES)
        self.generation += 1
        self.catalog[name] = Resource(name, f"v{self.generation}", self.generation, b"")
        if self.rnd.random() < 0.2:
            self.poison.add(f"v{self.generation}")
        self.stream.changed(name)

    def delete(self):
        name = self.rnd.choice(NAMES)
        self.catalog[name] = ABSENT
        self.stream.changed(name)

    def take(self):
        request = self.up.pop(0)
        answered = next((r for r in self.in_flight.values() if r.nonce == request.nonce), None)
        if answered:
            del self.in_flight[answered.name]
        for name in {*self.stream.wanted} if request.names is not None else request.unsubscribe:
            if request.names is None or name not in request.names:
                self.in_flight.pop(name, None)
        for name in request.subscribe:
            self.in_flight.pop(name, None)
        for event in self.stream.receive(request, self.now):
            match event:
                case Refused(name, version):
                    assert request.error
                    assert version in self.poison
                    self.told_refused.add((name, version))
                case Accepted(name, version):
                    assert not request.error
                    assert version not in self.poison
                case Unverified(name, version):
                    assert (name, version) in self.told_refused

    def pump(self):
        """Collect the responses, and hold each against what may be sent."""
        while response := self.stream.respond(self.view, self.now):
            name, content = response.name, response.resource
            assert name in self.stream.wanted, "unrequested"
            assert name not in self.in_flight, "two unanswered responses of one subscription"
            assert self.delta or content is not None, "state of the world cannot say removed"
            if content is not None:
                assert name != FORBIDDEN
                assert (name, content.version) not in self.told_refused, "refused content sent again"
                current = self.view(name)
                pushed_back = (name, current.version) in self.told_refused if current is not ABSENT else False
                assert content == current or pushed_back, "neither the newest nor a push-back"
            self.in_flight[name] = response
            self.down.append(response)
            self.sent += 1

    # The walk

    def step(self, *, quiet):
        chance = self.rnd.random()
        if quiet or chance > 0.4:
            if self.up and (self.rnd.random() < 0.5 or not self.down):
                self.take()
            elif self.down:
                self.answer()
        elif chance < 0.15:
            self.subscribe()
        elif chance < 0.30:
            self.publish()
        elif chance < 0.34:
            self.delete()
        elif chance < 0.36:
            self.ask_again()
        else:
            self.now += self.rnd.choice([0.1, 1.0])
        self.pump()

    def settle(self):
        for name in NAMES:
            self.catalog.setdefault(name, ABSENT)
            self.stream.changed(name)
        self.now += 2.0  # what was asked again too soon is answered now
        self.pump()
        for _ in range(2000):
            if not self.up and not self.down:
                return
            self.step(quiet=True)
        raise AssertionError("does not come to rest")


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
def test_every_walk_ends_with_what_is_wanted_delivered_and_nothing_else_said(delta):
    for seed in range(WALKS):
        walk = Walk(seed, delta=delta)
        try:
            for _ in range(STEPS):
                walk.step(quiet=False)
            walk.settle()
            check_end(walk)
        except AssertionError as e:
            raise AssertionError(f"seed {seed}, delta {delta}: {e}") from e


def check_end(walk):
    for name in walk.want:
        current = walk.view(name)
        if current is ABSENT:
            assert not walk.delta or name not in walk.have
        elif current.version in walk.poison:
            assert (name, current.version) in walk.told_refused, f"{name}: nobody heard of its refusal"
        else:
            assert walk.have.get(name) == current.version, f"{name}: not delivered"
    before = walk.sent
    walk.pump()

    assert walk.sent == before, "spoke without a reason"
