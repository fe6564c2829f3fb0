"""acme2certifier, a second ACME server with ARI, profiles and dns-persist-01, which Debian's Pebble lacks.

Its own CA (OpenSSL files), SQLite, no root. It validates for real: names are looked up at a DNS server of the
test's, HTTP-01 arrives at our responder in absolute form, as that is its HTTP_PROXY. What it does not have:
it takes any ``replaces``, and revocation does not move its ARI window.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sds_server.programs.child import Child, free_port
from tests.support import debian, pki, pypi

CA_IDENTITY = "a2c.test"
CLASSIC, SHORTLIVED = "classic", "shortlived"
LIFETIME_DAYS = {CLASSIC: 90, SHORTLIVED: 6}
ARI_FROM_PERCENT = 85.0
"""Where in a certificate's life its ARI window begins, by its own default; it ends with the certificate."""

ARI_LONG_PAST = -100.0
"""A life before the certificate's own begins."""

_CONFIGURATION = """\
[DEFAULT]
debug: True
dns_server_list: ["127.0.0.1"]

[DBhandler]
handler: wsgi
dbfile: {directory}/acme.db

[CAhandler]
multi_handler: True
default_handler: classic

[Challenge]
dns_persist_01_support: True
dns_persist_allow_policy_wildcard: True

[Directory]
caaidentities: ["{identity}"]

[Order]
profiles: {profiles}
profile_cahandler: {handlers}

[Renewalinfo]
renewalthreshold_pctg: {ari_from}
retry_after_timeout: {retry_after_s}
"""

_HANDLER = """
[CAhandler:{name}]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {directory}/issuing.key
issuing_ca_cert: {directory}/issuing.pem
issuing_ca_crl: {directory}/issuing.crl
cert_save_path: {directory}/certs
cert_validity_days: {days}
"""


class Acme2certifier:
    """A running server; ``dns_port`` is where it looks names up, ``http_port`` where it brings HTTP-01."""

    def __init__(
        self, directory: Path, *, dns_port: int, http_port: int | None = None, retry_after_s: int = 21600
    ) -> None:
        """Start it; `ready` says when it answers."""
        modules = pypi.directory("acme2certifier")
        self.http_port = http_port or free_port()
        self.port = free_port()
        self.directory_url = f"https://localhost:{self.port}/directory"
        self._directory = directory
        self._retry_after_s = retry_after_s
        self._log = directory / "acme2certifier.log"
        api = pki.authority("acme2certifier's API")
        self.ca_file = api.write(directory / "a2c-ca.pem")
        chain, key = api.issue(["localhost"], ips=["127.0.0.1"]).write(directory, "a2c-api")
        root = pki.authority("acme2certifier's root")
        self.roots_file = root.write(directory / "a2c-root.pem")
        issuing = root.intermediate("acme2certifier's issuing CA")
        (directory / "issuing.pem").write_bytes(issuing.pem)
        (directory / "issuing.key").write_bytes(pki.key_pem(issuing.key))
        (directory / "certs").mkdir(exist_ok=True)
        self._configure(renew_now=False)
        self._arguments = [self.port, chain, key, dns_port]
        self._environment = {
            "PYTHONPATH": str(modules),
            "PYTHONWARNINGS": "ignore",
            "HTTP_PROXY": f"http://127.0.0.1:{self.http_port}",
            "http_proxy": f"http://127.0.0.1:{self.http_port}",
            "NO_PROXY": "",
            "no_proxy": "",
            "ACME_SRV_CONFIGFILE": str(directory / "acme_srv.cfg"),
            "ACME2CERTIFIER_BASE_DIR": str(directory),
        }
        self._child = self._start()

    async def ready(self) -> None:
        """Wait until it hands out its directory."""
        await self._child.ready(self._answers)

    async def stop(self) -> None:
        """Stop it."""
        await self._child.stop()

    async def want_renewals(self, *, now: bool) -> None:
        """Have its ARI say of every certificate that it should be renewed at once; takes a restart."""
        await self.stop()
        self._configure(renew_now=now)
        self._child = self._start()
        await self.ready()

    async def directory(self) -> dict[str, Any]:
        """Return its directory."""
        tls = ssl.create_default_context(cafile=self.ca_file)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), trust_env=False) as session,
            session.get(self.directory_url) as response,
        ):
            document: dict[str, Any] = await response.json()
            return document

    def issued(self) -> int:
        """Count the certificates it ever issued."""
        return len(list((self._directory / "certs").iterdir()))

    def log(self) -> str:
        """Return what it logged."""
        return self._log.read_text()

    def _start(self) -> Child:
        program = Path(__file__).with_name("acme2certifier_server.py")
        # -P: not the program's own directory first, which has a module of the same name.
        command: list[str | Path] = [sys.executable, "-P", program, *map(str, self._arguments)]
        return Child("acme2certifier", command, log=self._log, env=self._environment)

    def _configure(self, *, renew_now: bool) -> None:
        common = _CONFIGURATION.format(
            directory=self._directory,
            identity=CA_IDENTITY,
            profiles=json.dumps({name: f"{days} days" for name, days in LIFETIME_DAYS.items()}),
            handlers=json.dumps({name: name for name in LIFETIME_DAYS}),
            ari_from=ARI_LONG_PAST if renew_now else ARI_FROM_PERCENT,
            retry_after_s=self._retry_after_s,
        )
        if renew_now:
            common += "renewal_window_duration: 1d\n"
        handlers = [
            _HANDLER.format(name=name, directory=self._directory, days=days)
            for name, days in LIFETIME_DAYS.items()
        ]
        written = self._directory / "acme_srv.cfg.new"
        written.write_text("".join([common, *handlers]))
        written.replace(self._directory / "acme_srv.cfg")

    async def _answers(self) -> bool:
        try:
            return bool(await self.directory())
        except aiohttp.ClientError:
            return False


def start(directory: Path, **settings: Any) -> Acme2certifier:
    """Start one and wait for it; skips the test, with the reason, where it cannot be had."""
    try:
        server = Acme2certifier(directory, **settings)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    asyncio.run(server.ready())
    return server
