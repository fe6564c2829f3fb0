"""Plain files, and commands of the user's own: for whatever has no installer here."""

from typing import Final

from sds_server.agent import command
from sds_server.agent.installers.installer import PROGRAM_TIMEOUT, Placed, Rejected
from sds_server.agent.pair import Pair
from sds_server.config.file import Model
from sds_server.config.values import Duration, Some
from sds_server.model import TargetKind


class FilesSettings(Model):
    """Files alone, and what is run when they have changed. No shell reads the commands."""

    check: Some[tuple[str, ...]] | None = None
    """A command, as a list, that judges the files before the program is told; a code other than 0 refuses."""

    command: Some[tuple[str, ...]] | None = None
    """A command, as a list, that makes the program read them; a code other than 0 refuses."""

    timeout: Duration = PROGRAM_TIMEOUT
    """How long each of them may take."""


class Files:
    """The files of one Secret, and the commands that belong to them."""

    kind: Final = TargetKind.FILES

    def __init__(self, settings: FilesSettings) -> None:
        self._settings = settings

    async def check(self, pair: Pair, at: Placed) -> None:
        """Run the command that judges, if there is one."""
        await self._run(self._settings.check, pair, at)

    async def load(self, pair: Pair, at: Placed) -> None:
        """Run the command that tells the program, if there is one."""
        await self._run(self._settings.command, pair, at)

    async def _run(self, argv: tuple[str, ...] | None, pair: Pair, at: Placed) -> None:
        if argv is None:
            return
        ran = await command.run(
            argv,
            timeout_s=self._settings.timeout.total_seconds(),
            env={
                "CERTVOY_SECRET": pair.secret,
                "CERTVOY_GENERATION": str(pair.generation),
                "CERTVOY_CERTIFICATE": str(at.certificate),
                "CERTVOY_KEY": str(at.key),
                "CERTVOY_COMBINED": str(at.combined),
            },
        )
        if not ran.ok:
            raise Rejected(ran.said)
