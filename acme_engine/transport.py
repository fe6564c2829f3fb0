"""One exchange with a CA: sign, send, keep the nonce, and send again only what may be sent again.

What is sent again, always signed anew with a fresh nonce (RFC 8555 section 6.5):

| the CA answered  | why that is safe                                             | how often          |
|------------------|--------------------------------------------------------------|--------------------|
| badNonce         | the request was not looked at                                | `BAD_NONCE_TRIES`  |
| 429, 503         | "not now": it did not act                                    | while `PATIENCE_S` |
| 500, 502, 504    | it failed, most likely before it acted: see `Repeat`         | while `PATIENCE_S` |
| nothing          | whether it acted is unknown: see `Repeat`                    | while `PATIENCE_S` |
| anything else    | it is an answer                                              | never              |

The CA is taken for hostile: one origin, no redirects, no compression, a cap on every body and every wait.
"""

import asyncio
import email.utils
import ipaddress
import json
import random
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from multidict import CIMultiDict
from yarl import URL

from acme_engine import backoff
from acme_engine.errors import BadReply, Misconfigured, Problem, Refused, Unreachable, Untrusted
from acme_engine.http1 import Answer, CannotConnect, Connections, TooLong, lines
from acme_engine.jws import Signer
from acme_engine.pace import Pace
from acme_engine.proxy import proxy_for
from acme_engine.trust import tls

REQUEST_TIMEOUT_S = 45.0
"""For one sending, its answer's last byte included. A CA may think for half a minute over a finalize."""

READ_TIMEOUT_S = 15.0
"""For one that can be sent again without harm: a network that swallows everything is noticed sooner."""

PATIENCE_S = 120.0
"""How long one request may be sent again, all pauses and timeouts together; then the error says when to come
back."""

BAD_NONCE_TRIES = 25
"""Of a CA that refuses every second nonce, one request in thirty million comes back."""

LONGEST_RETRY_AFTER = timedelta(days=366)
"""No limit of a CA lasts so long; it is added to dates, and the last of those is in the year 9999."""

MAX_NONCES = 32
MAX_NONCE_LENGTH = 1024
NONCE_S = 300.0
"""For how long a nonce is kept. Let's Encrypt's last for an hour and more."""

_PATH = re.compile(r"[A-Za-z0-9_/=-]*")
_PLAIN_URL = re.compile(rf"https?://[a-z0-9.-]+(:[0-9]+)?/{_PATH.pattern}")
"""What needs no parser: nearly all URLs of all CAs."""

