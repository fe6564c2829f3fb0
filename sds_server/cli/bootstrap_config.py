"""`certvoy bootstrap-config`: an Envoy bootstrap that gets its certificates from here."""

from pathlib import Path

import click

from sds_server.errors import ConfigError
from sds_server.xds.bootstrap import Api, OnDemandListener, TlsListener, bootstrap
from sds_server.xds.cluster import Anywhere, EnrolledControlPlane, LocalControlPlane


@click.command("bootstrap-config")
@click.argument("name")
@click.option(
    "--server", metavar="HOST:PORT", help="The control plane's sds.listen; for --api rest, sds.rest."
)
@click.option("--server-name", help="The name in its certificate, if not HOST.")
@click.option("--credentials", type=click.Path(path_type=Path), help="The directory of certvoy agent.")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="A Unix socket of sds.sockets, in place of --server and --credentials.",
)
@click.option(
    "--api",
    type=click.Choice([api.value for api in Api]),
    default=Api.ADS.value,
    show_default=True,
    help="How Envoy asks: delta ADS, one stream for all secrets; delta SDS, a stream for each, beside "
    "another control plane's ADS; their state-of-the-world forms; or REST.",
)
@click.option(
    "--listener",
    "listeners",
    multiple=True,
    metavar="SECRET[,SECRET]=HOST:PORT",
    help="A TLS listener that answers 200, to begin with; with a second secret of the same names, whose key "
    "is of another type, each client is shown the one that it can take.",
)
@click.option(
    "--on-demand",
    "on_demand",
    multiple=True,
    metavar="HOST:PORT",
    help="The same, with the certificate of whatever name a client asks for: Envoy 1.37, delta alone.",
)
def bootstrap_config(
    name: str,
    *,
    server: str | None,
    server_name: str | None,
    credentials: Path | None,
    socket: Path | None,
    api: str,
    listeners: tuple[str, ...],
    on_demand: tuple[str, ...],
) -> None:
    r"""Print a bootstrap for the Envoy NAME, in JSON, for secrets only: delta ADS over mutual TLS.

    Its client certificate is what certvoy agent keeps in the directory, renewed without a restart. Beside
    certvoy itself a Unix socket needs none.

    \b
    certvoy bootstrap-config edge-1 --server certvoy.example.com:8443 --credentials ./edge-1 > envoy.json
    certvoy bootstrap-config edge-1 --socket /run/certvoy/edge-1.sock --listener www=0.0.0.0:443 > envoy.json
    certvoy bootstrap-config edge-1 --socket /run/certvoy/edge-1.sock --listener www,www-rsa=0.0.0.0:443
    """
    click.echo(
        bootstrap(
            node_id=name,
            cluster=name,
            api=Api(api),
            control_plane=_control_plane(Api(api), server, server_name, credentials, socket),
            listeners=[
                *(_listener(text) for text in listeners),
                *(_on_demand(text, Api(api)) for text in on_demand),
            ],
        )
    )


def _control_plane(
    api: Api, server: str | None, server_name: str | None, credentials: Path | None, socket: Path | None
) -> Anywhere:
    if socket is not None:
        if server is not None or credentials is not None or server_name is not None:
            raise ConfigError("--socket: needs no other way to certvoy", hint="give it alone")
        if api is Api.REST:
            raise ConfigError("--socket: REST is not served there", hint="--api ads")
        return LocalControlPlane(socket.absolute())
    if server is None or credentials is None:
        raise ConfigError(
            "--server and --credentials: how Envoy reaches certvoy, and its client certificate",
            hint="give both, or --socket for an Envoy beside certvoy",
        )
    host, port = _address("--server", server)
    return EnrolledControlPlane(
        host=host, port=port, server_name=server_name or host, credentials=credentials.absolute()
    )


def _listener(text: str) -> TlsListener:
    names, equals, address = text.partition("=")
    secret, *beside = names.split(",")
    if not all([secret, *beside]) or not equals:
        raise ConfigError(f"--listener: must be SECRET=HOST:PORT, got {text!r}", hint="www=0.0.0.0:443")
    host, port = _address("--listener", address)
    return TlsListener(name=f"{secret}-{port}", secret=secret, host=host, port=port, beside=tuple(beside))


def _on_demand(text: str, api: Api) -> OnDemandListener:
    if api not in {Api.ADS, Api.DELTA}:
        raise ConfigError(
            f"--on-demand: over --api {api} Envoy is never told that a name is absent, and its clients wait",
            hint="--api ads or --api delta",
        )
    host, port = _address("--on-demand", text)
    return OnDemandListener(name=f"on-demand-{port}", host=host, port=port)


def _address(option: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not host or "/" in host or not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ConfigError(f"{option}: must be HOST:PORT, got {text!r}", hint="certvoy.example.com:8443")
    return host.removeprefix("[").removesuffix("]"), int(port)
