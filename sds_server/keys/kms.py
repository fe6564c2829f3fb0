"""What a KMS does for us (wrap, unwrap), and the Sealer that stands on one."""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from sds_server.clock import Clock
from sds_server.errors import CustodyError, Unavailable
from sds_server.keys import envelope
from sds_server.model import KeyId, SealedKey

KMS_TIMEOUT_S = 5.0
PARALLEL_CALLS = 32
"""At once, over all keys: below the quota of every provider, enough to start with thousands of keys."""

SOFT_TTL = timedelta(hours=1)
"""How long a DEK is used without asking the KMS: how long a withdrawn grant still works."""

HARD_TTL = timedelta(hours=24)
"""How long a DEK is used while the KMS does not answer: how long an outage is survived."""

RETRY_AFTER = timedelta(seconds=30)
"""How long a KMS that did not answer is left alone about the DEKs that we still have."""

CACHED_DEKS = 20_000
"""About 5 MB: twice the secrets that one replica is built for. The least recently used goes first."""


@dataclass(frozen=True, slots=True)
class WrappedDek:
    """What a KMS made of a DEK, and the version of the KEK that it took."""

    ciphertext: bytes = field(repr=False)
    kek_version: int


class Kms(Protocol):
    """Holds a KEK and never gives it away.

    ``context`` is authenticated with the DEK: `unwrap` with any other context is refused. Its keys and values
    are identifiers; a provider may log them. Both operations may be repeated and cancelled at any time and
    leave nothing behind. They raise `Unavailable` when asking again may help, and `CustodyError` when it
    cannot: another KEK, another context, damaged bytes, a withdrawn right.
    """

    kek_uri: str
    """``<provider>:<kek>``; stored with every key that is wrapped."""

    insecure: bool
    """The KEK lies where the wrapped keys are: good for trials only, and said loudly at start."""

    async def wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        """Encrypt 32 bytes."""

    async def unwrap(self, wrapped: bytes, *, kek_version: int, context: Mapping[str, str]) -> bytes:
        """Undo `wrap`, also by a KEK version that is no longer the newest."""


@dataclass(slots=True)
class _CachedDek:
    """A DEK in clear. ``ask_at`` and ``until`` are on the monotonic clock, in seconds."""

    dek: bytes = field(repr=False)
    ask_at: float
    until: float


