"""`certvoy agent`: a proxy's own client certificate, got once by a token and renewed before it ends."""

import asyncio
import http.client
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from urllib.parse import urlsplit

import click
from cryptography import x509

from sds_server import authority, log
from sds_server.agent.credential import Agent, Given
from sds_server.agent.files import CredentialFiles, Held
from sds_server.cli.api import Api, Json, Lost
from sds_server.cli.output import moment, note
from sds_server.clock import SystemClock
from sds_server.errors import ConfigError, Unavailable
from sds_server.systemd import Systemd


@click.command()
@click.option("--credentials", type=click.Path(path_type=Path), required=True, help="The directory to keep.")
@click.option("--server", required=True, help="The control plane: https://host:port of its admin.listen.")
@click.option("--token", envvar="CERTVOY_ENROL_TOKEN", help="From `certvoy proxies enroll`; needed once.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token.")
@click.option(
    "--ca", type=click.Path(path_type=Path), help="Its roots, where its certificate is not of its own CA."
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
def agent(
    *,
    credentials: Path,
    server: str,
    token: str | None,
    token_file: Path | None,
    ca: Path | None,
    once: bool,
) -> None:
    r"""Keep a proxy's client certificate in a directory: enrol by the token, then renew for ever.

    \b
    certvoy agent --credentials ./edge-1 --server https://certvoy.example.com:8445 --token-file token
    """
    files = CredentialFiles(credentials)
    door = HttpsDoor(server, _read(ca))
    token = token or (None if token_file is None else _read(token_file))
    kept = Agent(files, door, token=token.strip() if token else None, clock=SystemClock(), rng=SystemRandom())
    log.configure(level="warning" if once else "info", replica=socket.gethostname())
    if once:
        wanted = asyncio.run(kept.once())
        note(f"the credential in {files.directory} is renewed after {moment(wanted.at.isoformat())}")
        return
    with suppress(KeyboardInterrupt):
        asyncio.run(kept.run(on_ready=Systemd.of(os.environ).ready))


class HttpsDoor:
    """The control plane over HTTPS: known by its own CA, whose digest is in the token, or by ``roots``."""

    def __init__(self, url: str, roots: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError(f"--server: must be https://host:port, got {url!r}", hint="as in admin.listen")
        self._url, self._host, self._port = url, parts.hostname, parts.port or 443
        self._roots = roots

    async def enroll(self, token: str, csr: str) -> Given:
        """Ask for the first credential, of the server that the token is of."""
        return await asyncio.to_thread(self._enroll, token, csr)

    async def renew(self, held: Held, csr: str) -> Given:
        """Ask for the next one, with the one that is held."""
        return await asyncio.to_thread(self._renew, held, csr)

    def _enroll(self, token: str, csr: str) -> Given:
        wanted = authority.ca_digest_of(token)
        if wanted is None:
            raise ConfigError("this is no enrolment token", hint="`certvoy proxies enroll NAME` prints one")
        roots = self._roots if self._roots is not None else self._introduced(wanted)
        return self._given(_trusting(roots), "enrolments", {"token": token, "csr": csr})

    def _renew(self, held: Held, csr: str) -> Given:
        certificate, key, authorities = held.paths
        context = _trusting(authorities.read_text())
        context.load_cert_chain(certificate, key)
        return self._given(context, "credentials", {"csr": csr})

    def _given(self, context: ssl.SSLContext, path: str, body: Json) -> Given:
        try:
            answer = self._api(context).post("v1", path, body=body, repeat=True)
        except Lost as e:
            raise Unavailable(e.message, hint="it is asked again") from e  # the same key may
        return Given(answer["certificate"], (self._roots or "") + answer["authorities"])

    def _introduced(self, wanted: str) -> str:
        """Return the CA of this digest: whoever answers, nothing else than its certificate is believed."""
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        answer = self._api(nobody).get("v1", "authorities")
        try:
            offered = x509.load_pem_x509_certificates(str(answer["authorities"]).encode())
        except (KeyError, TypeError, ValueError):
            offered = []
        known = [ca for ca in offered if authority.digest(ca) == wanted]
        if not known:
            raise ConfigError(
                f"{self._url} does not show the CA that the token is of: is this another server?",
                hint="check --server, and make a token there: `certvoy proxies enroll NAME`",
            )
        return authority.pem(known)

    def _api(self, context: ssl.SSLContext) -> Api:
        return Api(
            lambda timeout_s: http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=context
            ),
            where=self._url,
            start="is it there, with `admin.listen` set, and its certificate for that name?",
        )


def _trusting(roots: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=roots)
    except ssl.SSLError as e:
        raise ConfigError(f"the roots to trust cannot be read: {e}", hint="name a PEM file by --ca") from e
    return context


def _read(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {path}: {e}", hint="name a file that exists") from e
