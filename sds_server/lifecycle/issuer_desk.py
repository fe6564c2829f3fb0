"""What people ask of a CA by the API: the account's key, contact and end, and to go on after a hold."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from acme_engine.errors import AcmeError
from sds_server.errors import IssuanceFailed, NotFound
from sds_server.inventory import accounts as inventory
from sds_server.inventory import pauses
from sds_server.inventory.database import Database
from sds_server.inventory.pauses import Pause
from sds_server.lifecycle.accounts import Account, Accounts, Issuer
from sds_server.lifecycle.told import told


class IssuerDesk:
    """The `Desk` of the admin API. Issuers that share a directory share its account."""

    def __init__(self, *, database: Database, accounts: Accounts, issuers: Mapping[str, Issuer]) -> None:
        self._database = database
        self._accounts = accounts
        self._issuers = issuers

    async def account_url(self, name: str) -> str | None:
        """Return the URL of the issuer's account; None: there is none yet."""
        stored = await inventory.get(self._database, self._issuer(name).directory_url)
        return None if stored is None else stored.url

    async def pause(self, name: str) -> Pause | None:
        """Return why nobody asks the issuer, if so."""
        found = await pauses.of(self._database, [self._issuer(name).name])
        return found[0] if found else None

    async def change_key(self, name: str, *, actor: str) -> None:
        """Give the account another key."""
        await self._ask(name, self._accounts.change_key, actor)

    async def tell_contact(self, name: str, *, actor: str) -> None:
        """Tell the CA the contacts of the configuration."""
        await self._ask(name, self._accounts.tell_contact, actor)

    async def deactivate(self, name: str, *, actor: str) -> None:
        """End the account; the next order begins another."""
        await self._ask(name, self._accounts.deactivate, actor)

    async def resume(self, name: str, *, actor: str) -> None:
        """Let work go on at the issuer's CA, a person having done what it waited for."""
        directory = self._issuer(name).directory_url
        same = [other.name for other in self._issuers.values() if other.directory_url == directory]
        await pauses.hasten(self._database, same, actor=actor)

    def _issuer(self, name: str) -> Issuer:
        issuer = self._issuers.get(name)
        if issuer is None:
            declared = ", ".join(sorted(self._issuers))
            raise NotFound(
                f"issuer {name}: there is none of that name", hint=f"the configuration declares: {declared}"
            )
        return issuer

    async def _ask(self, name: str, what: Callable[..., Coroutine[Any, Any, Account]], actor: str) -> None:
        issuer = self._issuer(name)
        try:
            await what(issuer, actor=actor)
        except AcmeError as e:
            raise IssuanceFailed(f"issuer {name}: {e}", told=told(e)) from e
