"""A program run once: an argument list, never a shell; bounded in time and in what it may say."""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from sds_server.programs.child import die_with_parent
from sds_server.xds.scrub import scrub

TIMEOUT_S: Final = 30.0
OUTPUT_MAX: Final = 16 * 1024
"""Of the end of what it says: the reason comes last."""

LINGER_S: Final = 0.5
"""How long output is waited for after it has ended: what it left running may hold the pipe open."""

KILLED_S: Final = 5.0
"""How long the end of one that was killed is waited for: not for ever, as it may be none of ours to kill."""

UNSAID: Final = "CERTVOY_"
"""Our own settings, a token among them, are not for programs that we start."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How it ended. ``said`` is one line, scrubbed; ``code`` is None where it never ran or was killed."""

    code: int | None
    said: str
    output: bytes = field(default=b"", repr=False)

    @property
    def ok(self) -> bool:
        """It ended with code 0."""
        return self.code == 0


async def run(
    argv: Sequence[str], *, timeout_s: float = TIMEOUT_S, env: Mapping[str, str] | None = None
) -> Ran:
    """Run it to its end; what goes wrong is in the answer. Cancelled, or too slow, its whole group is killed.

    ``env`` is added to ours; messages are asked for in English. ``output`` is the end of both its streams, as
    it was.
    """
    program = shutil.which(argv[0])
    if program is None:
        return Ran(None, f"{argv[0]}: there is no such program")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(UNSAID)}
    try:
        reading, writing = os.pipe()
    except OSError as e:  # too many files are open
        return Ran(None, f"{argv[0]}: {e.strerror}")
    output = _Output()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: output, os.fdopen(reading, "rb", buffering=0)
    )
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *die_with_parent(),
                program,
                *argv[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env={**inherited, "LC_ALL": "C", **(env or {})},
                start_new_session=True,
            )
        except OSError as e:
            return Ran(None, f"{argv[0]}: {e.strerror}")
        finally:
            os.close(writing)
        try:
            async with asyncio.timeout(timeout_s):
                code = await process.wait()
        except TimeoutError:
            return Ran(
                None, f"{argv[0]} did not end within {timeout_s:g} s: {output.line}", bytes(output.kept)
            )
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):  # by sudo it is root's
                    os.killpg(process.pid, signal.SIGKILL)
                with suppress(TimeoutError):
                    async with asyncio.timeout(KILLED_S):
                        await process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await output.ended.wait()
    finally:
        transport.close()
    return Ran(code, output.line or f"{argv[0]} ended with code {code} and said nothing", bytes(output.kept))


class _Output(asyncio.Protocol):
    """The end of what comes out of a pipe."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.ended = asyncio.Event()

    @property
    def line(self) -> str:
        """One line of it: a program's reason may stand on any of those that it wrote."""
        return scrub(" ".join(self.kept.decode(errors="replace").split()))

    def data_received(self, data: bytes) -> None:
        """Keep the end."""
        self.kept += data
        del self.kept[:-OUTPUT_MAX]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Nothing more comes."""
        self.ended.set()
