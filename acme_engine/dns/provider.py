"""What whoever hosts a DNS zone must do for DNS-01: add one TXT value to a name, and take it away."""

from collections.abc import Iterable
from typing import Final, Protocol

from acme_engine.errors import DnsProviderError

TTL_S: Final = 60
"""How long caches may keep a value; where a provider has a higher minimum, its minimum."""

CALL_TIMEOUT_S: Final = 60.0
"""The longest that one `add` or `remove` is waited for: some providers rebuild a zone for each."""

MAX_WORDS: Final = 500
"""Characters of a provider's text that we keep: it ends in logs and tables."""

REMOVED: Final = "[removed]"

PREFIX: Final = "_acme-challenge."


class DnsProvider(Protocol):
    """Adds and removes single TXT values. All replicas, and several orders at once, use the same zone.

    - ``name`` owns the record after every CNAME was followed, in lower case and without the final dot:
      ``_acme-challenge.www.example.com``, or what that points to. The provider finds the zone that it is in.
    - ``value`` is one string of at most 255 bytes, without quotes around it.
    - A name may hold several values: ``example.com`` and ``*.example.com`` prove themselves at one name. So
      a call touches its own value alone and never replaces the set. A provider whose API can only read,
      change and write back does that under a lock for each name.
    - Both are idempotent: `add` of what is there, and `remove` of what is not, succeed and change nothing.
    - When `add` returns, the provider has promised to serve the value; its servers may do so only later.
      Nobody waits here for that.
    - A call that was cancelled, or failed, may have happened or not; `remove` puts that right.
    - Whoever calls bounds each call by `CALL_TIMEOUT_S`; cancelling it ends it,
      or the waiting at least.

    Raises:
        DnsProviderError: from either, with the provider's words through `scrub`. All else is a bug of it.
    """

    @property
    def hashes(self) -> bool:
        """Whether it wants to hash by itself: ``value`` is then the key authorization, not its digest.

        Services that speak for a whole ACME client are made so (RFC 8555 section 8.4 has the digest in DNS).
        """
        ...

    async def add(self, name: str, value: str) -> None:
        """Have ``name`` answer ``value`` too, with a TTL of `TTL_S`."""
        ...

    async def remove(self, name: str, value: str) -> None:
        """Have ``name`` not answer ``value`` any more, and leave its other values."""
        ...

    async def close(self) -> None:
        """Give connections back. Nothing is called afterwards."""
        ...


def challenged(name: str, what: str) -> str:
    """Return the domain that a record proves, for a provider that puts the label before it by itself.

    Raises:
        DnsProviderError: the record's name does not begin with the label; ``what`` begins the message.
    """
    if not name.startswith(PREFIX):
        raise DnsProviderError(
            f"{what}: this provider changes only names that begin with {PREFIX}",
            retryable=False,
            hint=f"have the alias lead to such a name: {PREFIX}www.example.net; or set follow_aliases: false",
        )
    return name.removeprefix(PREFIX)


def token_of(key_authorization: str, what: str) -> str:
    """Return the challenge's token, which a key authorization begins with (RFC 8555 section 8.1).

    Raises:
        DnsProviderError: it is a digest: left by another provider, which must take it away.
    """
    token, dot, thumbprint = key_authorization.partition(".")
    if not (token and dot and thumbprint):
        raise DnsProviderError(
            f"{what}: this provider cannot name a value that another one has left",
            retryable=False,
            hint="remove the TXT record by hand",
        )
    return token


def scrub(words: str, credentials: Iterable[str]) -> str:
    """Return a provider's words fit for a log: on one line, short, and without our ``credentials``."""
    for credential in sorted(filter(None, credentials), key=len, reverse=True):
        words = words.replace(credential, REMOVED)
    printable = "".join(c if c.isprintable() else " " for c in words)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"
