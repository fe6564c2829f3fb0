"""Looks, before anything is ordered, whether a CA would find what it looks for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from secrets import token_urlsafe
from typing import Final

from acme_engine.dns.zones import Zones
from acme_engine.errors import AcmeError
from acme_engine.preflight import Ca, Finding, Question, Verdict, examine, may_issue
from sds_server.config.dns import preferred
from sds_server.errors import CallerError, NotFound
from sds_server.inventory import accounts, secrets
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import PreflightTokens
from sds_server.lifecycle.accounts import Issuer, answers

LASTS: Final = timedelta(minutes=2)
"""A token that a crash leaves behind is answered no longer. Addresses are asked all at once, for 10 s."""

TOKEN_BYTES: Final = 32

SECRETS_MAX: Final = 50
"""Of those that have the name, so many are asked for their issuers: more have the same ones."""


class Preflights:
    """Looks at names for the issuers of this replica."""

    def __init__(self, *, database: Database, issuers: Mapping[str, Issuer]) -> None:
        self._database = database
        self._tokens = PreflightTokens(database)
        self._issuers = issuers

    async def look(self, name: str, *, issuer: str | None, port: int) -> Sequence[Finding]:
        """Return what each check shows. ``port`` is where the CA asks for HTTP-01.

        The issuer is by default that of the secrets which have the name; of those that they fall back on, CAA
        is looked at: a CA that may not issue is of no help when it is needed.

        Raises:
            NotFound: no issuer has that name.
            CallerError: which issuer is not said, and there are several; or the name is none.
        """
        having = await secrets.page(self._database, after="", limit=SECRETS_MAX, domain=name)
        ca = self._chosen(issuer, [one.secret.issuer for one in having if one.secret.issuer in self._issuers])
        others = {other for one in having for other in one.secret.fallback if other in self._issuers}
        reached, identities = await _reached(ca)
        method = _method(name, ca)
        seen = _seen(ca, identities, await self._account(ca))
        token = token_urlsafe(TOKEN_BYTES)
        question = Question(token, f"{token}.preflight", port)
        if method == "http-01":
            await self._tokens.put(token, question.key_authorization, lasts=LASTS)
        try:
            found = await examine(name, ca=seen, method=method, question=question, zones=_zones(ca))
            behind = [
                await behind_first(name, self._issuers[other], await self._account(self._issuers[other]))
                for other in sorted(others - {ca.name})
            ]
        except AcmeError as e:
            raise CallerError(e.message, hint=e.hint) from e
        finally:
            if method == "http-01":
                await self._tokens.delete(token)
        return [reached, *found, *behind]

    def _chosen(self, issuer: str | None, declared: Sequence[str]) -> Issuer:
        names = ", ".join(sorted(self._issuers))
        if issuer is None and len({*declared}) == 1:
            issuer = declared[0]
        if issuer is None and len(self._issuers) == 1:
            (only,) = self._issuers.values()
            return only
        if issuer is None:
            raise CallerError(
                "which issuer is to prove it is not said", hint=f"name one by --issuer, or `issuer`: {names}"
            )
        if issuer not in self._issuers:
            raise NotFound(f"no issuer has the name {issuer}", hint=f"there are {names}")
        return self._issuers[issuer]

    async def _account(self, ca: Issuer) -> str | None:
        account = await accounts.get(self._database, ca.directory_url)
        return None if account is None else account.url


async def _reached(ca: Issuer) -> tuple[Finding, tuple[str, ...]]:
    """Ask a CA for its directory; return whether it answers, and its names in CAA."""
    try:
        directory = await answers(ca)
    except AcmeError as e:
        return Finding("ca", Verdict.FAILED, f"{ca.name}: {e.message}", e.hint), ()
    return Finding("ca", Verdict.OK, f"{ca.name} answers at {ca.directory_url}"), directory.caa_identities


async def behind_first(name: str, ca: Issuer, account: str | None = None) -> Finding:
    """Look whether a CA that is fallen back on may issue; ``account``: our account's URL there, if known."""
    reached, identities = await _reached(ca)
    if reached.verdict is not Verdict.OK:
        return replace(reached, check=f"caa of {ca.name}", verdict=Verdict.WARNING)
    return await may_issue(
        name, ca=_seen(ca, identities, account), method=_method(name, ca), zones=_zones(ca)
    )


def _seen(ca: Issuer, identities: tuple[str, ...], account: str | None) -> Ca:
    # A CA of one's own has a file of roots, and looks from inside.
    return Ca(ca.name, identities, public=ca.ca_file is None, account=account)


def _method(name: str, ca: Issuer) -> str:
    """Return the challenge that the worker would answer."""
    wanted = preferred(name, ca.challenges.choices, otherwise=ca.challenges.default) or ca.challenges.default
    if name.startswith("*.") and ca.challenges.dns is not None and not wanted.startswith("dns-"):
        return "dns-01"
    return wanted


def _zones(ca: Issuer) -> Zones:
    return Zones() if ca.challenges.dns is None else ca.challenges.dns.zones
