"""`certvoy agent`: a proxy's own client certificate, and with `--config` the pairs that it serves."""

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

import click

from sds_server import log, memory
from sds_server.agent.agent import Agent, roots_of, token_of
from sds_server.agent.config import load
from sds_server.agent.credential import Keeper
from sds_server.agent.delivery import Outcome
from sds_server.agent.door import HttpsDoor
from sds_server.agent.files import CredentialFiles
from sds_server.cli.output import moment, note
from sds_server.clock import SystemClock
from sds_server.errors import DeliveryRefused
from sds_server.systemd import Systemd


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="agent.yaml: pairs, and who serves them.")
@click.option("--credentials", type=click.Path(path_type=Path), help="The directory to keep.")
@click.option("--server", help="The control plane: https://host:port of its admin.listen.")
@click.option("--token", envvar="CERTVOY_ENROL_TOKEN", help="From `certvoy proxies enroll`; needed once.")
@click.option("--token-file", type=click.Path(path_type=Path), help="A file that holds the token.")
@click.option(
    "--ca", type=click.Path(path_type=Path), help="Its roots, where its certificate is not of its own CA."
)
@click.option("--once", is_flag=True, help="Do what is due now, and end.")
def agent(
    *,
    config: Path | None,
    credentials: Path | None,
    server: str | None,
    token: str | None,
    token_file: Path | None,
    ca: Path | None,
    once: bool,
) -> None:
    r"""Keep a proxy's client certificate, and bring its secrets' pairs into nginx or any other program.

    Alone, an Envoy wants the client certificate only: enrol by the token, then renew for ever.

    \b
    certvoy agent --config /etc/certvoy/agent.yaml
    certvoy agent --credentials ./edge-1 --server https://certvoy.example.com:8445 --token-file token
    """
    if config is not None:
        if any(given is not None for given in (credentials, server, token_file, ca)):
            raise click.UsageError("--config holds all of it: write nothing beside it but --once")
        _with_pairs(config, token=token, once=once)
        return
    if credentials is None or server is None:
        raise click.UsageError(
            "name a file by --config; or --credentials and --server, for a credential alone"
        )
    files = CredentialFiles(credentials)
    door = HttpsDoor(server, roots=roots_of(ca))
    kept = Keeper(
        files,
        door,
        token=(token or "").strip() or token_of(token_file),
        token_file=token_file,
        clock=SystemClock(),
        rng=SystemRandom(),
    )
    _log_as(once=once)
    if once:
        wanted = asyncio.run(kept.once())
        note(f"the credential in {files.directory} is renewed after {moment(wanted.at.isoformat())}")
        return
    with suppress(KeyboardInterrupt):
        asyncio.run(kept.run(on_ready=Systemd.of(os.environ).ready))


def _with_pairs(path: Path, *, token: str | None, once: bool) -> None:
    config = load(path)
    _log_as(once=once, level=config.log)
    running = Agent(config, token=token, clock=SystemClock(), rng=SystemRandom())
    if not once:
        with suppress(KeyboardInterrupt):
            asyncio.run(running.run(on_ready=Systemd.of(os.environ).ready))
        return
    asyncio.run(running.once())
    for maker in running.makers:
        note(f"{maker.secret}: the next key is in its place")
    refused = []
    for puller in running.pullers:
        if puller.last is None:
            continue
        note(f"{puller.secret}: generation {puller.last.generation} is {puller.last.outcome}")
        if puller.last.outcome is Outcome.REFUSED:
            refused.append(f"{puller.secret}: {puller.last.reason}")
    if refused:
        raise DeliveryRefused("\n".join(refused), hint="the pairs before are served on: mend what it names")


def _log_as(*, once: bool, level: str = "info") -> None:
    log.configure(level="warning" if once else level, replica=socket.gethostname())
    if not once:  # what ends at once keeps nothing
        memory.guard()
