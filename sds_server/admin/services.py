"""What the routes work on; built by `app`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from acme_engine.preflight import Finding
from sds_server.authority import Credential
from sds_server.clock import Clock
from sds_server.identity import Holder, Rule
from sds_server.inventory.control_cas import ControlCa
from sds_server.inventory.database import Database
from sds_server.inventory.mass_revocations import Begun, Outlook
from sds_server.inventory.payloads import Stored
from sds_server.inventory.proxies import GrantedName, Proxy
from sds_server.inventory.uploads import Uploaded
from sds_server.keys.custody import Batch, Checked, Custody
from sds_server.limits import Refusal
from sds_server.model import Identity, KeyId, Kind, RevocationReason, SecretName
from sds_server.payloads.content import Content, Described
from sds_server.targets.calls import Agents
from sds_server.xds.catalog import Catalog
from sds_server.xds.service import Observer


class Health(StrEnum):
    """How a part is. ``degraded``: it does not work now, and serving goes on without it."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a replica and how it is, in words where it is not well."""

    name: str
    health: Health
    detail: str = ""


class Enroller(Protocol):
    """The control plane's own CA: see `lifecycle.enroller`."""

    async def authorities(self) -> Sequence[ControlCa]:
        """Return the CAs that are trusted, oldest first."""

    async def invite(
        self, name: str, *, granted: Collection[GrantedName], lasts: timedelta, actor: str
    ) -> tuple[Proxy, str, datetime]:
        """Let a proxy enrol once; returns it, the token, and until when that is good."""

    async def enroll(self, token: str, csr: str) -> Credential:
        """Give a proxy its first credential."""

    async def renew(self, identity: Identity, enrolment: int, csr: str) -> Credential:
        """Give a proxy its next credential."""


class Uploads(Protocol):
    """Takes pairs that people bring."""

    async def put(
        self, name: SecretName, *, chain_pem: bytes, private_key_pem: bytes, actor: str
    ) -> Uploaded:
        """Make the pair the Secret's next generation, or raise GateRefused or Conflict and change nothing."""
        ...


class Payloads(Protocol):
    """Takes what is no certificate: see `lifecycle.payloads`."""

    async def put(self, name: SecretName, content: Content, *, actor: str) -> Stored:
        """Make it the Secret's next version, or raise GateRefused or Conflict and change nothing."""
        ...

    async def add_cas(self, name: SecretName, cas_pem: str, *, actor: str) -> Stored:
        """Have a trust bundle trust more CAs."""
        ...

    async def remove_ca(
        self, name: SecretName, fingerprint: str, *, actor: str, forced: str | None = None
    ) -> Stored:
        """Have a trust bundle trust a CA no more, or raise Conflict while somebody needs it."""
        ...

    async def schedule(self, name: SecretName, *, rotate_every: timedelta, keep: int, actor: str) -> bool:
        """Have certvoy make a Secret's ticket keys."""
        ...

    async def described(self, name: SecretName) -> Described | None:
        """Return what the Secret holds, without what is secret; None: it holds nothing yet."""
        ...


class Rewrapper(Protocol):
    """Moves keys from one KEK to another: see `lifecycle.rewrapper`."""

    async def custody(self) -> Custody:
        """Say which KEKs and versions are in use, by count."""
        ...

    async def step(self, *, after: KeyId | None, every: bool, actor: str) -> Batch:
        """Rewrap the next batch behind ``after``; ``every``: also what is wrapped by the newest version."""
        ...


class KeyChecks(Protocol):
    """A drill of custody: see `lifecycle.key_checks`."""

    async def sample(self, count: int, *, actor: str) -> Checked:
        """Open so many keys by chance, and say which do not."""
        ...


class SealState(Protocol):
    """Who sealed the replica, when and why; None: nobody knows any more."""

    @property
    def by(self) -> str | None:
        """Who."""

    @property
    def at(self) -> str | None:
        """When: RFC 3339, UTC."""

    @property
    def reason(self) -> str | None:
        """Why."""


class Seal(Protocol):
    """Whether this replica gives anything away: see `lifecycle.seal`."""

    @property
    def state(self) -> SealState | None:
        """Who sealed it; None: it is not."""

    async def put(self, *, reason: str, actor: str) -> SealState:
        """Seal it at once, or raise OperatorError: it is, but not for long."""
        ...

    async def lift(self, *, actor: str) -> None:
        """Break the seal, or raise Unavailable or OperatorError: it stays."""


