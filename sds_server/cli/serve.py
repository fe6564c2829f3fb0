"""`certvoy serve`: run the control plane."""

import asyncio
import gc
import os
from functools import partial
from pathlib import Path

import click

from sds_server import app, log, memory
from sds_server.config.certvoy_yaml import load
from sds_server.systemd import Systemd


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default="certvoy.yaml", show_default=True)
@click.option(
    "--ports-file",
    type=click.Path(path_type=Path),
    help="Write the ports chosen, once ready: SDS HTTP-01, then those of API, health and REST, 0 for none.",
)
@click.option(
    "--acknowledge-fork",
    "accept_fork",
    is_flag=True,
    help="Go on although the audit is not the one witnessed here: you restored a backup. It is audited.",
)
def serve(path: Path, ports_file: Path | None, *, accept_fork: bool) -> None:
    """Run the control plane until SIGTERM. At SIGHUP it reads sds.deny again."""
    # What was imported is no garbage: to find that out holds the loop for 45 ms at each full collection.
    gc.freeze()
    config = load(path)
    log.configure(level=config.log.level, replica=config.replica)
    memory.guard()

    systemd = Systemd.of(os.environ)

    def ready(addresses: app.Addresses) -> None:
        if ports_file is not None:
            partial = ports_file.with_suffix(".partial")
            ports = [addresses.sds_port, addresses.http01_port, addresses.admin_port]
            ports += [addresses.probes_port, addresses.rest_port]
            partial.write_text(" ".join(str(port or 0) for port in ports) + "\n")
            partial.replace(ports_file)
        systemd.ready()

    async def run() -> None:
        feeding = asyncio.create_task(systemd.feed_watchdog())
        try:
            await app.serve(
                config,
                on_ready=ready,
                on_stop=systemd.stopping,
                reload=partial(load, path),
                accept_fork=accept_fork,
            )
        finally:
            feeding.cancel()

    asyncio.run(run())
