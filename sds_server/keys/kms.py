"""What a KMS does for us (wrap, unwrap), and the Sealer that stands on one."""

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from acme_engine.hidden import Hidden
from acme_engine.pace import Pace
from sds_server.clock import Clock
from sds_server.errors import CustodyError, Unavailable
from sds_server.keys import envelope
from sds_server.model import KeyId, SealedKey

KMS_TIMEOUT_S = 5.0
"""For one call with all its tries; a provider's own deadlines are below."""

PARALLEL_CALLS = 32
"""At once, over all keys: below the quota of every provider, enough to start with thousands of keys."""

CALLS_PER_S = 500
"""To one KMS in a network: half of Google's quota of a project, a tenth of AWS's, and 10,000 keys in 20 s."""

SOFT_TTL = timedelta(hours=1)
"""How long a DEK is used without asking the KMS: how long a withdrawn grant still works."""

HARD_TTL = timedelta(hours=24)
"""How long a DEK is used while the KMS does not answer: how long an outage is survived."""

RETRY_AFTER = timedelta(seconds=30)
"""How long a KMS that did not answer is left alone about the DEKs that we still have."""

CACHED_DEKS = 20_000
"""About 5 MB: twice the secrets that one replica is built for. The least recently used goes first."""


class Turn(StrEnum):
    """What has become of a KMS."""

    SILENT = "silent"
    REFUSED = "refused"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class WrappedDek:
    """What a KMS made of a DEK, and the version of the KEK that it took."""

    ciphertext: bytes = field(repr=False)
    kek_version: int


class Kms(Protocol):
    """Holds a KEK and never gives it away.

    ``context`` is authenticated with the DEK: `unwrap` with any other context is refused. Its keys and values
    are identifiers; a provider may log them. Every operation may be repeated and cancelled at any time and
    leaves nothing behind. They raise `Unavailable` when asking again may help, and `CustodyError` when it
    cannot: another KEK, another context, damaged bytes, a withdrawn right. Nothing is asked before the first
    of them.
    """

    kek_uri: str
    """``<provider>:<kek>``; stored with every key that is wrapped."""

    insecure: bool
    """The KEK lies where the wrapped keys are: good for trials only, and said loudly at start."""

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes, by the newest version of the KEK."""

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`, also by a KEK version that is no longer the newest."""

    async def rewrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        """Wrap the same DEK by the newest version of this KEK: inside the KMS, where it can do that."""

    async def close(self) -> None:
        """End what is open; it may be called twice."""


def canonical(context: Mapping[str, str]) -> bytes:
    """Return a context as bytes, the same for every order of its keys."""
    return envelope.length_prefixed(*(text.encode() for item in sorted(context.items()) for text in item))


@dataclass(slots=True)
class _CachedDek:
    """A DEK in clear, as it came of ``wrapped``. The times are on the monotonic clock, in seconds."""

    wrapped: bytes = field(repr=False)
    dek: Hidden[bytes]
    ask_at: float
    until: float
    opened: bytes | None = None
    """A hash of the envelope that it has opened, with the public half that was in it."""


