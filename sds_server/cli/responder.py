"""`certvoy responder`: answer challenges, and nothing else."""

import asyncio
import os
import socket
from pathlib import Path

import click

from sds_server import log, responder
from sds_server.config.values import Listen, Wrong, listen_address
from sds_server.foundation import connect_arguments_in
from sds_server.systemd import Systemd


class _Address(click.ParamType[Listen]):
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Listen:
        try:
            return listen_address(value)
        except Wrong as e:
            self.fail(str(e), param, ctx)


@click.command(name="responder")
@click.option(
    "--database-file",
    type=click.Path(path_type=Path),
    required=True,
    help="A file with the URL of the database, for a login of the role DATABASE_responder.",
)
@click.option("--http01", type=_Address(), help="Answer HTTP-01 there, such as 0.0.0.0:80.")
@click.option("--tls-alpn01", type=_Address(), help="Answer TLS-ALPN-01 there.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--ports-file",
    type=click.Path(path_type=Path),
    help="Write the ports chosen, once ready: HTTP-01, TLS-ALPN-01; 0 for none.",
)
def command(
    *,
    database_file: Path,
    http01: Listen | None,
    tls_alpn01: Listen | None,
    log_level: str,
    ports_file: Path | None,
) -> None:
    """Answer the challenges of all control planes of a database, until SIGTERM.

    For `http01.listen: off` in certvoy.yaml: what faces the Internet is then a process and a user of its own,
    without KMS, and with a login that can read no key. Any number may run.
    """
    if http01 is None and tls_alpn01 is None:
        raise click.UsageError("nothing to answer: give --http01, --tls-alpn01, or both")
    log.configure(level=log_level, replica=socket.gethostname())
    systemd = Systemd.of(os.environ)

    def ready(http01_port: int | None, tls_alpn01_port: int | None) -> None:
        if ports_file is not None:
            partial = ports_file.with_suffix(".partial")
            partial.write_text(f"{http01_port or 0} {tls_alpn01_port or 0}\n")
            partial.replace(ports_file)
        systemd.ready()

    async def run() -> None:
        feeding = asyncio.create_task(systemd.feed_watchdog())
        try:
            await responder.answer(
                connect_arguments_in(database_file),
                http01=http01,
                tls_alpn01=tls_alpn01,
                on_ready=ready,
                on_stop=systemd.stopping,
            )
        finally:
            feeding.cancel()

    asyncio.run(run())