_NONCE = re.compile(r"[A-Za-z0-9_-]+")
_NOT_NOW = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
NOT_HERE = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE}
_FAILED = {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
_LINK = re.compile(r'<([^<>]*)>[^,<]*?;\s*rel="?([^",;]+)"?')


class Repeat(StrEnum):
    """What a request may be sent again after, at worst."""

    NOTHING = "nothing"
    """finalize: the order is read first, and it decides."""
    FAILURE = "failure"
    """newOrder: a second order costs little, but orders are counted, and nobody knows how many got through.
    A failing CA is asked again all the same: smallstep's fails now and then when two orders come at once."""
    SILENCE = "silence"
    """What does no harm when it is done twice."""


Sleep = Callable[[float], Awaitable[object]]
OnDate = Callable[[timedelta], None]
"""Hears how far our clock is ahead of the CA's; negative: behind."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that does not say no."""

    url: str
    status: int
    headers: CIMultiDict[str]
    body: bytes
    retry_after: timedelta | None

    def json(self) -> object:
        """Read the body as JSON."""
        try:
            document: object = json.loads(self.body)
        except (ValueError, RecursionError) as e:  # a megabyte of "[" is a hostile answer too
            raise BadReply(f"{self.url} answered with something else than JSON") from e
        return document

    def links(self) -> Sequence[tuple[str, str]]:
        """Return (relation, URL) of each Link, absolute."""
        try:
            return [(rel, str(URL(self.url).join(URL(to)))) for rel, to in _links(self.headers)]
        except ValueError as e:
            raise BadReply(f"{self.url} answered with a Link that is no URL") from e

    def location(self) -> str:
        """Return the URL of what was created."""
        location = self.headers.get("Location")
        if not location:
            raise BadReply(f"{self.url} answered without a Location")
        if _PLAIN_URL.fullmatch(location):
            return location
        try:
            return str(URL(self.url).join(URL(location)))
        except ValueError as e:
            raise BadReply(f"{self.url} answered with a Location that is no URL") from e


class Transport:
    """All requests to one CA. Safe for many coroutines at once: each takes its own nonce."""

    def __init__(
        self,
        directory_url: str,
        *,
        user_agent: str,
        ca_file: Path | str | None = None,
        allow_http: bool = False,
        clock: Clock = utc_now,
        sleep: Sleep = asyncio.sleep,
        rng: backoff.Rng | None = None,
        patience_s: float = PATIENCE_S,
        hands_up_limits: bool = False,
        pace: Pace | None = None,
        on_date: OnDate | None = None,
        on_bad_nonce: Callable[[], None] | None = None,
    ) -> None:
        """Pin the origin of ``directory_url``; with ``ca_file`` only that file's CAs are trusted.

        ``hands_up_limits``: an answer with Retry-After is raised at once and never waited for in place, for
        who can keep others from asking too. ``on_date`` hears of each answer how far our clock is ahead,
        ``on_bad_nonce`` of each nonce that is refused.
        """
        self._origin = _checked(directory_url, allow_http=allow_http).origin()
        self._place = _place(self._origin)
        self._root = f"{self._origin}/"
        # Unasked, nobody compresses; a bomb that comes all the same is never opened.
        self._fields = lines({"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"})
        self._signed_fields = self._fields + lines({"Content-Type": "application/jose+json"})
        self._ca_file = ca_file
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.SystemRandom()
        self._patience_s = patience_s
        self._hands_up_limits = hands_up_limits
        self._pace = pace
        self._on_date = on_date
        self._on_bad_nonce = on_bad_nonce or (lambda: None)
        self._nonces: deque[tuple[float, str]] = deque(maxlen=MAX_NONCES)
        self._connections: Connections | None = None
        self._users = 0

    async def __aenter__(self) -> Self:
        """Begin to use it; many may at once, and the connections are kept until the last has ended."""
        if self._connections is None:
            tls(self._ca_file)  # a file that cannot be used is said now
            self._connections = Connections(
                self._origin,
                tls=partial(tls, self._ca_file) if self._origin.scheme == "https" else None,
                proxy=proxy_for(self._origin),
            )
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if self._users == 0 and self._connections is not None:
            connections, self._connections = self._connections, None
            await connections.close()

    async def get(self, url: str) -> Reply:
        """Read something that needs no signature: the directory.

        It is what every use of a CA begins with: one that is not there is told at once, not after minutes.
        """

        async def send() -> Reply:
            return await self._exchange("GET", url)

        try:
            return await self._persist(send, repeat=Repeat.FAILURE)
        except Refused as e:
            if e.problem.status in NOT_HERE:
                e.hint = "correct the path of the directory's URL: the server is there, and has nothing at it"
            raise

    async def post(
        self,
        url: str,
        payload: Mapping[str, object] | None,
        *,
        signer: Signer,
        account_url: str | None,
        new_nonce_url: str,
        repeat: Repeat,
        resource: str | None = None,
    ) -> Reply:
        """Sign and send; ``payload`` None is a POST-as-GET (section 6.3).

        ``resource``: its name in the directory, where CAs may allow fewer of those a second.

        Raises:
            Refused: the CA said no; its Problem is kept whole.
            Unreachable: no answer: whether it acted is unknown.
            BadReply: an answer that cannot be used.
        """
        body = b"" if payload is None else json.dumps(payload).encode()

        async def send() -> Reply:
            for _ in range(BAD_NONCE_TRIES - 1):
                try:
                    return await sign_and_send()
                except Refused as e:
                    if e.problem.code != "badNonce":
                        raise
                    self._on_bad_nonce()
            return await sign_and_send()

        async def sign_and_send() -> Reply:
            # The refusal of a nonce brings the next one: newest first makes it the one that is taken.
            nonce = self._kept_nonce() or await self._new_nonce(new_nonce_url)
            signed = signer.sign(body, url=url, nonce=nonce, account_url=account_url)
            timeout_s = READ_TIMEOUT_S if repeat is Repeat.SILENCE else REQUEST_TIMEOUT_S
            return await self._exchange("POST", url, signed, timeout_s=timeout_s, resource=resource)

        return await self._persist(send, repeat=repeat)

    async def _persist(self, send: Callable[[], Awaitable[Reply]], *, repeat: Repeat) -> Reply:
        now = asyncio.get_running_loop().time
        began = now()
        waited_s = 0.0
        tries = 0
        while True:
            try:
                return await send()
            except (Refused, Unreachable) as e:
                again = _may_repeat(e, repeat)
                tries += 1
                pause_s = backoff.pause_s(tries, self._rng)
                if e.retry_after is not None:
                    again = again and not self._hands_up_limits
                    pause_s = max(pause_s, e.retry_after.total_seconds())
                if not again or max(waited_s, now() - began) + pause_s > self._patience_s:
                    raise
            waited_s += pause_s
            await self._sleep(pause_s)

    async def _new_nonce(self, url: str) -> str:
        await self._exchange("HEAD", url, resource="newNonce")
        nonce = self._kept_nonce()
        if nonce is None:
            raise BadReply(f"{url} answered without a Replay-Nonce that can be used")
        return nonce

    def _kept_nonce(self) -> str | None:
        """Return the newest nonce; those that are old go: to have one refused costs more than to ask."""
        got_at, nonce = self._nonces.pop() if self._nonces else (0.0, None)
        if nonce is not None and asyncio.get_running_loop().time() - got_at > NONCE_S:
            self._nonces.clear()
            return None
        return nonce

    async def _exchange(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        *,
        timeout_s: float = READ_TIMEOUT_S,
        resource: str | None = None,
    ) -> Reply:
        if self._pace is not None:
            await self._pace.turn(resource)
        sent_at = self._clock() if self._on_date is not None else None
        answer = await self._ask(method, url, body, timeout_s)
        # No await from here to where the nonce is taken: who fetched one cannot lose it to another request.
        self._keep_nonce(answer.headers.getall("Replay-Nonce", []))
        if self._on_date is not None and sent_at is not None:
            ours = ahead(answer.headers.get("Date"), sent_at=sent_at, heard_at=self._clock())
            if ours is not None and "Age" not in answer.headers:  # what a cache says is of another time
                self._on_date(ours)
        said = answer.headers.get("Retry-After")
        retry_after = parse_retry_after(said, now=self._clock()) if said is not None else None
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return Reply(url, answer.status, answer.headers, bytes(answer.body), retry_after)
        if answer.status < HTTPStatus.BAD_REQUEST:
            raise BadReply(
                f"{url} redirects (status {answer.status}): not followed",
                hint="give the directory's final URL",
            )
        raise Refused(f"{url} refused", _problem(answer, retry_after))

    async def _ask(self, method: str, url: str, body: bytes | None, timeout_s: float) -> Answer:
        if self._connections is None:
            raise RuntimeError("use the client in `async with`")
        path = self._pinned(url)
        fields = self._fields if body is None else self._signed_fields
        try:
            return await self._connections.exchange(method, path, fields, body, within_s=timeout_s)
        except TooLong as e:
            raise BadReply(f"{url} answered {e}") from e
        except CannotConnect as e:  # what was to be asked there does not matter
            raise Unreachable(f"{self._origin}: {e}") from e
        except ssl.SSLCertVerificationError as e:
            raise Untrusted(f"{self._origin}: its TLS certificate does not verify: {_reason(e)}") from e
        except TimeoutError as e:
            raise Unreachable(f"{url}: no whole answer within {timeout_s:g} s") from e
        except OSError as e:
            raise Unreachable(f"{url}: {_reason(e)}") from e

    def _pinned(self, url: str) -> str:
        """Return the path of a URL, or refuse one that leads away from the CA: it would make us its tool."""
        if url.startswith(self._root) and _PATH.fullmatch(url, len(self._root)):
            return url[len(self._root) - 1 :]
        try:
            target = URL(url)
            same = self._leads_here(target)
        except ValueError as e:
            raise BadReply(f"the CA gave {url[:200]!r}, which is not a URL") from e
        if not same:
            raise BadReply(f"the CA at {self._origin} sent us elsewhere: {url[:200]!r}")
        return target.raw_path_qs

    def has(self, url: str) -> bool:
        """Whether a URL that somebody kept is one of this CA."""
        try:
            return self._leads_here(URL(url))
        except ValueError:
            return False

    def _leads_here(self, url: URL) -> bool:
        return url.absolute and _place(url) == self._place

    def _keep_nonce(self, nonces: list[str]) -> None:
        """Keep it as it is: "Clients MUST ignore invalid Replay-Nonce values" (section 6.5.1)."""
        if len(nonces) == 1 and len(nonces[0]) <= MAX_NONCE_LENGTH and _NONCE.fullmatch(nonces[0]):
            self._nonces.append((asyncio.get_running_loop().time(), nonces[0]))


def parse_retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """Read Retry-After, as seconds or as an HTTP-date (RFC 9110 section 10.2.3); the past is now.

    What is beyond `LONGEST_RETRY_AFTER` is that: a moment that is so much later must have a date.
    """
    if value is None:
        return None
    try:
        if value.strip().isdecimal():
            return min(timedelta(seconds=int(value)), LONGEST_RETRY_AFTER)
        at = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # An HTTP-date is in GMT, whatever the local zone is: `at` is aware, or naive for "-0000".
    return min(max(at.replace(tzinfo=at.tzinfo or UTC) - now, timedelta(0)), LONGEST_RETRY_AFTER)


def ahead(date: str | None, *, sent_at: datetime, heard_at: datetime) -> timedelta | None:
    """Say how far our clock is ahead of a Date (RFC 9110 section 6.6.1), negative: behind; None: it has none.

    The server wrote it between our two moments, to the whole second: what fits into that is no difference.
    """
    if date is None:
        return None
    try:
        theirs = email.utils.parsedate_to_datetime(date)
        begins = theirs.replace(tzinfo=theirs.tzinfo or UTC)
        ends = begins + timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None
    return max(sent_at - ends, timedelta(0)) + min(heard_at - begins, timedelta(0))


def _may_repeat(error: Refused | Unreachable, repeat: Repeat) -> bool:
    if isinstance(error, Unreachable):
        return repeat is Repeat.SILENCE
    status = error.problem.status
    return status in _NOT_NOW or (status in _FAILED and repeat is not Repeat.NOTHING)


def _checked(directory_url: str, *, allow_http: bool) -> URL:
    try:
        url = URL(directory_url)
    except ValueError as e:
        raise Misconfigured(f"the directory {directory_url!r} is not a URL") from e
    if url.host and (url.scheme == "https" or (allow_http and url.scheme == "http" and _loopback(url.host))):
        return url
    raise Misconfigured(
        f"the directory must be an https URL, got {directory_url!r}",
        hint="use the CA's directory URL, e.g. https://acme-v02.api.letsencrypt.org/directory",
    )


def _place(url: URL) -> tuple[str, str | None, int | None]:
    """Return where a URL leads, however it is written: yarl's origins differ where a port is said or not."""
    return url.scheme, url.raw_host, url.port


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problem(answer: Answer, retry_after: timedelta | None) -> Problem:
    """Keep the problem document whole; a body that is none (a proxy's page) is quoted as the detail."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = {"detail": answer.body[:200].decode("utf-8", "replace").strip() or answer.reason[:200]}
    return Problem.of(document, status=answer.status, retry_after=retry_after, links=_links(answer.headers))


def _links(headers: CIMultiDict[str]) -> Sequence[tuple[str, str]]:
    return tuple((rel, url) for url, rel in _LINK.findall(", ".join(headers.getall("Link", []))))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
