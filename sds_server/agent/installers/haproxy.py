"""HAProxy: by its runtime API, which costs no connection; where there is no socket, by a reload."""

import hashlib
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import Field, model_validator

from sds_server.agent import command
from sds_server.agent.installers.haproxy_socket import RuntimeApi
from sds_server.agent.installers.installer import PROGRAM_TIMEOUT, NotRunning, Placed, Rejected
from sds_server.agent.installers.master import tell
from sds_server.agent.pair import Pair
from sds_server.config.file import Model
from sds_server.config.values import Duration, FilePath, Some, Wrong
from sds_server.model import TargetKind

CRT_LIST_MAX: Final = 16 * 1024 * 1024


class HAProxySettings(Model):
    """HAProxy beside the agent."""

    command: Some[tuple[str, ...]] = ("haproxy", "-f", "/etc/haproxy/haproxy.cfg")
    """HAProxy with its configuration, as a list; `-c` is added, and it judges the files with it."""

    socket: FilePath | None = None
    """Its stats socket, of `level admin`: a new pair then costs no connection."""

    certificate: str | None = Field(default=None, min_length=1, pattern=r"^[^\s;<*\\]+$")
    """What its configuration calls the file; by default `current/combined.pem` in the directory, in full."""

    crt_list: FilePath | None = None
    """A crt-list in use: what HAProxy does not know is added to it, in memory and in the file."""

    reload: Some[tuple[str, ...]] | None = None
    """Without a socket: a command, as a list, that reloads HAProxy."""

    pid_file: FilePath | None = None
    """Without a socket: where the process id of the master (`-W`) lies; it is sent SIGUSR2."""

    timeout: Duration = PROGRAM_TIMEOUT
    """How long one call of a command may take."""

    @model_validator(mode="after")
    def _one_way(self) -> "HAProxySettings":
        ways = [name for name in ("socket", "reload", "pid_file") if getattr(self, name) is not None]
        if len(ways) != 1:
            what = f"has {' and '.join(ways)}" if ways else "does not say how HAProxy is told"
            raise Wrong(what, "write one of socket, reload, pid_file; a socket costs no connection")
        if self.crt_list is not None and self.socket is None:
            raise Wrong("crt_list is there without a socket", "write the path of HAProxy's stats socket")
        return self


class HAProxy:
    """One HAProxy, and one certificate of its configuration."""

    kind: Final = TargetKind.HAPROXY

    def __init__(self, settings: HAProxySettings) -> None:
        self._settings = settings

    async def check(self, pair: Pair, at: Placed) -> None:
        """Ask ``haproxy -c``, and let what runs parse the pair in a transaction that is given up."""
        await self._run([*self._settings.command, "-c"])
        if self._settings.socket is None:
            return
        api, name = RuntimeApi(self._settings.socket), self._name(at)
        with suppress(NotRunning):
            async with api.turn():
                if await api.known(name) is not None:
                    await api.set(name, pair.combined_pem)
                    await api.abort(name)

    async def load(self, pair: Pair, at: Placed) -> None:
        """Commit it over the socket and read it back; or reload, and what came of that a handshake shows."""
        if self._settings.socket is not None:
            await self._commit(RuntimeApi(self._settings.socket), self._name(at), pair)
        elif self._settings.reload is not None:
            await self._run(self._settings.reload)
        elif self._settings.pid_file is not None:
            await tell(self._settings.pid_file, signal.SIGUSR2, program="haproxy")

    async def _commit(self, api: RuntimeApi, name: str, pair: Pair) -> None:
        crt_list = self._settings.crt_list
        async with api.turn():
            if await api.known(name) is None:
                if crt_list is None:
                    raise Rejected(
                        f"HAProxy knows no certificate {name}:"
                        " name it so in a bind line and reload, or set crt_list"
                    )
                await api.new(name)
            await api.set(name, pair.combined_pem)
            await api.commit(name)
            if crt_list is not None:
                if not await api.lists(str(crt_list), name):
                    await api.add(str(crt_list), name)
                _keep(crt_list, name)
            held = await api.known(name)
        if held is None or held.sha1 != _sha1(pair):
            raise Rejected(f"HAProxy said yes to {name}, and holds another one")
        if not held.used:
            raise Rejected(f"HAProxy holds {name}, and no bind line uses it: name it in one, or set crt_list")

    async def _run(self, argv: Sequence[str]) -> None:
        ran = await command.run(argv, timeout_s=self._settings.timeout.total_seconds())
        if not ran.ok:
            raise Rejected(ran.said)

    def _name(self, at: Placed) -> str:
        return self._settings.certificate or str(at.combined)


def _sha1(pair: Pair) -> str:
    """Return the leaf's SHA-1, as HAProxy shows it: enough to tell two pairs apart, and no proof."""
    der = x509.load_pem_x509_certificate(pair.chain_pem).public_bytes(Encoding.DER)
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()


def _keep(crt_list: Path, name: str) -> None:
    """Add the certificate to the file, so that the next HAProxy knows it as well; one short write.

    Raises:
        Rejected: it cannot be written.
    """
    try:
        descriptor = os.open(crt_list, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            before = file.read(CRT_LIST_MAX)
            if any(line.split()[:1] == [name.encode()] for line in before.splitlines()):
                return
            gap = b"" if before.endswith(b"\n") or not before else b"\n"
            file.write(gap + name.encode() + b"\n")
            os.fsync(descriptor)
    except OSError as e:
        raise Rejected(f"{crt_list}: {e.strerror}: the agent has to add a line to it") from None
