"""nginx: judged by ``nginx -t``, told by a reload. Its workers go on with the old pair until they end."""

import signal
from typing import Final

from pydantic import StrictBool

from sds_server.agent import command
from sds_server.agent.installers.installer import PROGRAM_TIMEOUT, NotRunning, Placed, Rejected
from sds_server.agent.installers.master import tell
from sds_server.agent.pair import Pair
from sds_server.config.file import Model
from sds_server.config.values import Duration, FilePath, Some
from sds_server.model import TargetKind

_ABSENT: Final = ("invalid PID number", ".pid", "(3: No such process)")
"""How ``nginx -s reload`` says that nobody runs: no pid file, an empty one, or one of what is gone."""


class NginxSettings(Model):
    """nginx beside the agent."""

    command: Some[tuple[str, ...]] = ("nginx",)
    """How nginx is called, as a list: with ``-c FILE`` where its configuration is not the usual one."""

    pid_file: FilePath | None = None
    """Where the master's process id lies: then it is sent SIGHUP; else ``nginx -s reload`` is run."""

    reload: StrictBool = True
    """Whether it must be told. Not where ``ssl_certificate`` holds a variable: then files are read anew each
    time."""

    timeout: Duration = PROGRAM_TIMEOUT
    """How long one call of it may take."""


class Nginx:
    """One nginx, with all that its configuration names."""

    kind: Final = TargetKind.NGINX

    def __init__(self, settings: NginxSettings) -> None:
        self._settings = settings

    async def check(self, pair: Pair, at: Placed) -> None:  # noqa: ARG002
        """Let ``nginx -t`` read its configuration, and with it the files."""
        ran = await self._run("-t")
        if not ran.ok:
            raise Rejected(ran.said)

    async def load(self, pair: Pair, at: Placed) -> None:  # noqa: ARG002
        """Reload. That it was told is all that is known then: a handshake shows what came of it."""
        if not self._settings.reload:
            return
        if self._settings.pid_file is not None:
            await tell(self._settings.pid_file, signal.SIGHUP, program="nginx")
            return
        ran = await self._run("-s", "reload")
        if not ran.ok:
            raise (NotRunning if any(sign in ran.said for sign in _ABSENT) else Rejected)(ran.said)

    async def _run(self, *more: str) -> command.Ran:
        return await command.run(
            [*self._settings.command, *more], timeout_s=self._settings.timeout.total_seconds()
        )
