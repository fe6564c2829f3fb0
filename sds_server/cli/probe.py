"""`certvoy probe`: what is served, looked at now."""

import asyncio
from typing import Final

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import json_option, print_json, short, table
from sds_server.targets.places import shown
from sds_server.targets.probe import ProbeFailed, Way, served_fingerprint, split

FAILED: Final = 1


@click.command()
@click.argument("what", metavar="NAME|HOST:PORT")
@click.option("--server-name", help="The name to ask HOST:PORT for; HOST by default.")
@click.option("--proxy-protocol", is_flag=True, help="HOST:PORT wants the PROXY protocol before TLS.")
@click.option("--http3", is_flag=True, help="HOST:PORT serves HTTP/3 as well: ask it over QUIC too.")
@click.option("--target", help="Only this target of the secret NAME.")
@json_option
@asks
def probe(
    what: str,
    *,
    server_name: str | None,
    proxy_protocol: bool,
    http3: bool,
    target: str | None,
    as_json: bool,
    api: Api,
) -> int:
    r"""Handshake with each target of the secret NAME, or with HOST:PORT, and say what is served.

    A target without an address of its listener is asked through its Envoy's admin interface. OK, EXPIRING,
    EXPIRED, STALE (an older one of ours), FOREIGN (never ours), UNREACHABLE, UNPROBED (no address is known).
    Exit code 0 only if all is OK.

    \b
    certvoy probe www
    certvoy probe edge-1.example.com:443 --server-name www.example.com
    """
    if ":" in what:
        way = Way(what, proxy_protocol=proxy_protocol, http3=http3)
        items = _endpoint(api, way, server_name or split(what)[0])
    else:
        items = _secret(api, what, target)
    if as_json:
        print_json(items)
    else:
        table(
            ("TARGET", "NAME", "VERDICT", "LEAF", "REASON"),
            [
                (
                    item["target"],
                    item["server_name"],
                    item["verdict"].upper(),
                    short(item["fingerprint"]),
                    item["reason"],
                )
                for item in items
            ],
        )
    return 0 if items and all(item["verdict"] == "ok" for item in items) else FAILED


def _secret(api: Api, name: str, target: str | None) -> list[Json]:
    found: list[Json] = api.post("v1", "secrets", name, "probes", repeat=True, target=target)["items"]
    return found


def _endpoint(api: Api, way: Way, server_name: str) -> list[Json]:
    """Handshake from here with each place that it leads to, and ask the inventory whose leaf each shows."""
    address = way.address
    item: Json = {"target": address, "probe": address, "server_name": server_name, "fingerprint": None}
    try:
        looks = asyncio.run(shown(way, lambda each: served_fingerprint(each, server_name)))
    except ProbeFailed as e:
        looks = {address: e}
    if len({str(look) for look in looks.values()}) == 1 and not way.http3:
        looks = {address: next(iter(looks.values()))}
    return [_judged(api, item | {"target": place}, look) for place, look in looks.items()]


def _judged(api: Api, item: Json, fingerprint: str | ProbeFailed) -> Json:
    if isinstance(fingerprint, ProbeFailed):
        return item | {"verdict": "unreachable", "reason": str(fingerprint)}
    known = list(api.pages("v1", "certificates", fingerprint=fingerprint))
    item |= {"fingerprint": fingerprint}
    if not known:
        return item | {"verdict": "foreign", "reason": "certvoy never issued this leaf"}
    (leaf,) = known
    reason = f"{leaf['secret']}, generation {leaf['generation']}"
    if leaf["status"] in {"issued", "active", "expiring_soon", "rotating"}:
        return item | {"verdict": "ok", "reason": reason}
    verdict = "expired" if leaf["status"] == "expired" else "stale"
    return item | {"verdict": verdict, "reason": f"{reason}: {leaf['status']}"}
