"""The core of one xDS stream: what a client wants, what it was sent, and what to send it next.

No sockets, protobuf, clock or asyncio: `Stream` takes decoded requests and the time in, and gives events and
responses out. One core serves the state-of-the-world and the delta variant. The rules are those of Envoy's
xds_protocol document, plus what was measured on Envoy 1.40 and is said where it decides something.

Secrets have no wildcard: the protocol gives "*" to listeners and clusters only, and here it would mean
"send me every private key".
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from sds_server.xds.catalog import ABSENT, PENDING, Entry, Missing, Resource, View
from sds_server.xds.scrub import scrub

MAX_NAMES: Final = 10_000  # names of one stream; more are ignored
MAX_NAME_BYTES: Final = 512
MAX_ABANDONED: Final = 1_000  # unanswered responses kept for blame after their subscription ended
PENDING_S: Final = 10.0  # an ACME order takes 10 to 60 s; Envoy's listener waits 15 s by default
ASK_AGAIN_S: Final = 1.0  # a stream's repeated requests are answered this often at most
REFRESH_S: Final = 600.0
REFRESH_JITTER: Final = 0.3  # so that a fleet's refreshes do not come together
WARN_UNANSWERED_S: Final = 30.0
CLOSE_UNANSWERED_S: Final = 120.0  # frozen, dead and confused clients look the same; a new stream cures all


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded client message.

    ``names`` is the full list of state of the world, None in delta. ``known`` is delta's
    ``initial_resource_versions``. ``error`` is the message of ``error_detail``, None where that is not set.
    """

    names: tuple[str, ...] | None = None
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """One name's news: its Resource, or None for "removed" (delta only)."""

    nonce: str
    name: str
    resource: Resource | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The client wants the name now."""

    name: str


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The client does not want the name any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client says that it took the content: a hint, never a proof."""

    name: str
    version: str
    generation: int
    nonce: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Unverified:
    """The client says that it took content which it refused before.

    Envoy 1.40 keeps the hash of what it has just refused, and ACKs the same bytes while serving the old ones.
    """

    name: str
    version: str
    generation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The client refused the content; ``detail`` is scrubbed.

    ``stapled``: it gets the same without its staple next, and what it says of that is of the certificate.
    """

    name: str
    version: str
    generation: int
    detail: str
    nonce: str = field(default="", compare=False)
    stapled: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """So many names of a request were no names that a Secret can have, or too many."""

    count: int


Event = Subscribed | Unsubscribed | Accepted | Unverified | Refused | Ignored


@dataclass(slots=True)
class _Subscription:
    """What the stream remembers of one wanted name."""

    sent: str | Missing | None = None  # version, or ABSENT
    again: bool = True  # send even what is unchanged
    nonce: str | None = None  # of the response that is not answered yet
    good: Resource | None = None  # accepted last
    waited: bool = False  # PENDING for so long that it counts as ABSENT


@dataclass(frozen=True, slots=True)
class _Sent:
    response: Response
    at: float


class Stream:
    """One client's protocol state.

    At most one response a subscription is unanswered, so that an ACK or NACK is about exactly one version of
    one name, bursts coalesce to the newest, and a bad Secret delays no other. A name subscribed anew is
    answered anew even while an older response is in flight: Envoy drops, without an answer, what arrives
    while it watches nothing of the type.

    ``refused`` are the (name, version) that this client refused on earlier streams; ``before`` gives what is
    left for it where it refused what it is offered and has taken nothing on this one. ``now`` is always
    monotonic seconds.
    """

    def __init__(
        self,
        *,
        delta: bool,
        now: float,
        rng: random.Random,
        refused: Iterable[tuple[str, str]] = (),
        before: Callable[[str], Resource | None] = lambda _name: None,
        nonce_prefix: str = "",
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._before = before
        self._refresh_s = refresh_s
        self._delta = delta
        self._rng = rng
        self._refused = set(refused)
        self._wanted: dict[str, _Subscription] = {}
        self._claimed: set[str] = set()  # held by the client, not wanted: it is told if they are gone
        self._due: dict[str, None] = {}  # names to look at, in order
        self._pending: dict[str, float] = {}  # name -> when PENDING becomes ABSENT, soonest first
        self._unanswered: dict[str, _Sent] = {}  # nonce -> response, oldest first
        self._abandoned: dict[str, Response] = {}  # the same for subscriptions that ended
        self._nonce_prefix = nonce_prefix
        self._nonce_count = 0  # no response has nonce 0
        self._asked_again_at: float | None = None
        self._answer_again_at: float | None = None
        self._refresh_at = self._next_refresh(now)

    @property
    def wanted(self) -> frozenset[str]:
        """The names that the client is subscribed to."""
        return frozenset(self._wanted)

    def end(self) -> None:
        """Keep nothing of what was sent: whoever still holds an ended stream holds no key with it."""
        for kept in (self._wanted, self._due, self._pending, self._unanswered, self._abandoned):
            kept.clear()

    def receive(self, request: Request, now: float) -> list[Event]:
        """Take in one message.

        The newest names always count, whatever the nonce (dropping them is envoyproxy/envoy#10363); the nonce
        only says which response an ACK or NACK is about.
        """
        ended = self._abandoned.pop(request.nonce, None)
        answered = self._take(request.nonce) or ended
        events = [] if answered is None else self._judge(answered, request.error, ended=ended is not None)
        if request.names is None:
            events += self._subscribe(request.subscribe)
            events += self._unsubscribe(request.unsubscribe)
            self._claim(request.known)
            return events
        names = dict.fromkeys(request.names)
        # The protocol lets a client repeat its request to be answered again; Envoy does so on ADS for a new
        # watcher of a name that it knows already, and starves if it is not answered.
        repeated = answered is None and request.error is None and request.nonce == self._last_nonce
        if repeated and self._wanted.keys() == set(filter(is_name, names)):
            self._ask_again(now)
        events += self._unsubscribe([name for name in self._wanted if name not in names])
        events += self._subscribe([name for name in names if name not in self._wanted])
        return events

    def changed(self, name: str) -> None:
        """Look at the name again: the view of it may have changed."""
        if name in self._wanted or name in self._claimed:
            self._due[name] = None

    def refused_before(self, name: str, versions: Iterable[str]) -> None:
        """Take in what this client refused on earlier streams under a name that means the same."""
        self._refused.update((name, version) for version in versions)

    def recheck(self) -> None:
        """Look at every name again: the client's rights may have changed."""
        self._due.update(dict.fromkeys([*self._wanted, *self._claimed]))

    def respond(self, view: View, now: float) -> Response | None:
        """Return the next message, or None: nothing is due, or what is due waits for an answer."""
        self._turn_clock(now)
        while self._due:
            name = next(iter(self._due))
            del self._due[name]
            if response := self._news(name, view, now):
                return response
        return None

    def next_wake(self, now: float) -> float | None:
        """When to call `respond` although nothing happened; None: nothing depends on time."""
        moments = [self._answer_again_at, next(iter(self._pending.values()), None)]
        if self._wanted:
            moments.append(self._refresh_at)
        for sent in self._unanswered.values():
            moments += [at for s in (WARN_UNANSWERED_S, CLOSE_UNANSWERED_S) if (at := sent.at + s) > now]
            break  # the oldest decides
        return min((at for at in moments if at is not None), default=None)

    def unanswered_s(self, now: float) -> float:
        """How long the oldest response has waited for its ACK or NACK."""
        return next((now - sent.at for sent in self._unanswered.values()), 0.0)

    # What the client says

    def _take(self, nonce: str) -> Response | None:
        """Return the response that the nonce answers, the first time it does."""
        sent = self._unanswered.pop(nonce, None)
        if sent is None:
            return None
        self._wanted[sent.response.name].nonce = None
        return sent.response

    def _judge(self, response: Response, error: str | None, *, ended: bool) -> list[Event]:
        """Credit or blame exactly what the response carried. A NACK is ``error_detail``, nothing else.

        Envoy ACKs, unseen, what comes for a name that it does not want any more: no credit for an ``ended``
        subscription. Its NACK is real.
        """
        name, resource = response.name, response.resource
        subscription = self._wanted.get(name)
        if subscription is not None:
            self._due[name] = None
        if resource is None:
            return []
        version, generation = resource.version, resource.generation
        if error is not None:
            self._refused.add((name, version))
            if subscription is not None and subscription.good == resource:
                subscription.good = None
            left = resource.instead
            stapled = left is not None and (name, left.version) not in self._refused
            return [Refused(name, version, generation, scrub(error), response.nonce, stapled)]
        if subscription is None or ended:
            return []
        if (name, version) in self._refused:
            return [Unverified(name, version, generation)]
        subscription.good = resource
        return [Accepted(name, version, generation, response.nonce)]

    def _subscribe(self, names: Iterable[str]) -> list[Event]:
        """Want the names; one that is wanted already is answered again (delta: "MUST")."""
        events: list[Event] = []
        ignored = 0
        for name in names:
            subscription = self._wanted.get(name)
            if subscription is not None:
                self._abandon(subscription)
                subscription.again, subscription.waited = True, False
            elif is_name(name) and len(self._wanted) < MAX_NAMES:
                self._wanted[name] = _Subscription()
                events.append(Subscribed(name))
            else:
                ignored += 1
                continue
            self._claimed.discard(name)
            self._pending.pop(name, None)
            self._due[name] = None
        return [*events, Ignored(ignored)] if ignored else events

    def _unsubscribe(self, names: Iterable[str]) -> list[Event]:
        events: list[Event] = []
        for name in names:
            subscription = self._wanted.pop(name, None)
            if subscription is not None:
                self._abandon(subscription)
                self._due.pop(name, None)
                self._pending.pop(name, None)
                events.append(Unsubscribed(name))
        return events

    def _claim(self, known: Iterable[str]) -> None:
        """Remember what the client holds unasked. Its versions are not used: after a NACK they lie."""
        for name in known:
            if name not in self._wanted and is_name(name) and len(self._claimed) < MAX_NAMES:
                self._claimed.add(name)
                self._due[name] = None

    def _abandon(self, subscription: _Subscription) -> None:
        """Do not wait for the answer any more, but know what it is about if it comes."""
        if subscription.nonce is not None:
            self._abandoned[subscription.nonce] = self._unanswered.pop(subscription.nonce).response
            subscription.nonce = None
            if len(self._abandoned) > MAX_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]

    def _ask_again(self, now: float) -> None:
        earliest = now if self._asked_again_at is None else self._asked_again_at + ASK_AGAIN_S
        self._answer_again_at = max(now, earliest)

    # What the client is told

    def _turn_clock(self, now: float) -> None:
        """Make due what time makes due."""
        while self._pending and next(iter(self._pending.values())) <= now:
            name = next(iter(self._pending))
            del self._pending[name]
            self._wanted[name].waited = True
            self._due[name] = None
        if self._answer_again_at is not None and self._answer_again_at <= now:
            self._asked_again_at, self._answer_again_at = now, None
            self._send_again()
        if self._refresh_at <= now:
            # An unchanged Secret sent again is what alone heals a proxy whose listener update lost its Secret
            # without asking for it (envoyproxy/envoy#47309); Envoy does not rebuild anything for equal bytes.
            self._refresh_at = self._next_refresh(now)
            self._send_again()

    def _send_again(self) -> None:
        for name, subscription in self._wanted.items():
            if subscription.nonce is None and isinstance(subscription.sent, str):
                subscription.again = True
                self._due[name] = None

    def _next_refresh(self, now: float) -> float:
        return now + self._refresh_s * self._rng.uniform(1 - REFRESH_JITTER, 1 + REFRESH_JITTER)

    def _news(self, name: str, view: View, now: float) -> Response | None:
        """Return what there is to say about one name."""
        subscription = self._wanted.get(name)
        if subscription is None:
            return self._news_of_claimed(name, view)
        if subscription.nonce is not None:
            return None  # its answer makes the name due again
        entry = self._offered(name, subscription, view)
        if entry is PENDING and self._delta:
            entry = self._patience(name, subscription, now)
        match entry:
            case Resource(version=version) if subscription.again or version != subscription.sent:
                subscription.sent, subscription.waited = version, False
                response = self._response(name, entry)
            case Missing.ABSENT if self._delta and (subscription.again or subscription.sent is not ABSENT):
                subscription.sent = ABSENT
                response = self._response(name, None)
            case _:  # nothing new, not loaded, or a state of the world that has no way to say "absent"
                return None
        self._pending.pop(name, None)
        subscription.again, subscription.nonce = False, response.nonce
        self._unanswered[response.nonce] = _Sent(response, now)
        return response

    def _offered(self, name: str, subscription: _Subscription, view: View) -> Entry | None:
        """Return what the client should have: never what it refused, but the last good content instead.

        A refused Secret poisons Envoy's provider: listener updates that use it are refused too, and the next
        equal push is ACKed unseen, until good content arrives.
        """
        entry = view(name)
        if not isinstance(entry, Resource) or (name, entry.version) not in self._refused:
            return entry
        if entry.instead is not None and (name, entry.instead.version) not in self._refused:
            return entry.instead  # a staple that it does not take: the certificate may be good all the same
        if subscription.good is not None:
            return subscription.good
        before = self._before(name)  # a proxy that has started anew has nothing at all
        return None if before is None or (name, before.version) in self._refused else before

    def _patience(self, name: str, subscription: _Subscription, now: float) -> Entry | None:
        """PENDING is silence at first, so that Envoy keeps its old listener, and ABSENT after `PENDING_S`."""
        if subscription.waited:
            return ABSENT
        if subscription.again:
            self._pending.setdefault(name, now + PENDING_S)
        return None

    def _news_of_claimed(self, name: str, view: View) -> Response | None:
        """Say that a name is gone which the client holds without wanting it; otherwise say nothing."""
        entry = view(name)
        if entry is not None:
            self._claimed.discard(name)
        return self._response(name, None) if entry is ABSENT else None

    def _response(self, name: str, resource: Resource | None) -> Response:
        self._nonce_count += 1
        return Response(self._last_nonce, name, resource)

    @property
    def _last_nonce(self) -> str:
        return f"{self._nonce_prefix}{self._nonce_count}"


def is_name(name: str) -> bool:
    """Whether a Secret can have this name; "*" would be a wildcard."""
    return bool(name) and name != "*" and name.isprintable() and len(name.encode()) <= MAX_NAME_BYTES
