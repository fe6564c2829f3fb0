"""ACME Renewal Information (RFC 9773): when a CA would like a certificate renewed.

What it says is a wish. `renewal` clamps it, and whatever is wrong with it is told as an error: nobody's
renewal waits for it.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from josepy.b64 import b64encode

from acme_engine import backoff, transport
from acme_engine.client import USER_AGENT
from acme_engine.errors import AcmeError, BadReply, Refused, Unreachable, Unsupported
from acme_engine.messages import Directory

TIMEOUT_S = 10.0
"""For one question, the directory's fetch included: a wish is worth no longer a wait."""

DEFAULT_INTERVAL = timedelta(hours=6)
"""Between two questions where the CA names no time (section 4.3.2 lets us choose)."""

SHORTEST_INTERVAL = timedelta(minutes=1)
LONGEST_INTERVAL = timedelta(hours=24)
"""Section 4.3.2: "clients SHOULD set reasonable limits on their checking interval", with these two."""

FAILED_INTERVALS = (
    timedelta(minutes=1),  # after 1 min: a passing fault
    timedelta(minutes=10),  # after 11 min
    timedelta(minutes=100),  # after 111 min
    DEFAULT_INTERVAL,
)

SPREAD = (0.9, 1.1)
MAX_URL = 1000


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when a CA would like the renewal; in UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class RenewalInfo:
    """A CA's answer (section 4.2); ``explanation_url`` is a page for people, of an incident for example."""

    window: Window
    explanation_url: str | None
    retry_after: timedelta | None

    @classmethod
    def parse(cls, document: object, *, retry_after: timedelta | None = None) -> "RenewalInfo":
        """Read the RenewalInfo object.

        Raises:
            BadReply: it is none, or "the end timestamp is equal to or precedes the start timestamp", which
                section 4.2 has clients treat as if there were none.
        """
        window = document.get("suggestedWindow") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(window, dict):
            raise BadReply("the renewalInfo has no 'suggestedWindow'")
        start, end = _moment(window, "start"), _moment(window, "end")
        if end <= start:
            raise BadReply(f"the renewalInfo's window ends at {end:%FT%TZ}, not after its start")
        url = document.get("explanationURL")
        shown = isinstance(url, str) and url.isprintable() and url.startswith(("https://", "http://"))
        return cls(Window(start, end), str(url)[:MAX_URL] if shown else None, retry_after)


def certificate_id(certificate: x509.Certificate) -> str | None:
    """Return the unique identifier of section 4.1; None: without a key identifier of its CA there is none.

    The serial number is as in DER, with the zero byte in front that keeps it positive.
    """
    try:
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None
    if authority.key_identifier is None:
        return None
    number = certificate.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    return f"{b64encode(authority.key_identifier).decode()}.{b64encode(serial).decode()}"


def pick(window: Window, rng: backoff.Rng) -> datetime:
    """Draw the moment of the renewal: "a uniform random time within the suggested window" (section 4.2).

    One draw for one window: who draws anew at each look renews at the first draw that has passed.
    """
    span = (window.end - window.start).total_seconds()
    return window.start + timedelta(seconds=int(rng.uniform(0, span)))


def next_question(retry_after: timedelta | None, rng: backoff.Rng) -> timedelta:
    """Say after how long the CA is asked again, having answered."""
    wanted = DEFAULT_INTERVAL if retry_after is None else retry_after
    bounded = min(max(wanted, SHORTEST_INTERVAL), LONGEST_INTERVAL)
    return bounded * rng.uniform(*SPREAD)


def after_failure(failures: int, retry_after: timedelta | None, rng: backoff.Rng) -> timedelta:
    """Say after how long the CA is asked again, having failed to answer so many times in a row."""
    interval = FAILED_INTERVALS[min(max(failures, 1), len(FAILED_INTERVALS)) - 1]
    return max(interval * rng.uniform(*SPREAD), min(retry_after or timedelta(0), LONGEST_INTERVAL))


class Inquiry:
    """Questions to one CA, unsigned, as many as wanted at once. Used in ``async with``."""

    def __init__(
        self,
        directory_url: str,
        *,
        ca_file: Path | str | None = None,
        allow_http: bool = False,
        timeout_s: float = TIMEOUT_S,
        on_date: transport.OnDate | None = None,
    ) -> None:
        self._directory_url = directory_url
        self._timeout_s = timeout_s
        self._reading = asyncio.Lock()
        self._base: str | AcmeError | None = None
        self._transport = transport.Transport(
            directory_url,
            user_agent=USER_AGENT,
            ca_file=ca_file,
            allow_http=allow_http,
            patience_s=0.0,
            on_date=on_date,
        )

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def ask(self, certificate_id: str) -> RenewalInfo:
        """Ask when the CA would like the certificate of this identifier (section 4.1) renewed.

        Raises:
            Unsupported: the directory has no ``renewalInfo``.
            Refused, Unreachable, Untrusted, BadReply: there is no answer, or none of use.
        """
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                reply = await self._transport.get(f"{await self._url()}/{certificate_id}")
        except TimeoutError as e:
            if not limit.expired():
                raise
            raise Unreachable(f"{self._directory_url}: no renewalInfo within {self._timeout_s:g} s") from e
        return RenewalInfo.parse(reply.json(), retry_after=reply.retry_after)

    async def _url(self) -> str:
        """Return the resource's URL, by a directory that is read once; so is its failure told to all."""
        async with self._reading:
            if self._base is None:
                try:
                    directory = Directory.parse((await self._transport.get(self._directory_url)).json())
                    if directory.renewal_info is None:
                        raise Unsupported(f"{self._directory_url} has no renewalInfo")
                    self._base = directory.renewal_info.rstrip("/")
                except AcmeError as e:
                    self._base = e
        if isinstance(self._base, AcmeError):
            raise self._base
        return self._base


def useless(error: AcmeError) -> bool:
    """Whether the CA has answered, and not with a window: then what it said before counts no more."""
    if isinstance(error, Refused):
        status = error.problem.status
        return status is not None and status < 500 and status != 429  # noqa: PLR2004
    return isinstance(error, BadReply | Unsupported)


def _moment(fields: dict[str, Any], name: str) -> datetime:
    value = fields.get(name)
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        if at is not None and at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise BadReply(f"the renewalInfo's {name!r} is not an RFC 3339 time")
