"""ACME accounts of this deployment: one a directory, its key sealed like any other."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from cryptography import x509

from acme_engine import client, keys
from acme_engine.client import Client
from acme_engine.errors import Action, Refused
from acme_engine.jws import Eab
from acme_engine.messages import Directory
from acme_engine.ordering import NO_TERMS, Terms
from acme_engine.pace import Pace
from sds_server.crashpoint import crashpoint
from sds_server.inventory import accounts, sealed_keys
from sds_server.inventory.accounts import StoredAccount
from sds_server.inventory.database import Database
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.challenges import Challenges
from sds_server.limits import OFF, Preset, Refusal, refusal
from sds_server.log import get
from sds_server.model import KeyId, SealedKey
from sds_server.spacing import Spacing

if TYPE_CHECKING:
    from datetime import timedelta

ACCOUNT_PURPOSE: Final = "account"

PATIENCE_S: Final = 8.0
"""How long a request is sent again in place: over a CA's passing fault. What lasts is patience's to judge."""

IN_FLIGHT: Final = 8
"""Orders at once at a CA: what is due after an outage comes as a stream, and not as a flood."""

_log = get("account")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An ACME directory and how we are known there; ``roots`` empty: any root will do.

    ``terms`` are those of each order, without what it replaces; ``spacing``: what the CA counts; ``limits``:
    what it takes in which time; ``in_flight``: so many orders at once, of all replicas together.
    """

    name: str
    directory_url: str
    ca_file: Path | None
    roots: Sequence[x509.Certificate]
    contact: Sequence[str]
    terms_agreed: bool
    eab: Eab | None
    terms: Terms = NO_TERMS
    challenges: Challenges = field(default_factory=Challenges)
    spacing: Spacing | None = None
    limits: Preset = OFF
    in_flight: int = IN_FLIGHT

    def refuses(self, names: Sequence[str]) -> Refusal | None:
        """Return why the CA takes no order for these names, however proved; None: it may take one."""
        profile = self.terms.profile
        if profile is None:
            return refusal(names, self.limits, profile=None)
        return refusal(names, self.limits, profile=profile.name, required=profile.required)


@dataclass(frozen=True, slots=True)
class Account:
    """A registered account with its opened key."""

    url: str
    key: keys.PrivateKey
    key_id: KeyId | None = None


