"""``Idempotency-Key``: a change that is asked for twice by one key is made once.

Whoever loses an answer asks again with the same key. The replica that gave the answer gives it again, for an
hour; after that, after a restart, and on any other replica, the audit knows the key for a day, and the caller
is told that it was done. Two replicas that are asked in the same moment can both do it: send a repetition
after the answer is lost, not beside it.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aiohttp import web

from sds_server.clock import Clock
from sds_server.errors import CallerError, Conflict
from sds_server.inventory import audit
from sds_server.inventory.database import Database

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
PATTERN: Final = r"^[!-~]{1,255}$"

REPLAYED_FOR: Final = timedelta(hours=1)
"""How long an answer is kept, in memory: some hold a token's text."""

ANSWERS_MAX: Final = 1_000
ANSWER_BYTES_MAX: Final = 64 * 1024
"""A larger one is not kept: it is told that it was done."""

Name = tuple[str, bytes, str]
"""Who asks, by what it shows, and the key: nobody meets another's. Several tokens may have one name."""


@dataclass(slots=True)
class _Asked:
    """``response`` None: it is under way."""

    asked: bytes
    until_s: float
    response: web.Response | None = None


class Idempotency:
    """Remembers answers by who asked and by key. Belongs to one event loop."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._kept: OrderedDict[Name, _Asked] = OrderedDict()

    async def again(self, request: web.Request, actor: str, key: str, body: bytes) -> web.Response | None:
        """Return the answer that was given to this before; None: it was not done, and `doing` may begin.

        Raises:
            CallerError: the key is none.
            Conflict: the key was used for something else, for what is under way, or for what was done.
        """
        if not re.match(PATTERN, key):
            raise CallerError(f"{HEADER}: must be 1 to 255 visible characters", hint="send a UUID")
        self._forget()
        name = _name(request, actor, key)
        if name not in self._kept:
            await self._check_audit(actor, key)
        kept = self._kept.get(name)  # somebody may have begun it while the audit was asked
        if kept is None:
            return None
        if kept.asked != _asked(request, body):
            raise Conflict(f"{HEADER}: {key} was used for another request", hint="take another key")
        if kept.response is None:
            raise Conflict(f"{HEADER}: {key} is under way", hint="wait for its answer, or ask again later")
        return _copy(kept.response)

    @asynccontextmanager
    async def doing(self, request: web.Request, actor: str, key: str, body: bytes) -> AsyncIterator[None]:
        """Let whatever is audited within be known by the key; nobody else begins it meanwhile."""
        until_s = self._clock.monotonic() + REPLAYED_FOR.total_seconds()
        asked = _Asked(_asked(request, body), until_s)
        name = _name(request, actor, key)
        self._kept[name] = asked
        try:
            with audit.asked_by(key):
                yield
        finally:
            # What failed may be asked again; what was done by then is in the audit.
            if asked.response is None:
                del self._kept[name]

    def keep(self, request: web.Request, actor: str, key: str, response: web.Response) -> None:
        """Keep the answer to what is being done."""
        if isinstance(response.body, bytes) and len(response.body) > ANSWER_BYTES_MAX:
            return
        self._kept[_name(request, actor, key)].response = response
        self._forget()

    async def _check_audit(self, actor: str, key: str) -> None:
        done = await audit.done_by(self._database, actor=actor, key=key)
        if done is not None:
            raise Conflict(
                f"{HEADER}: {key} was done at {done.at:%FT%TZ}: {done.action} of {done.subject}",
                hint="the answer is not kept any more: read how it is, and ask no more",
            )

    def _forget(self) -> None:
        """Forget answers, the oldest first; what is under way is not one yet, and keeps no other."""
        now = self._clock.monotonic()
        answered = [name for name, asked in self._kept.items() if asked.response is not None]
        too_many = len(answered) - ANSWERS_MAX
        for nth, name in enumerate(answered):
            if nth >= too_many and self._kept[name].until_s > now:
                return
            del self._kept[name]


async def body_of(request: web.Request, timeout_s: float) -> bytes:
    """Read the body, which whoever parses it reads again from memory."""
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise CallerError(f"body: it did not come within {timeout_s:g} s") from None


def _name(request: web.Request, actor: str, key: str) -> Name:
    shown = request.headers.get("Authorization", "")
    return actor, hashlib.sha256(shown.encode(errors="surrogateescape")).digest(), key


def _asked(request: web.Request, body: bytes) -> bytes:
    head = f"{request.method} {request.rel_url.raw_path_qs}\n{request.headers.get('If-Match', '')}\n"
    return hashlib.sha256(head.encode() + body).digest()


def _copy(response: web.Response) -> web.Response:
    """A response is sent once."""
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    return web.Response(body=response.body, status=response.status, headers={**headers, REPLAYED: "true"})
