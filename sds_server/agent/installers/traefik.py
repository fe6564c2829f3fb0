"""Traefik: a dynamic configuration file of our own with the pair inline, which its file provider watches.

Traefik watches the file and not what it points to, so a change of PEM files alone does nothing. And given a
pair that it cannot use it drops the one that it has: whatever can be refused is refused before.
"""

import asyncio
import json
import os
import secrets
import stat
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Final

import aiohttp
from pydantic import AfterValidator

from sds_server.agent.installers.installer import NotRunning, Placed, Rejected
from sds_server.agent.pair import Pair
from sds_server.config.file import Model
from sds_server.config.values import Duration, FilePath, HttpUrl, Wrong
from sds_server.model import TargetKind

MARK: Final = "# Written by certvoy agent, and written anew for each certificate.\n"
"""The first line: a file without it is somebody else's."""

SUFFIXES: Final = frozenset({".yml", ".yaml"})
"""What Traefik reads of a directory."""

ANSWER_S: Final = 5.0
SAID_MAX: Final = 2048
POLL_S: Final = 0.1


def _dynamic(path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise Wrong(f"must end in .yml or .yaml, got {path.name}", "Traefik reads no other of a directory")
    return path


DynamicFile = Annotated[FilePath, AfterValidator(_dynamic)]


class TraefikSettings(Model):
    """Traefik beside the agent."""

    file: DynamicFile
    """A dynamic configuration file, .yml or .yaml, of the agent's own, where the file provider watches."""

    api: HttpUrl | None = None
    """Where Traefik's API is (`http://127.0.0.1:8080`): it is asked whether it has the certificate."""

    within: Duration = timedelta(seconds=10)
    """How long that may take; Traefik bundles changes for `providersThrottleDuration`, 2 s unless set."""


class Traefik:
    """One file of one Traefik."""

    kind: Final = TargetKind.TRAEFIK

    def __init__(self, settings: TraefikSettings) -> None:
        self._settings = settings

    async def check(self, pair: Pair, at: Placed) -> None:  # noqa: ARG002 - Traefik has no check to ask
        """Look at the file's place alone: there is nothing of Traefik's that judges a pair."""
        path = self._settings.file
        try:
            # Not blocking: a pipe with nobody at its other end is opened at once.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
                ours = stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(MARK)) == MARK
        except FileNotFoundError:
            ours = True
        except OSError as e:
            raise Rejected(f"{path}: {e.strerror}: a file of the agent's own is wanted") from None
        if not ours:
            raise Rejected(f"{path}: somebody else wrote it: give the agent a file of its own")

    async def load(self, pair: Pair, at: Placed) -> None:
        """Replace the file in one step, and see that Traefik has taken it where its API is known."""
        await self.check(pair, at)
        try:
            _replace(self._settings.file, _content(pair), like=at.key.stat())
        except OSError as e:
            raise Rejected(f"{self._settings.file}: {e.strerror}") from None
        if self._settings.api is not None:
            await _seen(self._settings.api, pair, within_s=self._settings.within.total_seconds())


def _content(pair: Pair) -> bytes:
    """Return the dynamic configuration; JSON's strings are YAML's, and PEM holds nothing of a template's."""
    certificate = {"certFile": pair.chain_pem.decode(), "keyFile": pair.key_pem.reveal().decode()}
    return (MARK + json.dumps({"tls": {"certificates": [certificate]}}, indent=2) + "\n").encode()


def _replace(path: Path, content: bytes, *, like: os.stat_result) -> None:
    """Write beside it, under a name that Traefik does not read, then rename; for who may read the key."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    partial = f".{path.name}.{secrets.token_hex(8)}.partial"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for left in os.listdir(directory):  # noqa: PTH208 - a descriptor is listed
            if left.startswith(f".{path.name}.") and left.endswith(".partial"):
                os.unlink(left, dir_fd=directory)  # of an agent that was killed; it holds a key
        with os.fdopen(os.open(partial, flags, 0o600, dir_fd=directory), "wb") as file:
            if like.st_gid != os.fstat(file.fileno()).st_gid:
                os.fchown(file.fileno(), -1, like.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=directory)
        raise
    finally:
        os.close(directory)


async def _seen(api: str, pair: Pair, *, within_s: float) -> None:
    """Ask Traefik until it has the certificate.

    Raises:
        Rejected: it has not in time.
        NotRunning: nobody answers.
    """
    answered = False
    url = f"{api}/api/certificates/{pair.fingerprint}"
    try:
        async with (
            asyncio.timeout(within_s),
            aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(ANSWER_S)) as session,
        ):
            while not await _has(session, url):
                answered = True
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        if not answered:
            raise NotRunning(f"{api}: Traefik does not answer") from None
        raise Rejected(
            f"Traefik has not taken it within {within_s:g} s:"
            " does its file provider watch the file, and what does its log say?"
        ) from None
    except (aiohttp.ClientError, OSError) as e:
        raise NotRunning(f"{api}: {e}") from None


async def _has(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status == HTTPStatus.OK:
            return True
        said = (await answer.content.read(SAID_MAX)).decode(errors="replace")
    if answer.status == HTTPStatus.NOT_FOUND and "certificate not found" in said:
        return False
    raise Rejected(
        f"{url}: HTTP {answer.status}: {said}: Traefik tells of certificates from 3.7 on; leave `api` out"
    )
