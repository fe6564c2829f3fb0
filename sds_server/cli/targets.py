"""`certvoy targets`: who serves what, and where it can be proved."""

from typing import Final

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import age, facts, json_option, note, print_json, table
from sds_server.conditions import shared
from sds_server.model import TargetKind

FAILED: Final = 1


@click.group()
def targets() -> None:
    """Tell certvoy where proxies can be probed; without that nothing they serve can be proved."""


@targets.command()
@click.argument("name")
@click.option("--probe", metavar="HOST:PORT", help="Its TLS listener, at each address of HOST.")
@click.option(
    "--proxy-protocol/--no-proxy-protocol",
    default=None,
    help="Whether that listener wants the PROXY protocol before TLS; by default what is known, else not.",
)
@click.option(
    "--http3/--no-http3",
    default=None,
    help="Whether HTTP/3 is served there as well, and proved over QUIC; by default what is known, else not.",
)
@click.option(
    "--admin", metavar="HOST:PORT", help="Its Envoy's admin interface, asked where there is no --probe."
)
@click.option("--push", metavar="URL", help="Where its agent takes bundles: https://HOST:PORT.")
@click.option("--no-push", is_flag=True, help="Push to it no more; its agent fetches.")
@click.option(
    "--kind",
    help="envoy, nginx, haproxy, traefik, caddy or files; by default what is known or a pushed agent says, "
    "else envoy.",
)
@click.option("--identity", help="The SPIFFE URI, or dns:NAME, of its client certificate.")
@click.option("--node", "node_id", help="Its Envoy node.id; by default NAME where no identity is given.")
@click.option("--secret", "serves", multiple=True, help="A secret that it serves, seen subscribing or not.")
@json_option
@asks
def add(
    name: str,
    *,
    probe: str | None,
    proxy_protocol: bool | None,
    http3: bool | None,
    admin: str | None,
    push: str | None,
    no_push: bool,
    kind: str | None,
    identity: str | None,
    node_id: str | None,
    serves: tuple[str, ...],
    as_json: bool,
    api: Api,
) -> None:
    r"""Register the target NAME, or change where it is probed.

    \b
    certvoy targets add edge-1 --probe edge-1.example.com:443 --secret www
    """
    body = {
        "probe": probe,
        "proxy_protocol": proxy_protocol,
        "http3": http3,
        "admin": admin,
        "push": "" if no_push else push,
        "kind": kind,
        "identity": identity,
        "node_id": node_id,
        "secrets": list(serves),
    }
    target = api.put("v1", "targets", name, body=body)
    if as_json:
        print_json(target)
    elif target["probe"] is None and target["admin"] is None and target["kind"] != TargetKind.ENVOY:
        click.echo(f"target {name} is registered; without --probe what its agent sees is the proof")
    elif target["probe"] is None and target["admin"] is None:
        click.echo(f"target {name} is registered; without --probe nothing that it serves can be proved")
    elif target["probe"] is None:
        click.echo(f"target {name} is asked at {target['admin']}/certs")
    else:
        first = ", by the PROXY protocol first" if target["proxy_protocol"] else ""
        beside = ", and over QUIC" if target["http3"] else ""
        click.echo(f"target {name} is probed at {target['probe']}{first}{beside}")
    if target["push"] is not None and not as_json:
        click.echo(f"its bundles are pushed to {target['push']}; `certvoy targets test {name}` tries it")


@targets.command()
@click.argument("name")
@asks
def rm(name: str, *, api: Api) -> None:
    """Forget the target NAME; if it still subscribes it is seen again."""
    api.delete("v1", "targets", name)
    click.echo(f"target {name} is forgotten")


@targets.command()
@json_option
@asks
def ls(*, as_json: bool, api: Api) -> None:
    """List the targets."""
    found = list(api.pages("v1", "targets"))
    if as_json:
        print_json(found)
        return
    table(
        ("TARGET", "KIND", "ORIGIN", "PROBE", "PUSH", "SEEN", "SECRETS", "IDENTITY"),
        [
            (
                item["name"],
                item["kind"],
                "registered" if item["registered"] else "seen",
                item["probe"],
                item["push"],
                "never" if item["last_seen"] is None else f"{age(item['last_seen'])} ago",
                len(item["deliveries"]),
                item["identity"],
            )
            for item in found
        ],
    )


@targets.command()
@click.argument("name")
@json_option
@asks
def test(name: str, *, as_json: bool, api: Api) -> int:
    """Try the target NAME step by step, all but a new certificate; says what failed and what to do.

    Its grants; how it gets its bundles, with its program's own check of its files where it is pushed to; and
    what a handshake for each name shows. Exit code 0 only if nothing failed.
    """
    items = api.post("v1", "targets", name, "tests", repeat=True)["items"]
    if as_json:
        print_json(items)
    else:
        table(
            ("STEP", "SECRET", "RESULT", "DETAIL"),
            [(item["step"], item["secret"], item["result"], item["detail"]) for item in items],
        )
        for item in items:
            if item["result"] == "failed":
                note(f"{item['step']}: {item['hint']}")
    return FAILED if any(item["result"] == "failed" for item in items) else 0


@targets.command()
@click.argument("name")
@json_option
@asks
def show(name: str, *, as_json: bool, api: Api) -> None:
    """Show the target NAME and what it has."""
    target = api.get("v1", "targets", name)
    if as_json:
        print_json(target)
        return
    facts(
        {
            key: target[key]
            for key in ("name", "kind", "identity", "node_id", "probe", "admin", "push", "last_seen")
        }
        | {key: "yes" for key in ("proxy_protocol", "http3") if target[key]}
    )
    table(
        ("SECRET", "STATE", "WANTED", "SENT", "ACCEPTED", "PROVED", "AGE", "REASON"),
        [
            (
                item["secret"],
                item["state"],
                item["current"],
                item["sent"],
                item["accepted"],
                item["proved"],
                age(item["updated_at"]),
                item["reason"],
            )
            for item in target["deliveries"]
        ],
    )
    several = max((item["instances"] for item in target["deliveries"]), default=1)
    if several > 1:
        note(shared(several, target["node_id"]))