class Sealer:
    """Seals and opens the private keys of one deployment. Belongs to one event loop.

    DEKs are cached, private keys never. However many ask for one key at once, the KMS is asked once.
    """

    def __init__(self, kms: Kms, *, deployment: UUID, clock: Clock, previous: Sequence[Kms] = ()) -> None:
        """``kms`` wraps and opens, ``previous`` only open: KEKs that wrapped before."""
        self._deployment = deployment
        self._clock = clock
        self._line = _Line(kms, clock)
        self._lines = {old.kek_uri: _Line(old, clock) for old in previous} | {kms.kek_uri: self._line}
        self.on_turn: Callable[[str, Turn, str | None], None] = lambda *_: None
        """Told of a KEK that falls silent, refuses to wrap, or answers again, with the reason."""
        for line in self._lines.values():
            line.on_turn = self._turned
        self._deks: OrderedDict[KeyId, _CachedDek] = OrderedDict()
        self._flights: dict[tuple[KeyId, bytes], asyncio.Task[bytes]] = {}
        self.locked = False
        """Nothing is sealed or opened: see `lock`."""

    @property
    def kek_uri(self) -> str:
        """The KEK that wraps."""
        return self._line.kms.kek_uri

    @property
    def keks(self) -> Sequence[str]:
        """Every KEK that opens here."""
        return [*self._lines]

    @property
    def insecure(self) -> bool:
        """Whether the KEK that wraps is for trials only."""
        return self._line.kms.insecure

    def lock(self) -> None:
        """Forget every DEK, and seal and open nothing until `unlock`: as if the KMS were away."""
        self.locked = True
        self._deks.clear()
        for flight in self._flights.values():
            flight.cancel()

    def unlock(self) -> None:
        """Seal and open again; the KMS is asked for each DEK anew."""
        self.locked = False

    async def close(self) -> None:
        """End what the KMS's clients have open."""
        for line in self._lines.values():
            await line.kms.close()

    async def ready(self) -> None:
        """Return at once while the KMS answers; where it did not, ask whether it does now.

        Raises:
            Unavailable: it does not: nothing can be sealed.
        """
        self._check_unlocked()
        if self._line.silent:
            await self._try()

    async def newest(self) -> int:
        """Return the version by which the KEK wraps now.

        Raises:
            CustodyError: the KMS refuses.
            Unavailable: the KMS does not answer.
        """
        return (await self._try()).kek_version

    async def seal(self, content: bytes, *, key_id: KeyId, purpose: str, spki_sha256: bytes) -> SealedKey:
        """Seal a private key (PKCS#8 DER), or a payload, under a new DEK.

        Raises:
            CustodyError: the public half is not the one named, or the KMS refuses.
            Unavailable: the KMS does not answer, or the replica is sealed.
        """
        self._check_unlocked()
        binding = envelope.Binding(self._deployment, key_id, purpose, spki_sha256)
        dek = os.urandom(envelope.DEK_BYTES)
        blob = envelope.seal(content, dek=dek, binding=binding)
        wrapped = await self._line.wrap(dek, binding.context)
        return SealedKey(
            key_id=key_id,
            purpose=purpose,
            spki_sha256=spki_sha256,
            suite=binding.suite,
            envelope=blob,
            dek_wrapped=wrapped.ciphertext,
            kek_uri=self.kek_uri,
            kek_version=wrapped.kek_version,
        )

    async def open(self, sealed: SealedKey) -> bytes:
        """Return the private key as PKCS#8 DER, or the payload.

        Raises:
            CustodyError: the message names the rule: kek, suite, commitment, tag or spki.
            Unavailable: the KMS does not answer and the DEK is not cached, or was for too long; or the
                replica is sealed.
        """
        self._check_unlocked()
        line, binding = self._line_of(sealed), self._binding(sealed)
        cached = await self._dek(sealed, line, binding)
        # The public half of one and the same blob is looked at once for each time that the KMS is asked.
        digest = hashlib.sha256(sealed.spki_sha256 + sealed.envelope).digest()
        content = envelope.unseal(
            sealed.envelope, dek=cached.dek.reveal(), binding=binding, spki_known=digest == cached.opened
        )
        cached.opened = digest
        return content

    async def check(self, sealed: SealedKey) -> None:
        """Open it by its KMS, whatever is in memory, and forget what came out.

        Raises:
            CustodyError: as of `open`.
            Unavailable: the KMS does not answer.
        """
        line, binding = self._line_of(sealed), self._binding(sealed)
        dek = await line.unwrap(sealed.dek_wrapped, sealed.kek_version, binding.context)
        envelope.unseal(sealed.envelope, dek=dek, binding=binding)

    async def rewrap(self, sealed: SealedKey) -> SealedKey:
        """Return the key with its DEK wrapped by the newest version of our KEK; the key itself stays closed.

        One of the same KEK is rewrapped by the KMS. One of another KEK goes by way of its DEK, which must be
        the envelope's own: nothing that opens is replaced by what does not.

        Raises:
            CustodyError: the message names the rule: kek, suite or commitment.
            Unavailable: a KMS does not answer, or the replica is sealed.
        """
        self._check_unlocked()
        line, binding = self._line_of(sealed), self._binding(sealed)
        if line is self._line:
            wrapped = await line.rewrap(sealed.dek_wrapped, sealed.kek_version, binding.context)
        else:
            dek = await line.unwrap(sealed.dek_wrapped, sealed.kek_version, binding.context)
            envelope.check_dek(sealed.envelope, dek=dek, binding=binding)
            wrapped = await self._line.wrap(dek, binding.context)
        return replace(
            sealed, dek_wrapped=wrapped.ciphertext, kek_uri=self.kek_uri, kek_version=wrapped.kek_version
        )

    async def wrap_key(self, key: bytes, *, purpose: str) -> bytes:
        """Wrap 32 bytes of our own, such as the key that versions are hashed with, for storing."""
        wrapped = await self._line.wrap(key, self._own_context(purpose))
        return wrapped.kek_version.to_bytes(4) + wrapped.ciphertext

    async def unwrap_key(self, wrapped: bytes, *, purpose: str, kek_uri: str | None = None) -> bytes:
        """Undo `wrap_key`; the errors are those of `open`. Not cached: asked for once, at start.

        ``kek_uri``: whose it is; None: releases before did not write that down, so that all are tried.
        """
        version, ciphertext = int.from_bytes(wrapped[:4]), wrapped[4:]
        context = self._own_context(purpose)
        if kek_uri is not None:
            return await self._named(kek_uri, f"{purpose} key").unwrap(ciphertext, version, context)
        refusals = []
        for line in (self._line, *self._lines.values()):
            try:
                return await line.unwrap(ciphertext, version, context)
            except CustodyError as e:
                refusals.append(e)
        raise refusals[0]

    def _turned(self, kek_uri: str, turn: Turn, why: str | None) -> None:
        self.on_turn(kek_uri, turn, why)

    def _check_unlocked(self) -> None:
        if self.locked:
            raise Unavailable("this replica is sealed", hint="`certvoy unseal` ends that, where it may")

    async def _try(self) -> WrappedDek:
        return await self._line.wrap(os.urandom(envelope.DEK_BYTES), self._own_context("ready"))

    def _own_context(self, purpose: str) -> dict[str, str]:
        return {"deployment": str(self._deployment), "purpose": purpose}

    def _binding(self, sealed: SealedKey) -> envelope.Binding:
        return envelope.Binding(
            self._deployment, sealed.key_id, sealed.purpose, sealed.spki_sha256, sealed.suite
        )

    def _line_of(self, sealed: SealedKey) -> "_Line":
        if sealed.is_external:
            raise CustodyError(
                f"key {sealed.key_id}: its target keeps it",
                hint="nothing here can be signed by that key",
                rule="external",
            )
        return self._named(sealed.kek_uri, f"key {sealed.key_id}")

    def _named(self, kek_uri: str, what: str) -> "_Line":
        line = self._lines.get(kek_uri)
        if line is None:
            raise CustodyError(
                f"{what}: kek: wrapped by {kek_uri}, but the KMS has {', '.join(self._lines)}",
                hint="name the KEK that wrapped it in kms.previous",
            )
        return line

    async def _dek(self, sealed: SealedKey, line: "_Line", binding: envelope.Binding) -> _CachedDek:
        now = self._clock.monotonic()
        cached = self._deks.get(sealed.key_id)
        if cached and cached.until <= now:
            del self._deks[sealed.key_id]
            cached = None
        # One that was silent about one DEK is not waited for about each of the others.
        same = cached is not None and cached.wrapped == sealed.dek_wrapped
        if cached and ((same and now < cached.ask_at) or (line.silent and now < line.ask_at)):
            self._deks.move_to_end(sealed.key_id)
            return cached
        try:
            dek = await self._fetch(sealed, line, binding.context)
        except Unavailable:
            if cached is None:
                raise
            # Also where it was wrapped anew since: the envelope's commitment knows its DEK.
            return cached
        except CustodyError:
            self._deks.pop(sealed.key_id, None)  # a withdrawn right ends here, not at the hard limit
            raise
        self._check_unlocked()  # it may have been locked while the KMS was asked
        cached = self._deks[sealed.key_id] = _CachedDek(
            sealed.dek_wrapped,
            Hidden(dek),
            ask_at=now + SOFT_TTL.total_seconds(),
            until=now + HARD_TTL.total_seconds(),
        )
        self._deks.move_to_end(sealed.key_id)
        if len(self._deks) > CACHED_DEKS:
            self._deks.popitem(last=False)
        return cached

    async def _fetch(self, sealed: SealedKey, line: "_Line", context: Mapping[str, str]) -> bytes:
        """Join the call that is under way for this DEK, or make it."""
        name = (sealed.key_id, sealed.dek_wrapped)

        def landed(task: asyncio.Task[bytes]) -> None:
            del self._flights[name]
            if not task.cancelled():
                task.exception()  # whoever waited has it; when all were cancelled, nobody must

        flight = self._flights.get(name)
        if flight is None:
            call = line.unwrap(sealed.dek_wrapped, sealed.kek_version, context)
            flight = self._flights[name] = asyncio.create_task(call)
            flight.add_done_callback(landed)
        try:
            return await asyncio.shield(flight)  # one who gives up does not cancel it for the others
        except asyncio.CancelledError:
            if flight.cancelled():
                self._check_unlocked()
            raise


