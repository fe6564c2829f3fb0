"""Caddy: told over its admin API to load the configuration that it runs once more.

Caddy keeps the certificates of files in memory for as long as its configuration is the same, and takes one
that is the same for nothing to do. `must-revalidate` makes it load all the same.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Annotated, Final

import aiohttp
from pydantic import AfterValidator

from sds_server.agent import command
from sds_server.agent.installers.installer import PROGRAM_TIMEOUT, NotRunning, Placed, Rejected
from sds_server.agent.pair import Pair
from sds_server.config.file import Model
from sds_server.config.values import Duration, Some, Wrong, http_url
from sds_server.config.yaml_lines import shown
from sds_server.model import TargetKind

UNIX: Final = "unix/"
"""How Caddy writes the address of a Unix socket; its path follows."""

CONFIGURATION_MAX: Final = 16 * 1024 * 1024
TRIES: Final = 7
"""Somebody else may load a configuration between our question and our answer to it: theirs counts."""

PAUSE_S: Final = 0.05
"""Times the number of the try: 1 s in all."""

SAID_MAX: Final = 16 * 1024


def _admin(text: str) -> str:
    if not text.startswith(UNIX):
        return http_url(text)
    if not text.removeprefix(UNIX).startswith("/"):
        raise Wrong(f"must be unix/ and a full path, got {shown(text)}", "write unix//run/caddy/admin.sock")
    return text


AdminApi = Annotated[str, AfterValidator(_admin)]


class CaddySettings(Model):
    """Caddy beside the agent, whose configuration names the files of the pair."""

    admin: AdminApi = "http://localhost:2019"
    """Where its admin API is: a URL, or `unix/` and a path, as Caddy writes it."""

    check: Some[tuple[str, ...]] | None = None
    """`[caddy, validate, --config, /etc/caddy/Caddyfile]`, asked first; without, Caddy judges as it loads."""

    timeout: Duration = PROGRAM_TIMEOUT
    """How long that command, or one load, may take."""


class Caddy:
    """One Caddy."""

    kind: Final = TargetKind.CADDY

    def __init__(self, settings: CaddySettings) -> None:
        self._settings = settings
        self._timeout_s = settings.timeout.total_seconds()

    async def check(self, pair: Pair, at: Placed) -> None:  # noqa: ARG002 - it reads the files itself
        """Ask ``caddy validate``, which loads the files as Caddy would."""
        if self._settings.check is None:
            return
        ran = await command.run(self._settings.check, timeout_s=self._timeout_s)
        if not ran.ok:
            raise Rejected(_reason(ran.output) or ran.said)

    async def load(self, pair: Pair, at: Placed) -> None:  # noqa: ARG002
        """Let Caddy load what it runs once more; refused, it runs on as it was."""
        lost: Exception | None = None
        for turn in range(TRIES):
            await asyncio.sleep(PAUSE_S * turn)
            try:
                if await self._load_again():
                    return
                lost = None
            except TimeoutError:
                raise NotRunning(
                    f"{self._settings.admin}: Caddy does not answer within {self._timeout_s:g} s"
                ) from None
            except (aiohttp.ClientError, OSError) as e:
                lost = e  # it opens its admin API anew with each configuration
        if lost is not None:
            raise NotRunning(f"{self._settings.admin}: {lost}")
        raise Rejected(f"{self._settings.admin}: somebody else loads another configuration again and again")

    async def _load_again(self) -> bool:
        connector: aiohttp.BaseConnector
        if self._settings.admin.startswith(UNIX):
            base = "http://localhost"
            connector = aiohttp.UnixConnector(self._settings.admin.removeprefix(UNIX), force_close=True)
        else:
            base, connector = self._settings.admin, aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, trust_env=False, timeout=aiohttp.ClientTimeout(self._timeout_s)
        ) as session:
            return await _load_again(session, f"{base}/config/")


async def _load_again(session: aiohttp.ClientSession, url: str) -> bool:
    """Read what runs, and load that, if it runs still. False: it does not.

    Raises:
        Rejected: Caddy has none, or does not take it.
    """
    async with session.get(url, allow_redirects=False) as answer:
        running = await _read(answer, CONFIGURATION_MAX)
        etag = answer.headers.get("Etag", "")
    if answer.status != HTTPStatus.OK or running.strip() in {b"", b"null"}:
        raise Rejected(f"{url}: HTTP {answer.status}: there is no configuration that Caddy runs")
    headers = {"Content-Type": "application/json", "Cache-Control": "must-revalidate", "If-Match": etag}
    async with session.post(url, data=running, headers=headers, allow_redirects=False) as answer:
        if answer.status == HTTPStatus.OK:
            return True
        said = await _read(answer, SAID_MAX)
    if answer.status == HTTPStatus.PRECONDITION_FAILED:
        return False
    raise Rejected(_word(said, "error") or f"{url}: HTTP {answer.status}")


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body.

    Raises:
        Rejected: it is longer than that.
    """
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most:
            raise Rejected(f"{answer.url}: Caddy answers with more than {most >> 10} KiB")
    return bytes(body)


def _reason(output: bytes) -> str:
    """Return the last error of Caddy's log, a JSON object a line; none, where it speaks otherwise."""
    errors = (_word(line, "msg") for line in reversed(output.splitlines()) if b'"error"' in line)
    return next(filter(None, errors), "")


def _word(text: bytes, key: str) -> str:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(said.get(key, "")) if isinstance(said, dict) else ""
