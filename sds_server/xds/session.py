"""One open stream around the core: the peer's rights, the Catalog's news, and the time.

A stream has one reader and one writer. The reader feeds the core; the writer sleeps until the Catalog, the
reader or the time has something for the core to answer, and the pace of its writes is the back-pressure.
Whether the peer may see a name is asked at every single look, before the Catalog: a name that it may not see
is ABSENT, is never loaded for it, and never ends the stream.

Knows no gRPC: it takes an iterator of requests and a function that writes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from secrets import token_hex
from typing import Final, assert_never

from sds_server.crashpoint import crashpoint
from sds_server.log import Logger, get
from sds_server.on_demand.names import Names, Standing
from sds_server.xds import codec
from sds_server.xds.answers import Answers
from sds_server.xds.caller import Caller, Denied, Ended, Status
from sds_server.xds.catalog import ABSENT, PENDING, Entry, Resource
from sds_server.xds.limits import HOLD_S, Room
from sds_server.xds.service import PeerNode, Service, node_of
from sds_server.xds.stream import (
    CLOSE_UNANSWERED_S,
    WARN_UNANSWERED_S,
    Accepted,
    Event,
    Ignored,
    Refused,
    Response,
    Stream,
    Subscribed,
    Unsubscribed,
    Unverified,
)

WRITE_DEADLINE_S: Final = 30.0  # who does not read for so long is cut, and holds no key bytes here
MAX_IGNORED_TYPES: Final = 16  # told of once a stream; Envoy has nine types

_log = get("stream")


class Session:
    """One open stream: its peer, its core, and what wakes them."""

    def __init__(
        self,
        service: Service,
        write: Callable[[bytes], Awaitable[None]],
        *,
        caller: Caller,
        delta: bool,
        aggregated: bool,
    ) -> None:
        self._service = service
        self._write_bytes = write
        self._caller = caller
        self._identity = caller.identity
        self._delta = delta
        self._aggregated = aggregated
        self._node_id = ""
        self._peer = PeerNode(self._identity, "")
        self._stream: Stream | None = None
        self._answers = Answers(
            service.names if delta and service.names is not None else Names(clock=service.clock),
            self._look_again,
            may_see=lambda secret: service.authorize(caller.identity, secret),
        )
        self._watched: dict[str, set[str]] = {}  # Secret -> the names as asked that it answers for
        self._denied: set[str] = set()
        self._keyless: set[str] = set()
        self._room = Room(service.limits, self._identity, self._look_again)
        self._looked_up: set[str] = set()  # not known yet whether they exist
        self._held: dict[str, float] = {}  # not looked up before this moment
        self._warned = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._log: Logger = _log.bind(identity=self._identity, delta=delta, aggregated=aggregated)

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Read and write until the client leaves.

        Raises:
            Ended: we end it.
        """
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._write())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    def stop(self) -> None:
        """End the stream: the server stops."""
        self._stopping = True
        self._wake.set()

    def recheck(self) -> None:
        """Look at every name again, and at whether the peer may be here at all."""
        if self._stream is not None:
            self._stream.recheck()
        self._wake.set()

    def close(self) -> None:
        """Leave nothing behind: no watcher, no subscription."""
        self._room.close()
        self._service.catalog.unwatch(self._watched, self._changed, now=self._service.clock.monotonic())
        self._answers.close()
        for asked, secret in self._answers.heard():
            self._service.observer.disconnected(self._peer_for(asked, secret), secret)
        if self._stream is not None:
            self._log.info("stream.closed", names=len(self._stream.wanted))
            # How the stream ended refers to it, and it to that: only the garbage collector takes both away.
            self._stream.end()

    # The reader

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        ignored_types: set[str] = set()
        async for data in requests:
            try:
                message = codec.decode(data, delta=self._delta)
            except codec.Malformed as e:
                raise Ended(Status.INVALID_ARGUMENT, str(e)) from None
            stream = self._stream or self._open(message.node_id)
            if message.node_id not in {"", self._node_id}:
                raise Ended(Status.INVALID_ARGUMENT, "node.id changed within a stream")
            if self._is_for_us(message.type_url):
                events = stream.receive(message.request, self._service.clock.monotonic())
                for event in events:
                    self._tell(event)
                self._wake.set()
            else:
                self._service.on_ignored(message.type_url)
                if message.type_url not in ignored_types and len(ignored_types) < MAX_IGNORED_TYPES:
                    ignored_types.add(message.type_url)
                    self._log.info("type.ignored", type_url=message.type_url)
            if (pause_s := self._service.limits.pause_s(self._identity, len(data))) > 0:
                await self._service.clock.sleep(pause_s)

    def _open(self, node_id: str) -> Stream:
        """Start the core at the first message, whose node counts for the whole stream."""
        name = node_of(node_id, self._identity, required=self._service.require_node)
        token = token_hex(4)
        self._node_id, self._peer = node_id, PeerNode(self._identity, name, stream=token)
        self._log = self._log.bind(node=name)
        self._stream = Stream(
            delta=self._delta,
            now=self._service.clock.monotonic(),
            rng=self._service.rng,
            refused=self._service.refused.of(self._peer),
            before=self._before,
            nonce_prefix=f"{token}-",  # a nonce left over from another stream matches nothing here
            refresh_s=self._service.refresh_s,
        )
        self._log.info("stream.opened")
        return self._stream

    def _is_for_us(self, type_url: str) -> bool:
        """Whether the message is about secrets.

        ADS carries other types too. They get silence: an empty answer would take everything from the client.
        """
        if type_url == codec.TYPE_URL or (not type_url and not self._aggregated):
            return True
        if not type_url or not self._aggregated:
            raise Ended(Status.INVALID_ARGUMENT, f"type_url must be {codec.TYPE_URL}")
        return False

    def _tell(self, event: Event) -> None:
        observer = self._service.observer
        match event:
            case Subscribed(name):
                if not self._answers.subscribe(name):
                    self._hear(name, name)
            case Unsubscribed(name):
                self._unwatch(name)
                self._room.leave(name)
                self._denied.discard(name)
                self._keyless.discard(name)
                self._answers.unsubscribe(name)
                self._unhear(name)
            case Accepted(name, version, generation, nonce):
                secret = self._secret(name)
                observer.accepted(self._peer_for(name, secret), secret, version, generation, nonce=nonce)
                crashpoint("secret.accepted")
            case Refused(name, version, _, detail, stapled=True):
                secret = self._secret(name)
                observer.unstapled(self._peer_for(name, secret), secret, version)
                self._log.warning("staple.refused", secret=secret, version=version, reason=detail)
            case Refused(name, version, generation, detail, nonce):
                secret = self._secret(name)
                observer.refused(
                    self._peer_for(name, secret), secret, version, generation, detail, nonce=nonce
                )
                crashpoint("secret.refused")
                self._log.warning("secret.refused", secret=secret, version=version, reason=detail)
            case Unverified(name, version):
                self._log.warning("acceptance.disbelieved", secret=self._secret(name), version=version)
            case Ignored(count):
                self._log.warning("names.ignored", count=count)
            case _:
                assert_never(event)

    # The writer

    async def _write(self) -> None:
        while True:
            self._wake.clear()
            left_s = self._left_s()  # asked for each response: a busy stream ends in time too
            wait_s = left_s
            if self._stream is not None:
                now = self._service.clock.monotonic()
                held_until = self._release(self._stream, now)
                if response := self._stream.respond(self._look, now):
                    await self._send(response)
                    del response  # it may be long until the next
                    continue
                self._watch_over(self._stream, now)
                for wake_at in (self._stream.next_wake(now), held_until):
                    if wake_at is not None:
                        wait_s = min(wait_s, max(0.0, wake_at - now))
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait_s == inf else wait_s):
                    await self._wake.wait()

    def _left_s(self) -> float:
        """Return how long the stream may go on, at most."""
        if self._stopping:
            raise Ended(Status.UNAVAILABLE, "the server stops")
        self._service.check_open()
        return self._caller.left_s(self._service.clock.now())

    async def _send(self, response: Response) -> None:
        """Write one response. The observer hears of it first, as the answer may come before we go on."""
        if (resource := response.resource) is not None:
            secret = self._secret(response.name)
            self._service.observer.sent(
                self._peer_for(response.name, secret),
                resource if secret == response.name else replace(resource, name=secret),
            )
            if secret != response.name:
                response = replace(response, resource=codec.renamed(resource))
        data = codec.encode(response, delta=self._delta, identifier=self._service.identifier)
        crashpoint("secret.sending")
        try:
            async with asyncio.timeout(WRITE_DEADLINE_S):
                await self._write_bytes(data)
        except TimeoutError:
            raise Ended(Status.DEADLINE_EXCEEDED, "the client does not read its responses") from None
        crashpoint("secret.sent")

    def _watch_over(self, stream: Stream, now: float) -> None:
        """End a stream whose client neither accepts nor refuses: a new one cures what a frozen one cannot."""
        unanswered_s = stream.unanswered_s(now)
        if unanswered_s >= CLOSE_UNANSWERED_S:
            raise Ended(Status.UNAVAILABLE, f"no ACK or NACK within {CLOSE_UNANSWERED_S:g} s")
        if unanswered_s >= WARN_UNANSWERED_S and not self._warned:
            self._warned = True
            self._log.warning("answer.overdue", unanswered_s=round(unanswered_s))

    def _look(self, asked: str) -> Entry | None:
        """Return what the peer may see of the name now: this is the core's View.

        The right is that to the Secret: whoever may see one name below a wildcard may not see its key.
        """
        secret = self._answers.secret(asked)
        if (why := self._why_not(asked, secret)) is not None:
            self._unwatch(asked)
            if asked not in self._denied:
                self._denied.add(asked)
                if self._service.limits.may_tell(self._identity):
                    self._log.warning("secret.denied", secret=secret, reason=why)
                self._service.observer.denied(self._peer_for(asked, secret), secret, why)
            return ABSENT
        self._denied.discard(asked)
        standing = self._answers.standing(self._identity, self._peer.node_id, asked)
        if standing is not Standing.SECRET:
            self._unwatch(asked)
            if standing is Standing.WISHED:
                return PENDING
            self._room.leave(asked)
            return ABSENT
        self._hear(asked, secret)
        entry = self._entry(asked, secret)
        if not isinstance(entry, Resource):
            return entry
        if entry.is_for_envoy:
            return entry if asked == secret else replace(entry, name=asked)
        if asked not in self._keyless:
            self._keyless.add(asked)
            self._log.warning("secret.keyless", secret=secret)
        return ABSENT

    def _why_not(self, asked: str, secret: str) -> Denied | None:
        """Ask the one decision about grants, and count the name; None: the peer may see it."""
        if not self._service.authorize(self._identity, secret):
            self._room.leave(asked)
            return Denied.UNGRANTED
        most = self._service.max_names(self._identity)
        return None if self._room.take(asked, most, secret=secret) else Denied.CROWDED

    def _entry(self, asked: str, secret: str) -> Entry | None:
        """Watch the Secret and return what the Catalog has; None too where it is not looked up yet."""
        catalog, limits = self._service.catalog, self._service.limits
        entry = catalog.look(secret, self._peer.peer)
        if asked not in self._watched.get(secret, ()):
            if entry is None and not self._answers.governs(asked):
                if not limits.may_look_up(self._identity):
                    pause_s = HOLD_S * self._service.rng.uniform(1, 2)
                    self._held[asked] = self._service.clock.monotonic() + pause_s
                    return None
                self._looked_up.add(asked)
            if secret not in self._watched:
                self._watched[secret] = set()
                catalog.watch([secret], self._changed)
            self._watched[secret].add(asked)
            entry = catalog.look(secret, self._peer.peer)
        if entry is not None and asked in self._looked_up:
            self._looked_up.discard(asked)
            if entry is not ABSENT:
                limits.exists(self._identity)
        return entry

    def _before(self, asked: str) -> Resource | None:
        """Return what is left for the peer where it refused what it is offered."""
        resource = self._service.catalog.before(self._secret(asked))
        return None if resource is None else replace(resource, name=asked)

    def _release(self, stream: Stream, now: float) -> float | None:
        """Let the names be looked at whose time has come; return when the next one's does."""
        while self._held:
            name, at = next(iter(self._held.items()))
            if at > now:
                return at
            del self._held[name]
            stream.changed(name)
        return None

    def _unwatch(self, asked: str) -> None:
        self._held.pop(asked, None)
        self._looked_up.discard(asked)
        for secret in {asked, self._secret(asked)}:
            if asked in self._watched.get(secret, ()):
                self._watched[secret].discard(asked)
                if not self._watched[secret]:
                    del self._watched[secret]
                    now = self._service.clock.monotonic()
                    self._service.catalog.unwatch([secret], self._changed, now=now)

    def _changed(self, secret: str) -> None:
        """Called by the Catalog."""
        for asked in tuple(self._watched.get(secret, ())):
            self._look_again(asked)

    def _look_again(self, asked: str) -> None:
        if self._stream is not None:
            self._stream.changed(asked)
            self._wake.set()

    # Who is told of what

    def _secret(self, asked: str) -> str:
        """Return the name of the Secret by which the observer knows the subscription."""
        return self._answers.heard_as(asked) or asked

    def _peer_for(self, asked: str, secret: str) -> PeerNode:
        """Return the peer; each further name of a Secret is as a stream of its own: it has its own ACK."""
        return self._peer if asked == secret else replace(self._peer, stream=f"{self._peer.stream}/{asked}")

    def _hear(self, asked: str, secret: str) -> None:
        """Tell that the peer wants the Secret, once."""
        if self._answers.heard_as(asked) == secret:
            return
        if self._answers.heard_as(asked) is not None:  # another Secret answers from now on
            self._unwatch(asked)
            self._unhear(asked)
        self._answers.hear(asked, secret)
        if asked != secret and self._stream is not None:
            refused = self._service.refused.of(self._peer)
            self._stream.refused_before(asked, (version for name, version in refused if name == secret))
        self._service.observer.subscribed(self._peer_for(asked, secret), secret)

    def _unhear(self, asked: str) -> None:
        secret = self._answers.unhear(asked)
        if secret is not None:
            self._service.observer.unsubscribed(self._peer_for(asked, secret), secret)
