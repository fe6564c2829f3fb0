"""Brings signing requests for the keys that this host makes, so that the next order never waits for one.

Each request is ordered once. Whatever is lost on the way, the answer, the process, or what the control plane
has written since its last backup, the key was on the disk before and the next round puts it right.
"""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import keys
from acme_engine.keys import KeyType, PrivateKey
from sds_server.agent.local_keys import LocalKeys
from sds_server.crashpoint import crashpoint
from sds_server.errors import CallerError, CertvoyError, Conflict, Unavailable
from sds_server.log import get

_log = get("requester")


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that this host must have: of which generation it is."""

    generation: int
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class WantedKey:
    """What a request must be for; ``spki_sha256`` names the key of the one that waits to be ordered.

    ``held``: the keys of what is served and of what was before that, newest first; a control plane of the
    release before does not tell.
    """

    domains: tuple[str, ...]
    key_type: KeyType
    spki_sha256: bytes | None
    held: tuple[HeldKey, ...] = ()


class Door(Protocol):
    """The control plane, as who brings requests knows it. Both may raise any `CertvoyError`."""

    async def wanted_key(self, secret: str) -> WantedKey:
        """Ask what a request must be for, and which one waits."""

    async def bring(self, secret: str, csr_pem: str, *, target: str | None, lost: int | None) -> WantedKey:
        """Bring one, and return what waits then: nothing, if it had come before and was ordered.

        ``lost``: the generation of a chain whose key is not here.

        Raises:
            Conflict: it is not taken, as another target has the keys.
        """


class Todo(StrEnum):
    """What is done in a round."""

    NOTHING = "nothing"
    BRING = "bring"
    MAKE = "make"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and why."""

    todo: Todo
    reason: str


def plan(wanted: WantedKey, newest: PrivateKey | None, *, taken: bytes | None, lost: bool) -> Plan:
    """Decide. ``newest`` is the last key that is not served yet; ``taken`` the last that was surely taken."""
    if newest is None:
        return Plan(Todo.MAKE, "there is no unused key")
    if keys.type_of(newest.public_key()) is not wanted.key_type:
        return Plan(Todo.MAKE, f"a key of type {wanted.key_type} is wanted")
    spki = keys.spki_sha256(newest.public_key())
    if wanted.spki_sha256 == spki:
        if lost:
            return Plan(Todo.BRING, "the key of what is current is not here")
        return Plan(Todo.NOTHING, "it waits to be ordered")
    if taken == spki:
        return Plan(Todo.MAKE, "the one before is ordered, or is not known there any more")
    return Plan(Todo.BRING, "it is not there, or was not when we asked")


class Requester:
    """One bundle's."""

    def __init__(self, secret: str, kept: LocalKeys, door: Door, *, target: str | None) -> None:
        self._secret = secret
        self._kept = kept
        self._door = door
        self._target = target
        self._taken: bytes | None = None
        self.lost: int | None = None
        """The generation that cannot be served from here, as its key is gone."""

    async def step(self, served: bytes | None) -> None:
        """See to it that a request waits; ``served`` is the SPKI hash of the key in use.

        A control plane that does not answer is asked again in the next round.

        Raises:
            Conflict: another target has the keys of this secret.
            OperatorError: a key cannot be written.
        """
        wanted = await self.ask()
        if wanted is not None:
            await self.meet(wanted, served)

    async def ask(self) -> WantedKey | None:
        """Ask what is wanted; None: nobody answers, which is logged."""
        try:
            return await self._door.wanted_key(self._secret)
        except CertvoyError as e:
            self._tell(e)
            return None

    async def meet(self, wanted: WantedKey, served: bytes | None) -> None:
        """See to it that a request waits as it is wanted; errors as of `step`."""
        newest = self._kept.newest(after=served)
        todo = plan(wanted, newest, taken=self._taken, lost=self.lost is not None)
        if todo.todo is Todo.NOTHING:
            return
        try:
            unused = newest if todo.todo is Todo.BRING else None
            if not await self._bring(unused or await self._make(wanted, todo.reason), wanted):
                await self._bring(await self._make(wanted, "the one before was ordered already"), wanted)
        except Conflict:
            raise
        except (CallerError, Unavailable) as e:
            self._tell(e)

    async def _make(self, wanted: WantedKey, reason: str) -> PrivateKey:
        key = await asyncio.to_thread(keys.generate, wanted.key_type)  # RSA takes its time
        crashpoint("agent.key_made")
        file = self._kept.add(key)
        crashpoint("agent.key_kept")
        _log.info("key.made", secret=self._secret, spki_sha256=file.prefix, reason=reason)
        return key

    async def _bring(self, key: PrivateKey, wanted: WantedKey) -> bool:
        """Bring the request of a key; say whether it waits now, and was not ordered before."""
        spki = keys.spki_sha256(key.public_key())
        csr = x509.load_der_x509_csr(keys.csr(key, wanted.domains)).public_bytes(Encoding.PEM).decode()
        answer = await self._door.bring(self._secret, csr, target=self._target, lost=self.lost)
        crashpoint("agent.key_requested")
        self._taken = spki
        if answer.spki_sha256 != spki:
            return False
        _log.info("key.requested", secret=self._secret, spki_sha256=spki.hex(), lost=self.lost)
        return True

    def _tell(self, error: CertvoyError) -> None:
        _log.warning("key.not_requested", secret=self._secret, error=str(error), hint=error.next_step)
