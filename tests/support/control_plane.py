"""`certvoy serve` as a process of its own, as an operator runs it, on a test's database and ports."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from sds_server.programs.child import Child, free_port
from tests.support.keyscan_plugin import SCAN, here
from tests.support.pki import authority

SERVER_NAME = "control-plane.test"
HOST = "127.0.0.1"


def dsn(connect: Mapping[str, Any]) -> str:
    """The connection arguments as the URL that a configuration takes."""
    if "dsn" in connect:
        base, _, _ = connect["dsn"].rpartition("/")
        return f"{base}/{connect['database']}"
    return (
        f"postgresql://{connect['user']}:{connect['password']}@/{connect['database']}"
        f"?host={connect['host']}&port={connect['port']}"
    )


class ControlPlane:
    """Writes the configuration, starts and kills the process, runs commands beside it."""

    def __init__(self, directory: Path, *, database: str, http01_port: int | None = None) -> None:
        self.directory = directory
        self.config = directory / "certvoy.yaml"
        self.program = [sys.executable, "-m", "sds_server"]
        self.home = Path(__file__).parents[2]
        """Where the program is; another one's is another release."""

        self.sds_port = free_port()
        self.http01_port = http01_port or free_port()
        self.clients = authority("proxies")
        self.client_ca = self.clients.write(directory / "proxies.pem")
        certificate, key = self.clients.issue(dns=[SERVER_NAME]).write(directory, "control-plane")
        self.settings: dict[str, Any] = {
            "database": database,
            "state_dir": str(directory / "state"),
            "replica": "test",
            "issuers": {},
            "http01": {"listen": f"{HOST}:{self.http01_port}"},
            "sds": {
                "listen": f"{HOST}:{self.sds_port}",
                "certificate": str(certificate),
                "key": str(key),
                "client_ca": str(self.client_ca),
            },
            "rotation": {"settle": "100ms", "lease": "5s", "poll": "200ms"},
        }
        self.child: Child | None = None

    def issuer(self, directory_url: str, ca_file: Path, **more: Any) -> None:
        """Declare the issuer `internal`, and the secret `www` from it."""
        self.settings["issuers"]["internal"] = {"directory": directory_url, "ca_file": str(ca_file)} | more
        self.settings["secrets"] = {"www": {"domains": ["www.example.test"], "issuer": "internal"}}

    def write(self) -> None:
        self.config.write_text(yaml.safe_dump(self.settings))

    def launch(self, *more: str, env: Mapping[str, str] | None = None) -> Child:
        """Start the process without waiting for it; ``more`` are options of ``certvoy serve``."""
        self.write()
        (self.directory / "ready").unlink(missing_ok=True)
        arguments = ["serve", "--config", self.config, "--ports-file", self.directory / "ready", *more]
        self.child = Child(
            "certvoy",
            [*self.program, *arguments],
            log=self.directory / "certvoy.log",
            env=env,
            cwd=self.home,
            pdeathsig="KILL",  # a test freezes it; frozen, it would not take a TERM
        )
        return self.child

    async def start(self, *more: str) -> None:
        """Start the process and wait until it is ready; ``more`` are options of ``certvoy serve``."""
        child = self.launch(*more)

        async def answers() -> bool:
            return (self.directory / "ready").exists()

        await child.ready(answers, timeout_s=180)

    async def stop(self) -> int:
        """Stop it as an operator does, and return its exit code."""
        assert self.child is not None
        return await self.child.stop(timeout_s=30)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command beside it; returns the exit code and all that it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sds_server",
            *arguments,
            "--config",
            str(self.config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.home,
            env={**os.environ, "NO_COLOR": "1"},
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:  # a deadline of the test's
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        SCAN.look("commands", f"{here()}: certvoy {arguments[0]}", output)
        return process.returncode, output.decode()

    def log(self) -> str:
        return (self.directory / "certvoy.log").read_text()

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines of its log, read."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]


async def until(holds: Any, *, timeout_s: float = 180) -> None:
    """Wait until it holds, with a generous deadline."""
    async with asyncio.timeout(timeout_s):
        while not await holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def of_uploads(
    directory: Path, database: str, *, identity: str, names: Sequence[str]
) -> AsyncIterator[ControlPlane]:
    """Run one without a CA, for an Envoy that may see these names: pairs are uploaded.

    Targets are looked at every other moment, so that who looks wrongly finds them stale.
    """
    plane = ControlPlane(directory, database=database)
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings |= {"secrets": {}, "grants": [{"identity": identity, "names": list(names)}]}
    plane.settings["rotation"] |= {"watch": "500ms"}
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop()
