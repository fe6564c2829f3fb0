"""acme-dns (github.com/joohoi/acme-dns): a small server that holds nothing but values of challenges.

``_acme-challenge.NAME`` is a CNAME to a subdomain of it, whose credential can change nothing else. It keeps
the last two values of a subdomain, and has no call that removes one: more than two at once push each other
out, and what is over stays until the next ones come. By then it proves nothing any more.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self

from acme_engine.dns.api import Api
from acme_engine.dns.provider import PREFIX
from acme_engine.errors import DnsProviderError
from acme_engine.hidden import Hidden

KEEPS: Final = 2
"""Values that the server has of one subdomain."""

_FIELDS: Final = ("fulldomain", "subdomain", "username", "password")


@dataclass(frozen=True, slots=True, repr=False)
class Account:
    """What ``POST /register`` answered."""

    fulldomain: str
    subdomain: str
    username: str
    password: Hidden[str]


class AcmeDns:
    """Updates subdomains, each with its own account."""

    hashes = False

    def __init__(self, endpoint: str, accounts: Mapping[str, Account]) -> None:
        """``accounts`` by the names whose record they are."""
        self._api = Api(endpoint, credentials=[a.password.reveal() for a in accounts.values()])
        self._accounts = accounts
        self._last: dict[str, deque[str]] = {}

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        return cls(settings["endpoint"], accounts_of(settings["accounts"]))

    async def add(self, name: str, value: str) -> None:
        """Update the subdomain; what we have put there last is not put again: it would push out the other."""
        what = f"{name}: no value could be added"
        account = self._accounts.get(name)
        if account is None:
            raise DnsProviderError(
                f"{what}: no account of acme-dns has this name",
                retryable=False,
                hint="register one, add its JSON to `accounts`, and have the CNAME lead to its fulldomain",
            )
        last = self._last.setdefault(account.subdomain, deque(maxlen=KEEPS))
        if value in last:
            return
        answer = await self._api.ask(
            "POST",
            "/update",
            what,
            json_body={"subdomain": account.subdomain, "txt": value},
            headers={"X-Api-User": account.username, "X-Api-Key": account.password.reveal()},
        )
        if not answer.ok:
            raise self._api.refused(what, answer, hint=_HINTS.get(answer.status))
        last.append(value)

    async def remove(self, name: str, value: str) -> None:
        """Do nothing: there is no such call, and another value in its place could push out one in use."""

    async def close(self) -> None:
        """Give the connections back."""
        await self._api.close()


_HINTS: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "this account is not the subdomain's, or may not be used from our address",
    HTTPStatus.FORBIDDEN: "this account is not the subdomain's, or may not be used from our address",
}


def accounts_of(text: str) -> Mapping[str, Account]:
    """Read one answer of ``/register``, a list of them, or an object of them by domain, as clients keep them.

    Raises:
        ValueError: it is none of these; without what stands in it.
    """
    found: dict[str, Account] = {}
    try:
        for domain, registration in _registrations(json.loads(text)):
            domain_of, subdomain, username, password = (str(registration[field]) for field in _FIELDS)
            account = Account(domain_of, subdomain, username, Hidden(password))
            found[account.fulldomain.rstrip(".").lower()] = account
            if domain is not None:  # for who does not follow aliases
                found[f"{PREFIX}{domain.removeprefix('*.').lower()}"] = account
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found.clear()
    if not found:
        raise ValueError(f"must be JSON as /register answers it, with {', '.join(_FIELDS)}; several in [ ]")
    return found


def _registrations(document: Any) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    if isinstance(document, list):
        yield from ((None, each) for each in document)
    elif "fulldomain" in document:
        yield None, document
    else:
        yield from document.items()