class Accounts:
    """Registers accounts once and opens clients on them."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        actor: str,
        admit: Callable[[Issuer], Awaitable[None]] | None = None,
    ) -> None:
        """``admit`` is asked before a new account is made, and raises to make none."""
        self._admit = admit
        self._database = database
        self._sealer = sealer
        self._actor = actor
        self._ready: dict[str, Account] = {}
        self._paces: dict[str, Pace] = {}
        self._clients: dict[str, tuple[object, Client]] = {}
        self._registering: dict[str, asyncio.Lock] = {}
        self.on_date: Callable[[str, timedelta], None] = lambda _issuer, _ahead: None
        """Hears of each of a CA's answers how far our clock is ahead of its own."""

        self.on_bad_nonce: Callable[[str], None] = lambda _issuer: None
        """Hears of each nonce that a CA refused."""

    async def ensure(self, issuer: Issuer) -> Account:
        """Return the issuer's account, registered.

        Replicas that come here together agree on one key first; the CA then makes one account of it.

        Raises:
            AcmeError: the CA cannot be reached, or refuses the account.
        """
        remembered = self._ready  # where it is emptied meanwhile, what was opened before is not kept after
        stored = await accounts.get(self._database, issuer.directory_url) or await self._begin(issuer)
        ready = remembered.get(issuer.directory_url)
        # Another replica may have changed the key, or ended the account: what is stored decides.
        if ready is not None and (ready.key_id, ready.url, None) == (
            stored.key_id,
            stored.url,
            stored.next_key_id,
        ):
            return ready
        stored = await self._settle_key(issuer, stored)
        key = await self._key(stored.key_id)
        url = stored.url or await self._register(issuer, stored, key)
        account = remembered[issuer.directory_url] = Account(url=url, key=key, key_id=stored.key_id)
        return account

    async def _register(self, issuer: Issuer, stored: StoredAccount, key: keys.PrivateKey) -> str:
        """Have the CA know the account; return its URL. Of workers that come here together one asks.

        Each would take one more of the accounts that the CA allows in a while.
        """
        async with self._registering.setdefault(issuer.directory_url, asyncio.Lock()):
            now = await accounts.get(self._database, issuer.directory_url)
            if now is not None and now.key_id == stored.key_id and now.url is not None:
                return now.url
            crashpoint("account.begun")
            if self._admit is not None:
                await self._admit(issuer)
            async with self._open(issuer, key, None) as client:
                registered = await client.register(
                    contact=issuer.contact, terms_agreed=issuer.terms_agreed, eab=issuer.eab
                )
            crashpoint("account.answered")
            await accounts.registered(
                self._database, issuer.directory_url, stored, url=registered.url, actor=self._actor
            )
            _log.info("account.registered", issuer=issuer.name, account=registered.url)
            return registered.url

    async def _settle_key(self, issuer: Issuer, stored: StoredAccount) -> StoredAccount:
        """Find out which key the account has, where a change of it was cut off."""
        if stored.next_key_id is None or stored.url is None:
            return stored
        async with self._open(issuer, await self._key(stored.next_key_id), None) as client:
            try:
                found = await client.find_account()
            except Refused as e:
                if e.problem.rule.action is Action.WAIT:
                    raise  # it has not said; to go on with a key that may be replaced would be a guess
                return stored  # the CA does not know the new key: the old one is the account's still
        if found.url != stored.url:
            return stored
        await accounts.key_changed(
            self._database, issuer.directory_url, stored.next_key_id, actor=self._actor
        )
        return replace(stored, key_id=stored.next_key_id, next_key_id=None)

    async def change_key(self, issuer: Issuer, *, actor: str) -> Account:
        """Give the account another key; the old one stays the account's until the CA has said yes.

        Raises:
            AcmeError: the CA cannot be reached, or refuses; asked again, it goes on where it was.
        """
        account = await self.ensure(issuer)
        stored = await accounts.get(self._database, issuer.directory_url)
        assert stored is not None  # noqa: S101 - it is registered
        if stored.next_key_id is None:
            sealed = await self._seal()
            await accounts.plan_key(self._database, issuer.directory_url, stored, sealed, actor=actor)
            stored = await accounts.get(self._database, issuer.directory_url) or stored
        if stored.next_key_id is None:
            return await self.ensure(issuer)  # another replica has changed it meanwhile
        crashpoint("account.key_planned")
        async with self.client(issuer, account) as client:
            await client.change_key(await self._key(stored.next_key_id))
        self._clients.pop(issuer.name, None)  # it signs by the new key, and is not the old one's
        crashpoint("account.key_answered")
        await accounts.key_changed(self._database, issuer.directory_url, stored.next_key_id, actor=actor)
        crashpoint("account.key_changed")
        _log.info("account.key_changed", issuer=issuer.name, account=account.url)
        return await self.ensure(issuer)

    async def tell_contact(self, issuer: Issuer, *, actor: str) -> Account:
        """Tell the CA to whom it may write, as the configuration says.

        Raises:
            AcmeError: the CA cannot be reached, or refuses.
        """
        account = await self.ensure(issuer)
        async with self.client(issuer, account) as client:
            await client.update_contact(issuer.contact)
        await accounts.contact_told(self._database, issuer.directory_url, contact=issuer.contact, actor=actor)
        return account

    async def deactivate(self, issuer: Issuer, *, actor: str) -> Account:
        """End the account at the CA; the next order begins another, with another key.

        Raises:
            AcmeError: the CA cannot be reached, or refuses.
        """
        account = await self.ensure(issuer)
        async with self.client(issuer, account) as client:
            await client.deactivate()
        self._ready.pop(issuer.directory_url, None)
        self._clients.pop(issuer.name, None)
        await accounts.deactivated(self._database, issuer.directory_url, url=account.url, actor=actor)
        _log.warning("account.deactivated", issuer=issuer.name, account=account.url)
        return account

    async def forget(self, issuer: Issuer, account: Account) -> None:
        """The CA does not know the account any more: the next `ensure` registers the same key again."""
        self._ready.pop(issuer.directory_url, None)
        await accounts.forgotten(self._database, issuer.directory_url, url=account.url, actor=self._actor)
        _log.warning("account.forgotten", issuer=issuer.name, account=account.url)

    def empty(self) -> None:
        """Forget every key that was opened; what is under way with one ends with it."""
        self._ready = {}
        self._clients.clear()

    def client(self, issuer: Issuer, account: Account) -> Client:
        """Return the client that speaks for the account; each caller opens and closes it for itself.

        All share one: its directory and nonces are read once, its connections serve the orders of a burst,
        and it knows how long this CA takes. One for an account that was forgotten meanwhile is not kept.
        """
        if self._ready.get(issuer.directory_url) is not account:
            return self._open(issuer, account.key, account.url)
        speaks_for = (issuer.directory_url, account.url, account.key_id, issuer.ca_file)
        known = self._clients.get(issuer.name)
        if known is None or known[0] != speaks_for:
            known = self._clients[issuer.name] = speaks_for, self._open(issuer, account.key, account.url)
        return known[1]

    async def sealed(self, key_id: KeyId) -> SealedKey:
        """Return a sealed key."""
        return await sealed_keys.get(self._database, key_id)

    async def _begin(self, issuer: Issuer) -> StoredAccount:
        sealed = await self._seal()
        return await accounts.begin(self._database, issuer.directory_url, sealed, actor=self._actor)

    async def _seal(self) -> SealedKey:
        key = keys.generate(keys.KeyType.ECDSA_P256)
        return await self._sealer.seal(
            keys.pkcs8(key),
            key_id=KeyId(uuid4()),
            purpose=ACCOUNT_PURPOSE,
            spki_sha256=keys.spki_sha256(key.public_key()),
        )

    async def _key(self, key_id: KeyId) -> keys.PrivateKey:
        return keys.load_pkcs8(await self._sealer.open(await self.sealed(key_id)))

    def _pace(self, issuer: Issuer) -> Pace | None:
        """Return how fast the CA may be asked, by all of this process; None: as fast as it answers."""
        rate = issuer.limits.requests_per_s
        if rate is None:
            return None
        return self._paces.setdefault(issuer.directory_url, Pace(rate, of=issuer.limits.requests_of_per_s))

    def _open(self, issuer: Issuer, key: keys.PrivateKey, url: str | None) -> Client:
        return Client(
            issuer.directory_url,
            account_key=key,
            account_url=url,
            ca_file=issuer.ca_file,
            patience_s=PATIENCE_S,
            hands_up_limits=True,
            pace=self._pace(issuer),
            on_date=lambda ahead: self.on_date(issuer.name, ahead),
            on_bad_nonce=lambda: self.on_bad_nonce(issuer.name),
        )


async def answers(issuer: Issuer) -> Directory:
    """Ask the CA for its directory; returns it when it answers.

    Raises:
        AcmeError: it does not, and why.
    """
    return await client.answers(issuer.directory_url, ca_file=issuer.ca_file)
