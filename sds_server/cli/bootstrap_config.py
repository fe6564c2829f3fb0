"""`certvoy bootstrap-config`: an Envoy bootstrap that gets its certificates from here."""

from pathlib import Path

import click

from sds_server.errors import ConfigError
from sds_server.xds.bootstrap import Api, EnrolledControlPlane, TlsListener, bootstrap


@click.command("bootstrap-config")
@click.argument("name")
@click.option("--server", required=True, metavar="HOST:PORT", help="The control plane's sds.listen.")
@click.option("--server-name", help="The name in its certificate, if not HOST.")
@click.option(
    "--credentials", type=click.Path(path_type=Path), required=True, help="The directory of certvoy agent."
)
@click.option(
    "--listener",
    "listeners",
    multiple=True,
    metavar="SECRET=HOST:PORT",
    help="A TLS listener that answers 200, to begin with.",
)
def bootstrap_config(
    name: str, *, server: str, server_name: str | None, credentials: Path, listeners: tuple[str, ...]
) -> None:
    r"""Print a bootstrap for the Envoy NAME, in JSON: delta ADS over mutual TLS, for secrets only.

    Its client certificate is what certvoy agent keeps in the directory, renewed without a restart.

    \b
    certvoy bootstrap-config edge-1 --server certvoy.example.com:8443 --credentials ./edge-1 > envoy.json
    """
    host, port = _address("--server", server)
    click.echo(
        bootstrap(
            node_id=name,
            cluster=name,
            api=Api.ADS,
            control_plane=EnrolledControlPlane(
                host=host, port=port, server_name=server_name or host, credentials=credentials.absolute()
            ),
            listeners=[_listener(text) for text in listeners],
        )
    )


def _listener(text: str) -> TlsListener:
    secret, equals, address = text.partition("=")
    if not secret or not equals:
        raise ConfigError(f"--listener: must be SECRET=HOST:PORT, got {text!r}", hint="www=0.0.0.0:443")
    host, port = _address("--listener", address)
    return TlsListener(name=f"{secret}-{port}", secret=secret, host=host, port=port)


def _address(option: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not host or not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ConfigError(f"{option}: must be HOST:PORT, got {text!r}", hint="certvoy.example.com:8443")
    return host.removeprefix("[").removesuffix("]"), int(port)
