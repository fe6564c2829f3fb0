"""The providers of lego, about 218, each in a process of its own: for who hosts zones and has no module here.

What lego's provider promises is what is promised here. Some put a value in the place of all others, some
cannot take away what another process added, and lego says of no error whether it passes by itself.
"""

import asyncio
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from acme_engine.dns.provider import challenged, scrub, token_of
from acme_engine.errors import DnsProviderError, Misconfigured

LIMIT_S: Final = 120.0
"""For one call; a process that takes longer is killed. Who calls may give up sooner: the call goes on."""

START_S: Final = 30.0
SHORTEST: Final = 6
"""Characters of a credential; what is shorter is a number, or a word that its own messages need."""

MAX_ANSWER: Final = 64 * 1024

HELPER: Final = Path(__file__).with_name("lego_helper.py")

_NOT_FOLLOWED: Final = {"LEGO_DISABLE_CNAME_SUPPORT": "true"}
"""Who calls has followed aliases, by asking the zones' servers; lego asks resolvers, which remember."""


class Lego:
    """Has a helper process call lego: one call at a time, started at the first, anew after one that hung."""

    hashes = True

    def __init__(
        self, service: str, environment: Mapping[str, str], *, resolvers: tuple[str, ...] = ()
    ) -> None:
        """``environment`` is what lego's pages list for the service; ``resolvers`` are asked for zones."""
        self._service, self._environment, self._resolvers = service, environment, resolvers
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._added: set[tuple[str, str]] = set()
        self._calls: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> Self:
        """Make it of the settings that `acme_engine.dns.table` describes."""
        if importlib.util.find_spec("lego_bridge") is None:
            raise Misconfigured(
                "lego needs the package certbot-dns-multi, which is not installed",
                hint="install certvoy with its extra `lego`: pip install 'certvoy[lego]'",
            )
        resolvers = tuple(settings.get("lego_resolvers", "").split())
        return cls(settings["service"], environment_of(settings["environment"]), resolvers=resolvers)

    async def add(self, name: str, value: str) -> None:
        """Have lego present it; not again what this process has presented."""
        await self._finished(self._call("perform", name, value, f"{name}: no value could be added"))

    async def remove(self, name: str, value: str) -> None:
        """Have lego clean it up."""
        await self._finished(self._call("cleanup", name, value, f"{name}: a value could not be removed"))

    async def close(self) -> None:
        """End the process."""
        calls = [*self._calls]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._end()

    async def _finished(self, call: Any) -> None:
        """Wait for a call. Where nobody waits any more it goes on: lego knows what it has added only then."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(task)

    async def _call(self, action: str, name: str, value: str, what: str) -> None:
        asked = {
            "action": action,
            "domain": challenged(name, what),
            "token": token_of(value, what),
            "key_authorization": value,
        }
        async with self._turn:
            if action == "perform" and (name, value) in self._added:
                return
            process = await self._started(what)
            answer = await self._ask(process, asked, what, LIMIT_S)
            if answer.get("success") is not True:
                raise DnsProviderError(
                    f"{what}: {self._service} by lego says {self._scrubbed(answer)}", retryable=True
                )
            (self._added.add if action == "perform" else self._added.discard)((name, value))

    async def _started(self, what: str) -> asyncio.subprocess.Process:
        """Return the process, configured."""
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self._end()
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(HELPER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # lego may print what it was sent
            env={},
            limit=MAX_ANSWER,
        )
        configured = await self._ask(process, None, what, START_S)
        if configured.get("success") is True:
            configure = {
                "action": "configure",
                "provider": self._service,
                "credentials": {**_NOT_FOLLOWED, **self._environment},
                "nameservers": list(self._resolvers),
            }
            configured = await self._ask(process, configure, what, START_S)
        if configured.get("success") is not True:
            await self._end()
            raise DnsProviderError(
                f"{what}: lego does not take {self._service}: {self._scrubbed(configured)}",
                retryable=False,
                hint=f"https://go-acme.github.io/lego/dns/{self._service}/ says what `environment` must hold",
            )
        return process

    async def _ask(
        self, process: asyncio.subprocess.Process, asked: Mapping[str, Any] | None, what: str, limit_s: float
    ) -> Mapping[str, Any]:
        """Write a line, and read one; a process that does not answer is not asked again."""
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(limit_s):
                if asked is not None:
                    process.stdin.write(json.dumps(asked).encode() + b"\n")
                    await process.stdin.drain()
                answer = json.loads(await process.stdout.readuntil(b"\n"))
        except TimeoutError:
            await self._end()
            raise DnsProviderError(
                f"{what}: {self._service} by lego did not answer in {limit_s:g} s, and its process was ended",
                retryable=True,
            ) from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as e:
            await self._end()
            raise DnsProviderError(
                f"{what}: the process of {self._service} by lego ended: {type(e).__name__}", retryable=True
            ) from None
        except asyncio.CancelledError:
            await self._end()
            raise
        return answer if isinstance(answer, dict) else {}

    async def _end(self) -> None:
        process, self._process = self._process, None
        self._added.clear()
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    def _scrubbed(self, answer: Mapping[str, Any]) -> str:
        credentials = [value for value in self._environment.values() if len(value) >= SHORTEST]
        return scrub(str(answer.get("error", "nothing")), credentials)


def environment_of(text: str) -> Mapping[str, str]:
    """Read lines of ``NAME=VALUE``; empty ones and those that begin with ``#`` are passed over.

    Raises:
        ValueError: a line is none of these; says which, without its text.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not name.isidentifier() or not name.isascii():
            raise ValueError(f"line {number} must be NAME=VALUE")
        found[name] = value.strip().strip("\"'")
    return found
