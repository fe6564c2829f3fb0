"""A real Traefik of PyPI on loopback, whose ping answers over TLS."""

import sys
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from sds_server.programs.child import Child, free_port

HOST = "127.0.0.1"
PROGRAM = Path(sys.executable).parent / "traefik"

ROUTE: dict[str, Any] = {
    "http": {
        "routers": {
            "hello": {
                "rule": "PathPrefix(`/`)",
                "service": "ping@internal",
                "entryPoints": ["websecure"],
                "tls": {},
            }
        }
    }
}
"""Its own answer to every request."""


class Traefik:
    """One Traefik; ``providers`` beside the file provider, which watches the directory ``dynamic``."""

    def __init__(self, directory: Path, **providers: Any) -> None:
        self.directory, self.port, api_port = directory, free_port(), free_port()
        self.dynamic = directory / "dynamic"
        self.dynamic.mkdir()
        (self.dynamic / "route.yml").write_text(yaml.safe_dump(ROUTE))
        self.api = f"http://{HOST}:{api_port}"
        self.config = directory / "traefik.yml"
        self.settings: dict[str, Any] = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "log": {"level": "INFO"},
            "api": {"insecure": True},
            "ping": {},
            "entryPoints": {
                "websecure": {"address": f"{HOST}:{self.port}"},
                "traefik": {"address": f"{HOST}:{api_port}"},
            },
            "providers": {
                "providersThrottleDuration": "100ms",
                "file": {"directory": str(self.dynamic)},
                **providers,
            },
        }
        self.child: Child | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        self.config.write_text(yaml.safe_dump(self.settings))
        self.child = Child(
            "traefik",
            [PROGRAM, f"--configFile={self.config}"],
            log=self.directory / "traefik.log",
        )

        async def answers() -> bool:
            try:
                async with (
                    aiohttp.ClientSession(trust_env=False) as session,
                    session.get(f"{self.api}/api/http/routers/hello@file") as answer,
                ):
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await self.child.ready(answers)

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()
            self.child = None
