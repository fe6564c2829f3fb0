"""Looks, before anything is ordered, whether a CA would find what it looks for."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from secrets import token_urlsafe
from typing import Final

from acme_engine.dns.zones import Zones
from acme_engine.errors import AcmeError
from acme_engine.preflight import Ca, Finding, Question, Verdict, examine
from sds_server.config_dns import preferred
from sds_server.errors import CallerError, NotFound
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import PreflightTokens
from sds_server.lifecycle.accounts import Issuer, answers

LASTS: Final = timedelta(minutes=2)
"""A token that a crash leaves behind is answered no longer. Addresses are asked all at once, for 10 s."""

TOKEN_BYTES: Final = 32


class Preflights:
    """Looks at names for the issuers of this replica."""

    def __init__(self, *, database: Database, issuers: Mapping[str, Issuer]) -> None:
        self._tokens = PreflightTokens(database)
        self._issuers = issuers

    async def look(self, name: str, *, issuer: str | None, port: int) -> Sequence[Finding]:
        """Return what each check shows. ``port`` is where the CA asks for HTTP-01.

        Raises:
            NotFound: no issuer has that name.
            CallerError: which issuer is not said, and there are several; or the name is none.
        """
        ca = self._chosen(issuer)
        try:
            directory = await answers(ca)
        except AcmeError as e:
            reached = Finding("ca", Verdict.FAILED, f"{ca.name}: {e.message}", e.hint)
            identities: tuple[str, ...] = ()
        else:
            reached = Finding("ca", Verdict.OK, f"{ca.name} answers at {ca.directory_url}")
            identities = directory.caa_identities
        method = _method(name, ca)
        token = token_urlsafe(TOKEN_BYTES)
        question = Question(token, f"{token}.preflight", port)
        if method == "http-01":
            await self._tokens.put(token, question.key_authorization, lasts=LASTS)
        try:
            found = await examine(
                name,
                # A CA of one's own has a file of roots, and looks from inside.
                ca=Ca(ca.name, identities, public=ca.ca_file is None),
                method=method,
                question=question,
                zones=_zones(ca),
            )
        except AcmeError as e:
            raise CallerError(e.message, hint=e.hint) from e
        finally:
            if method == "http-01":
                await self._tokens.delete(token)
        return [reached, *found]

    def _chosen(self, issuer: str | None) -> Issuer:
        names = ", ".join(sorted(self._issuers))
        if issuer is None and len(self._issuers) == 1:
            (only,) = self._issuers.values()
            return only
        if issuer is None:
            raise CallerError("which issuer is to prove it is not said", hint=f"one of {names}")
        if issuer not in self._issuers:
            raise NotFound(f"no issuer has the name {issuer}", hint=f"there are {names}")
        return self._issuers[issuer]


def _method(name: str, ca: Issuer) -> str:
    """Return the challenge that the worker would answer."""
    wanted = preferred(name, ca.challenges.choices, otherwise=ca.challenges.default) or ca.challenges.default
    if name.startswith("*.") and ca.challenges.dns is not None and not wanted.startswith("dns-"):
        return "dns-01"
    return wanted


def _zones(ca: Issuer) -> Zones:
    return Zones() if ca.challenges.dns is None else ca.challenges.dns.zones
