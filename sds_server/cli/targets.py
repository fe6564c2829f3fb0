"""`certvoy targets`: who serves what, and where it can be proved."""

from pathlib import Path

import click

from sds_server.cli.inventory import actor, ask, config_option
from sds_server.inventory import targets as inventory
from sds_server.model import Identity
from sds_server.targets.probe import split


@click.group()
def targets() -> None:
    """Tell certvoy where proxies can be probed; without that nothing they serve can be proved."""


@targets.command()
@click.argument("name")
@click.option("--probe", required=True, metavar="HOST:PORT", help="Its TLS listener.")
@click.option("--identity", help="The SPIFFE URI, or dns:NAME, of its client certificate.")
@click.option("--node", "node_id", help="Its Envoy node.id; by default NAME where no identity is given.")
@click.option("--secret", "serves", multiple=True, help="A secret that it serves, seen subscribing or not.")
@config_option
def add(  # noqa: PLR0917 - click passes them by name
    name: str, probe: str, identity: str | None, node_id: str | None, serves: tuple[str, ...], path: Path
) -> None:
    """Register the target NAME, or change where it is probed."""
    split(probe)
    ask(
        path,
        lambda database: inventory.register(
            database,
            name,
            probe=probe,
            identity=None if identity is None else Identity(identity),
            node_id=node_id,
            serves=serves,
            actor=actor(),
        ),
    )
    click.echo(f"target {name} is probed at {probe}")


@targets.command()
@click.argument("name")
@config_option
def rm(name: str, path: Path) -> None:
    """Forget the target NAME; if it still subscribes it is seen again."""
    ask(path, lambda database: inventory.remove(database, name, actor=actor()))
    click.echo(f"target {name} is forgotten")


@targets.command()
@config_option
def ls(path: Path) -> None:
    """List the targets."""
    for listed in ask(path, lambda database: inventory.page(database, after="", limit=1000)):
        target = listed.target
        seen = "never seen" if listed.last_seen is None else f"last seen {listed.last_seen:%FT%TZ}"
        origin = "registered" if target.registered else "seen"
        click.echo(f"{target.name}  {origin}  probe {target.probe or '-'}  {target.identity or '-'}  {seen}")
