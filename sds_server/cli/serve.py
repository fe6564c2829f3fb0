"""`certvoy serve`: run the control plane."""

import asyncio
import os
import socket
from pathlib import Path

import click

from sds_server import app, log
from sds_server.config import load


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default="certvoy.yaml", show_default=True)
@click.option(
    "--ports-file",
    type=click.Path(path_type=Path),
    help="Write the ports chosen, once ready: SDS HTTP-01, then those of API and health, 0 for none.",
)
def serve(path: Path, ports_file: Path | None) -> None:
    """Run the control plane until SIGTERM."""
    config = load(path)
    log.configure(level=config.log.level, replica=config.replica)

    def ready(addresses: app.Addresses) -> None:
        if ports_file is not None:
            partial = ports_file.with_suffix(".partial")
            ports = [addresses.sds_port, addresses.http01_port, addresses.admin_port, addresses.probes_port]
            partial.write_text(" ".join(str(port or 0) for port in ports) + "\n")
            partial.replace(ports_file)
        _notify_systemd("READY=1")

    asyncio.run(app.serve(config, on_ready=ready))


def _notify_systemd(state: str) -> None:
    """Tell systemd (sd_notify(3)), where it started us with ``Type=notify``."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send(state.encode())