class Preflights(Protocol):
    """Looks as a CA will: see `lifecycle.preflights`."""

    async def look(self, name: str, *, issuer: str | None, port: int) -> Sequence[Finding]:
        """Return what each check shows, or raise NotFound or CallerError."""
        ...


class Pause(Protocol):
    """Since when and why nobody asks a CA."""

    @property
    def since(self) -> datetime:
        """Since when."""

    @property
    def until(self) -> datetime | None:
        """Until when; None: until a person acts."""

    @property
    def error(self) -> Mapping[str, Any]:
        """Why."""


class Desk(Protocol):
    """What people ask of a CA: see `lifecycle.issuer_desk`. Each raises NotFound for an unknown issuer."""

    async def account_url(self, name: str) -> str | None:
        """Return the URL of the issuer's account."""

    async def pause(self, name: str) -> Pause | None:
        """Return why nobody asks the issuer, if so."""

    async def change_key(self, name: str, *, actor: str) -> None:
        """Give the account another key, or raise IssuanceFailed."""

    async def tell_contact(self, name: str, *, actor: str) -> None:
        """Tell the CA the contacts of the configuration, or raise IssuanceFailed."""

    async def deactivate(self, name: str, *, actor: str) -> None:
        """End the account, or raise IssuanceFailed."""

    async def resume(self, name: str, *, actor: str) -> None:
        """Let work go on at the issuer's CA."""


class MassRevocations(Protocol):
    """Replaces all that a CA has issued: see `lifecycle.mass_revoker`."""

    async def begin(
        self,
        issuer: str,
        *,
        reason: RevocationReason,
        at_once: bool,
        drill: bool,
        after: str,
        actor: str,
    ) -> Begun:
        """Open Rotations for the next batch."""
        ...

    async def outlook(self, issuer: str, *, since: datetime) -> Outlook:
        """Say how far it is."""
        ...


class OnRefused(Protocol):
    """Told of a call that was refused; ``caller`` None: nobody with a name."""

    def __call__(self, caller: str | None, call: str, *, path: str, why: str, address: str | None) -> None:
        """Take note, at once."""


def ignore(caller: str | None, call: str, *, path: str, why: str, address: str | None) -> None:
    """Take note of nothing."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a call may need.

    ``declared``: the Secrets that this replica's configuration declares; ``rules``: those of names on
    demand; ``issuers``: the directory's URL by
    the issuer's name; ``authorize``: whether an identity may see a Secret of that name; ``granted``: all that
    it may see; ``catalog`` and
    ``observer``: what this replica serves, and who is told of it, the same as on the streams;
    ``on_said``: told of a Secret that an agent has accepted; ``on_rolled_back``: told why a roll-out was
    taken back; ``seen_for``: how long an agent counts from its report on;
    ``admits``: whether the holder of a client certificate is still believed; ``agents`` calls those that
    enrolled, whose identities begin with ``reserved``; ``over_dns``: the issuers that can prove wildcards;
    ``refuses``: why an issuer's CA takes no order for such names;
    ``on_refused``: told of calls that are refused; ``clock_said``: how far this replica's clock is from an
    issuer's, in words, where that is too far.
    """

    database: Database
    clock: Clock
    declared: frozenset[str]
    rules: frozenset[str]
    issuers: Mapping[str, str]
    checks: Callable[[], Sequence[Check]]
    metrics: Callable[[], bytes]
    authorize: Callable[[Identity, str], bool]
    granted: Callable[[Identity, Kind], Rule]
    catalog: Catalog
    observer: Observer
    uploads: Uploads
    payloads: Payloads
    preflights: Preflights
    rewrapper: Rewrapper
    key_checks: KeyChecks
    seal: Seal
    desk: Desk
    mass_revoker: MassRevocations
    on_said: Callable[[str], None]
    on_rolled_back: Callable[[str], None]
    seen_for: timedelta
    enroller: Enroller
    agents: Agents
    reserved: str
    admits: Callable[[Holder], bool]
    sds_port: Callable[[], int]
    over_dns: frozenset[str] = frozenset()
    refuses: Callable[[str, Sequence[str]], Refusal | None] = lambda _issuer, _names: None
    on_refused: OnRefused = ignore
    clock_said: Callable[[str], str | None] = lambda _issuer: None