class Sealer:
    """Seals and opens the private keys of one deployment. Belongs to one event loop.

    DEKs are cached, private keys never. However many ask for one key at once, the KMS is asked once.
    """

    def __init__(self, kms: Kms, *, deployment: UUID, clock: Clock) -> None:
        self._kms = kms
        self._deployment = deployment
        self._clock = clock
        self._calls = asyncio.Semaphore(PARALLEL_CALLS)
        self._deks: OrderedDict[tuple[KeyId, bytes], _CachedDek] = OrderedDict()
        self._flights: dict[tuple[KeyId, bytes], asyncio.Task[bytes]] = {}
        self._silent = False
        self._ask_at = clock.monotonic()

    async def ready(self) -> None:
        """Return at once while the KMS answers; where it did not, ask whether it does now.

        Raises:
            Unavailable: it does not: nothing can be sealed.
        """
        if self._silent:
            await self._wrap(os.urandom(envelope.DEK_BYTES), self._own_context("ready"))

    async def seal(self, content: bytes, *, key_id: KeyId, purpose: str, spki_sha256: bytes) -> SealedKey:
        """Seal a private key (PKCS#8 DER), or a payload, under a new DEK.

        Raises:
            CustodyError: the public half is not the one named, or the KMS refuses.
            Unavailable: the KMS does not answer.
        """
        binding = envelope.Binding(self._deployment, key_id, purpose, spki_sha256)
        dek = os.urandom(envelope.DEK_BYTES)
        blob = envelope.seal(content, dek=dek, binding=binding)
        wrapped = await self._wrap(dek, binding.context)
        return SealedKey(
            key_id=key_id,
            purpose=purpose,
            spki_sha256=spki_sha256,
            suite=binding.suite,
            envelope=blob,
            dek_wrapped=wrapped.ciphertext,
            kek_uri=self._kms.kek_uri,
            kek_version=wrapped.kek_version,
        )

    async def open(self, sealed: SealedKey) -> bytes:
        """Return the private key as PKCS#8 DER, or the payload.

        Raises:
            CustodyError: the message names the rule: kek, suite, commitment, tag or spki.
            Unavailable: the KMS does not answer and the DEK is not cached, or was for too long.
        """
        if sealed.is_external:
            raise CustodyError(
                f"key {sealed.key_id}: its target keeps it", hint="nothing here can be signed by that key"
            )
        if sealed.kek_uri != self._kms.kek_uri:
            raise CustodyError(
                f"key {sealed.key_id}: kek: wrapped by {sealed.kek_uri}, but the KMS has {self._kms.kek_uri}"
            )
        binding = envelope.Binding(
            self._deployment, sealed.key_id, sealed.purpose, sealed.spki_sha256, sealed.suite
        )
        dek = await self._dek(sealed, binding.context)
        return envelope.unseal(sealed.envelope, dek=dek, binding=binding)

    async def wrap_key(self, key: bytes, *, purpose: str) -> bytes:
        """Wrap 32 bytes of our own, such as the key that versions are hashed with, for storing."""
        wrapped = await self._wrap(key, self._own_context(purpose))
        return wrapped.kek_version.to_bytes(4) + wrapped.ciphertext

    async def unwrap_key(self, wrapped: bytes, *, purpose: str) -> bytes:
        """Undo `wrap_key`; the errors are those of `open`. Not cached: asked for once, at start."""
        version, ciphertext = int.from_bytes(wrapped[:4]), wrapped[4:]
        return await self._unwrap(ciphertext, version, self._own_context(purpose))

    def _own_context(self, purpose: str) -> dict[str, str]:
        return {"deployment": str(self._deployment), "purpose": purpose}

    async def _dek(self, sealed: SealedKey, context: Mapping[str, str]) -> bytes:
        name = (sealed.key_id, sealed.dek_wrapped)
        now = self._clock.monotonic()
        cached = self._deks.get(name)
        if cached and cached.until <= now:
            del self._deks[name]
            cached = None
        # One that was silent about one DEK is not waited for about each of the others.
        if cached and (now < cached.ask_at or (self._silent and now < self._ask_at)):
            self._deks.move_to_end(name)
            return cached.dek
        try:
            dek = await self._fetch(name, sealed.kek_version, context)
        except Unavailable:
            if cached is None:
                raise
            return cached.dek
        except CustodyError:
            self._deks.pop(name, None)  # a withdrawn right ends here, not at the hard limit
            raise
        self._deks[name] = _CachedDek(
            dek, ask_at=now + SOFT_TTL.total_seconds(), until=now + HARD_TTL.total_seconds()
        )
        self._deks.move_to_end(name)
        if len(self._deks) > CACHED_DEKS:
            self._deks.popitem(last=False)
        return dek

    async def _fetch(self, name: tuple[KeyId, bytes], kek_version: int, context: Mapping[str, str]) -> bytes:
        """Join the call that is under way for this DEK, or make it."""

        def landed(task: asyncio.Task[bytes]) -> None:
            del self._flights[name]
            if not task.cancelled():
                task.exception()  # whoever waited has it; when all were cancelled, nobody must

        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = asyncio.create_task(self._unwrap(name[1], kek_version, context))
            flight.add_done_callback(landed)
        return await asyncio.shield(flight)  # one who gives up does not cancel it for the others

    async def _wrap(self, dek: bytes, context: Mapping[str, str]) -> WrappedDek:
        async with self._call():
            return await self._kms.wrap(dek, context)

    async def _unwrap(self, wrapped: bytes, kek_version: int, context: Mapping[str, str]) -> bytes:
        async with self._call():
            return await self._kms.unwrap(wrapped, kek_version=kek_version, context=context)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        async with self._calls:
            try:
                async with asyncio.timeout(KMS_TIMEOUT_S):
                    yield
            except (TimeoutError, Unavailable) as e:
                self._silent = True
                self._ask_at = self._clock.monotonic() + RETRY_AFTER.total_seconds()
                if isinstance(e, Unavailable):
                    raise
                raise Unavailable(
                    f"the KMS ({self._kms.kek_uri}) did not answer in {KMS_TIMEOUT_S:g} s"
                ) from e
            except CustodyError:
                self._silent = False
                raise
            else:
                self._silent = False
