"""Enrols a proxy once, and renews its credential for as long as it runs. A working one is never lost."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from acme_engine.chain import UNREADABLE
from sds_server import authority
from sds_server.agent.files import CredentialFiles, Held
from sds_server.clock import Clock
from sds_server.errors import CertvoyError, ConfigError, OperatorError
from sds_server.log import get

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
NAP_S: Final = 60.0
"""The longest sleep: a machine that was suspended, or whose clock was set, is not trusted to wake in time."""

_log = get("agent")


class Todo(StrEnum):
    """What an agent does next."""

    ENROL = "enrol"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, when, and why."""

    todo: Todo
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Given:
    """What the control plane answered, in PEM."""

    certificate_pem: str
    authorities_pem: str


class Door(Protocol):
    """The control plane, as an agent knows it. Both may raise any `CertvoyError`."""

    async def enroll(self, token: str, csr: str) -> Given:
        """Ask for the first credential."""

    async def renew(self, held: Held, csr: str) -> Given:
        """Ask for the next one, with the one that is held."""


def plan(certificate: x509.Certificate | None, now: datetime) -> Plan:
    """Decide what to do. The jitter is a fixed share of each certificate: a restart changes nothing."""
    if certificate is None:
        return Plan(Todo.ENROL, now, "there is no credential yet")
    ends = certificate.not_valid_after_utc
    if now >= ends:
        return Plan(Todo.ENROL, now, f"the credential expired at {ends:%FT%TZ}")
    share = int(authority.digest(certificate)[:8], 16) / 0xFFFFFFFF
    due = authority.renew_at(certificate.not_valid_before_utc, ends, share=share)
    if now >= due:
        return Plan(Todo.RENEW, now, f"two thirds of its life are over; it ends at {ends:%FT%TZ}")
    return Plan(Todo.WAIT, due, "it is good")


class Keeper:
    """One proxy's. Holds the key of a request until it is answered, as a token is good for one key alone."""

    def __init__(
        self,
        files: CredentialFiles,
        door: Door,
        *,
        token: str | None,
        token_file: Path | None = None,
        clock: Clock,
        rng: Random,
    ) -> None:
        """``token_file``: where ``token`` was looked for, for who has to put one there."""
        self._files = files
        self._door = door
        self._token = token
        self._token_file = token_file
        self._clock = clock
        self._rng = rng
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._failures = 0

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Go on until cancelled; ``on_ready`` is called once, when there is a credential that works.

        Raises:
            CertvoyError: there is no credential that works, and none can be had by trying again.
        """
        ready = False
        while True:
            pause_s = await self._try()
            if not ready and (ready := self._works()):
                on_ready()
            await self._clock.sleep(min(pause_s, NAP_S) if not self._failures else pause_s)

    async def once(self) -> Plan:
        """Do what is due, if anything is, and return what comes next.

        Raises:
            CertvoyError: it failed; what was held is held still.
        """
        held = self._files.held()
        now = plan(None if held is None else held.certificate, self._clock.now())
        match now.todo:
            case Todo.WAIT:
                return now
            case Todo.ENROL:
                await self._take(self._enroll, now)
            case Todo.RENEW:
                assert held is not None  # noqa: S101 - there is something to renew
                await self._take(lambda csr: self._door.renew(held, csr), now)
        renewed = self._files.held()
        return plan(None if renewed is None else renewed.certificate, self._clock.now())

    async def _try(self) -> float:
        """Take a step and return how long to sleep."""
        try:
            wanted = await self.once()
        except CertvoyError as e:
            if not self._may_try_again(e):
                raise
            self._failures += 1
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
            pause_s *= self._rng.uniform(0.5, 1.0)
            _log.warning("credential.not_renewed", failures=self._failures, error=str(e), hint=e.next_step)
            return pause_s
        self._failures = 0
        return max((wanted.at - self._clock.now()).total_seconds(), 0.0)

    def _may_try_again(self, error: CertvoyError) -> bool:
        """While the credential works, always; without one, only what may heal by itself."""
        return self._works() or (isinstance(error, OperatorError) and not isinstance(error, ConfigError))

    def _works(self) -> bool:
        held = self._files.held()
        return held is not None and self._clock.now() < held.certificate.not_valid_after_utc

    async def _enroll(self, csr: str) -> Given:
        if self._token is None:
            missing = "no token to get one"
            if self._token_file is not None:
                missing = f"{self._token_file} {'is empty' if self._token_file.exists() else 'is not there'}"
            where = "pass it by --token-file" if self._token_file is None else "write it there"
            raise ConfigError(
                f"{self._files.directory}: there is no credential that works, and {missing}",
                hint=f"make a token with `certvoy proxies enroll NAME`, and {where}",
            )
        self._files.check()  # a token is good once: not for a credential that has no place
        return await self._door.enroll(self._token, csr)

    async def _take(self, ask: Callable[[str], Awaitable[Given]], wanted: Plan) -> None:
        given = await ask(authority.new_csr(self._key))
        try:
            certificate = x509.load_pem_x509_certificate(given.certificate_pem.encode())
            x509.load_pem_x509_certificates(given.authorities_pem.encode())
        except UNREADABLE as e:
            raise OperatorError("the control plane answered with what is no certificate") from e
        if certificate.public_key() != self._key.public_key():
            raise OperatorError("the control plane answered with another key's certificate")
        key_pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._files.store(
            certificate_pem=given.certificate_pem, key_pem=key_pem, authorities_pem=given.authorities_pem
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        _log.info(
            "credential.stored", reason=wanted.reason, not_after=certificate.not_valid_after_utc.isoformat()
        )
