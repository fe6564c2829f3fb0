"""Who may come and what they may see, as the database said last: serving asks memory alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from sds_server import authority
from sds_server.clock import Clock
from sds_server.credentials import Issued
from sds_server.errors import CertvoyError, ConfigError, CustodyError, Unavailable
from sds_server.identity import ALL_KINDS, Bearer, Grant, Grants, Holder, Rule, Trust
from sds_server.inventory import api_tokens, proxies
from sds_server.inventory.database import Database
from sds_server.inventory.proxies import GrantedName, Rights
from sds_server.lifecycle.enroller import Enroller, OwnPair
from sds_server.log import get
from sds_server.model import Identity, Kind

RELOAD: Final = timedelta(seconds=30)
"""How often it is read without being told."""

T = TypeVar("T")

_log = get("admission")


class Admission:
    """Answers from memory; `step` reads what changed. ``on_change`` is called when anything did."""

    def __init__(
        self,
        *,
        database: Database,
        enroller: Enroller,
        configured: Iterable[Grant],
        trust_domain: str,
        clock: Clock,
        server_names: Sequence[str] = (),
        own_ca: bool = False,
        denied: Iterable[Identity] = (),
    ) -> None:
        """``server_names``: those of a certificate of our own CA; none: we have another.

        ``own_ca``: our CA has to be there from the start, as it is the only one that clients are known by.
        """
        self._database = database
        self._enroller = enroller
        self._configured = tuple(configured)
        self._trust_domain = trust_domain
        self._clock = clock
        self._server_names = server_names
        self._own_ca = own_ca or bool(server_names)
        self._horizon: str | None = None
        self._read_at = clock.monotonic()
        self._granted: Mapping[Identity, tuple[GrantedName, ...]] = {}
        self._enrolled: Mapping[Identity, int] = {}
        self._tokens: Mapping[Identity, tuple[api_tokens.IdentityToken, ...]] = {}
        self._by_digest: Mapping[bytes, api_tokens.IdentityToken] = {}
        self._authorities: Sequence[object] | None = None
        self._pair: OwnPair | None = None
        self._denied = frozenset(denied)
        self._grants = Grants(self._configured)
        self._trust = Trust(trust_domain, denied=self._denied)
        self.issued = Issued()
        self.on_change: Callable[[], None] = lambda: None
        self.on_deny: Callable[[Sequence[Identity]], None] = lambda _identities: None
        self.kind_of: Callable[[str], Kind | None] = lambda _name: None

    def authorize(self, identity: Identity, resource_name: str, *, kind: Kind | None = None) -> bool:
        """Whether the identity may see the name, now.

        ``kind``: what the caller knows it to be; by default what ``kind_of`` says, and if that does not know
        either, the name alone decides.
        """
        return self._grants.authorize(identity, resource_name, kind or self.kind_of(resource_name))

    def may_issue(self, identity: Identity, resource_name: str) -> bool:
        """Whether the identity's wish for a name that is not there may have a certificate ordered, now."""
        return self._grants.may_issue(identity, resource_name)

    def max_names(self, identity: Identity) -> int | None:
        """Return how many names the identity may want at once, now; None: no grant limits that."""
        return self._grants.max_names(identity)

    def granted(self, identity: Identity, kind: Kind) -> Rule:
        """Return all of this kind that the identity may see, now."""
        return self._grants.of(identity, kind)

    def holder(self, certificate_pem: bytes) -> Holder:
        """Return who the certificate's holder is, with what `admits` asks about again later.

        Raises:
            CallerError: nobody that is believed.
        """
        return self._trust.holder(certificate_pem)

    def admits(self, holder: Holder) -> bool:
        """Whether the holder is still believed: quick, for streams that are open."""
        return self._trust.admits(holder)

    def bearer(self, text: str) -> Bearer | None:
        """Return who shows a token of this text; None: nobody knows it, or it was revoked.

        By its hash, so that how long it takes tells nothing of any other token.
        """
        if not api_tokens.is_token(text):
            return None
        token = self._by_digest.get(api_tokens.digest(text))
        if token is None:
            return None

        def admitted() -> bool:
            return token.sha256 in self._by_digest and not self.denies(token.identity)

        return Bearer(token.identity, token.expires_at, admitted)

    def deny(self, identities: Iterable[Identity]) -> None:
        """Refuse these from now on, and no others; open streams are looked at again."""
        if self._denied == frozenset(identities := tuple(identities)):
            return
        self._denied = frozenset(identities)
        self._trust = self._trust.denying(self._denied)
        _log.warning("deny.changed", identities=sorted(self._denied))
        self.on_deny(sorted(self._denied))
        self.on_change()

    def denies(self, identity: Identity) -> bool:
        """Whether the identity is refused, by whatever it is known."""
        return self._trust.denies(identity)

    async def step(self) -> None:
        """Read what has changed, at first all; make our server's certificate when it is time.

        Raises:
            Unavailable: the database does not answer, or the KMS, which keeps nothing from being read.
            CustodyError: the key of our CA does not open.
        """
        late: CertvoyError | None = None
        renewed = False
        try:
            if self._own_ca:
                await self._enroller.authorities()
            renewed = await self._renew_pair()
        except (Unavailable, CustodyError) as e:
            if self._horizon is None:
                raise
            late = e
        await self._read(renewed=renewed)
        if late is not None:
            raise late

    async def _read(self, *, renewed: bool) -> None:
        asked_at, first = self._clock.monotonic(), self._horizon is None
        late = asked_at - self._read_at >= proxies.CHANGES_LAST.total_seconds() / 2
        rights = await proxies.rights(self._database, since=None if late else self._horizon)
        self._horizon, self._read_at = rights.horizon, asked_at
        if not (self._take_in(rights) or renewed):
            return
        trusted = [ca.certificate for ca in rights.authorities]
        self._trust = Trust(
            self._trust_domain, authorities=trusted, enrolled=self._enrolled, denied=self._denied
        )
        self.issued = Issued(
            authorities_pem=authority.pem(trusted).encode(),
            chain_pem=None if self._pair is None else self._pair.chain_pem,
            key_pem=None if self._pair is None else self._pair.key_pem,
        )
        if first:
            return
        _log.info("admission.changed", enrolled=len(self._enrolled), authorities=len(trusted))
        self.on_change()

    def _take_in(self, rights: Rights) -> bool:
        """Remember it, and say whether anything is other than before."""
        changed = rights.changed
        if changed is None:
            before = (self._granted, self._enrolled, self._tokens, self._authorities)
            self._granted, self._enrolled = dict(rights.grants), dict(rights.enrolled)
            self._tokens = dict(rights.tokens)
            if before == (self._granted, self._enrolled, self._tokens, rights.authorities):
                return False
            self._grants = Grants([*self._configured, *_readable(rights)])
        else:
            told = {identity for identity in changed if self._is_news(rights, identity)}
            if not told and rights.authorities == self._authorities:
                return False
            # Copies: what streams look into never changes under them.
            self._enrolled = _with(self._enrolled, told, rights.enrolled)
            self._granted = _with(self._granted, told, rights.grants)
            self._tokens = _with(self._tokens, told, rights.tokens)
            configured = [grant for grant in self._configured if grant.identity in told]
            self._grants = self._grants.changed(told, [*configured, *_readable(rights)])
        self._authorities = rights.authorities
        self._by_digest = {token.sha256: token for some in self._tokens.values() for token in some}
        return True

    def _is_news(self, rights: Rights, identity: Identity) -> bool:
        return any(
            before.get(identity) != now.get(identity)
            for before, now in (
                (self._granted, rights.grants),
                (self._enrolled, rights.enrolled),
                (self._tokens, rights.tokens),
            )
        )

    async def _renew_pair(self) -> bool:
        now = self._clock.now()
        if not self._server_names or (self._pair is not None and now < self._pair.renew_at):
            return False
        self._pair = await self._enroller.server_pair(self._server_names)
        return True


def _with(
    before: Mapping[Identity, T], changed: Iterable[Identity], now: Mapping[Identity, T]
) -> Mapping[Identity, T]:
    """Return a copy in which these identities have what they have now."""
    after = dict(before)
    for identity in changed:
        if identity in now:
            after[identity] = now[identity]
        else:
            after.pop(identity, None)
    return after


def _readable(rights: Rights) -> Iterable[Grant]:
    """Return the grants that can be read; one that cannot must not take the others away."""
    for identity, granted in rights.grants.items():
        grants = [
            Grant(identity, (one.name,), one.kinds or ALL_KINDS, one.issue, one.max_names) for one in granted
        ]
        try:
            Grants(grants)
        except ConfigError as e:
            _log.error("admission.unreadable", identity=identity, reason=str(e))
        else:
            yield from grants