class _Line:
    """A KMS as it is asked: so many calls at once, each with an end, and whether it fell silent."""

    def __init__(self, kms: Kms, clock: Clock) -> None:
        self.kms = kms
        self.silent = False
        self.on_turn: Callable[[str, Turn, str | None], None] = lambda *_: None
        self._turn = Turn.ANSWERS
        self._clock = clock
        self._calls = asyncio.Semaphore(PARALLEL_CALLS)
        self._pace = None if kms.insecure else Pace(CALLS_PER_S)
        self.ask_at = clock.monotonic()
        """Until then one that was silent is left alone."""

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        try:
            async with self._call():
                wrapped = await self.kms.wrap(dek, context)
        except CustodyError as e:  # of a wrapped one it would be that one's fault
            self._turned(Turn.REFUSED, e.message)
            raise
        self._turned(Turn.ANSWERS)
        return wrapped

    async def unwrap(self, wrapped: bytes, kek_version: int, context: Mapping[str, str]) -> bytes:
        async with self._call():
            return await self.kms.unwrap(wrapped, kek_version=kek_version, context=context)

    async def rewrap(self, wrapped: bytes, kek_version: int, context: Mapping[str, str]) -> WrappedDek:
        async with self._call():
            return await self.kms.rewrap(wrapped, kek_version=kek_version, context=context)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        async with self._calls:
            if self._pace is not None:
                await self._pace.turn()
            try:
                async with asyncio.timeout(KMS_TIMEOUT_S):
                    yield
            except (TimeoutError, Unavailable) as e:
                self.silent = True
                self._turned(Turn.SILENT, str(e) or f"no answer in {KMS_TIMEOUT_S:g} s")
                self.ask_at = self._clock.monotonic() + RETRY_AFTER.total_seconds()
                if isinstance(e, Unavailable):
                    raise
                raise Unavailable(
                    f"the KMS ({self.kms.kek_uri}) did not answer in {KMS_TIMEOUT_S:g} s"
                ) from e
            except CustodyError:
                self._heard()
                raise
            else:
                self._heard()

    def _heard(self) -> None:
        self.silent = False
        if self._turn is Turn.SILENT:
            self._turned(Turn.ANSWERS)

    def _turned(self, turn: Turn, why: str | None = None) -> None:
        if turn is not self._turn:
            self._turn = turn
            self.on_turn(self.kms.kek_uri, turn, why)
