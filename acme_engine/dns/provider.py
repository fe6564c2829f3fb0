"""What whoever hosts a DNS zone must do for DNS-01: add one TXT value to a name, and take it away."""

from collections.abc import Iterable
from typing import Final, Protocol

TTL_S: Final = 60
"""How long caches may keep a value; where a provider has a higher minimum, its minimum."""

CALL_TIMEOUT_S: Final = 60.0
"""The longest that one `add` or `remove` is waited for: some providers rebuild a zone for each."""

MAX_WORDS: Final = 500
"""Characters of a provider's text that we keep: it ends in logs and tables."""

REMOVED: Final = "[removed]"


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
    - Whoever calls bounds each call by `CALL_TIMEOUT_S`; cancelling it ends it.

    Raises:
        DnsProviderError: from either, with the provider's words through `scrub`. All else is a bug of it.
    """

    async def add(self, name: str, value: str) -> None:
        """Have ``name`` answer ``value`` too, with a TTL of `TTL_S`."""
        ...

    async def remove(self, name: str, value: str) -> None:
        """Have ``name`` not answer ``value`` any more, and leave its other values."""
        ...

    async def close(self) -> None:
        """Give connections back. Nothing is called afterwards."""
        ...


def scrub(words: str, credentials: Iterable[str]) -> str:
    """Return a provider's words fit for a log: on one line, short, and without our ``credentials``."""
    for credential in sorted(filter(None, credentials), key=len, reverse=True):
        words = words.replace(credential, REMOVED)
    printable = "".join(c if c.isprintable() else " " for c in words)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"
