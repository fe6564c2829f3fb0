"""What commands say of what is no certificate, and how they wait for it."""

import time
from datetime import timedelta
from typing import Final

import click

from sds_server.cli.api import Api, Json
from sds_server.cli.output import moment, print_json
from sds_server.cli.wait import NotDone
from sds_server.errors import TimedOut

LOOK_EVERY_S: Final = 0.3


def payload_facts(payload: Json) -> dict[str, object]:
    """Return the facts of a payload, by their names."""
    facts: dict[str, object] = {"generation": payload["generation"]}
    if (bundle := payload["bundle"]) is not None:
        for ca in bundle["cas"]:
            ends = moment(ca["not_after"])
            facts[f"ca {ca['fingerprint']}"] = f"{ca['subject']}, valid until {ends}"
        facts["crls"] = bundle["crls"].count("BEGIN X509 CRL")
        if bundle["sans"]:
            facts["sans"] = ", ".join(f"{s['type']} {s['match']} {s['value']}" for s in bundle["sans"])
    if (tickets := payload["tickets"]) is not None:
        facts["keys"] = tickets["keys"]
        if tickets["next_at"] is not None:
            every = timedelta(seconds=tickets["rotate_every_s"])
            facts["next key"] = f"{moment(tickets['next_at'])}, every {every}, {tickets['keep']} kept"
    if payload["values"]:
        facts["values"] = ", ".join(payload["values"])
    return facts


def taken(evidence: Json) -> str:
    """Say what the end of a roll-out rests on."""
    proved = sum(evidence["proved"].values())
    return f"of {evidence['targets']} targets {proved} proved, {evidence['accepted']} accepted"


def told(api: Api, secret: Json, *, timeout: timedelta | None, as_json: bool, to_come: bool = False) -> None:
    """Say that a version goes out; ``timeout``: wait until every target of the live set has taken it.

    ``to_come``: it is the one after those that there are.

    Raises:
        TimedOut: one has not yet.
        NotDone: it was refused and taken back.
    """
    if timeout is not None:
        secret = _waited(api, secret, timeout, to_come=to_come)
    if as_json:
        print_json(secret)
        return
    versions = secret["payload"]["versions"]
    if not versions:
        click.echo(f"{secret['name']} is a {secret['kind']}; its first version is being made")
        return
    if to_come and timeout is None:
        name = secret["name"]
        click.echo(f"the next version of {name} is being made; `certvoy why {name}` says who has it")
        return
    version = versions[0]
    said = f"{secret['name']} is a {secret['kind']}, generation {version['generation']}"
    if version["evidence"]:
        click.echo(f"{said}: {taken(version['evidence'])}")
    else:
        click.echo(f"{said}, which goes out; `certvoy why {secret['name']}` says who has it")


def _waited(api: Api, secret: Json, timeout: timedelta, *, to_come: bool) -> Json:
    until = time.monotonic() + timeout.total_seconds()
    last = max((version["generation"] for version in secret["payload"]["versions"]), default=0)
    wanted = last + 1 if to_come else max(last, 1)
    while True:
        for version in secret["payload"]["versions"]:
            if version["generation"] == wanted and version["outcome"] == "rejected":
                raise NotDone(version["error"]["what"], hint=version["error"]["hint"])
            if version["generation"] >= wanted and version["outcome"] not in {None, "superseded"}:
                return secret
        if time.monotonic() >= until:
            raise TimedOut(
                f"{secret['name']}: not with every target within {timeout.total_seconds():g} s",
                hint=f"it goes on without us: `certvoy why {secret['name']}` says how it goes",
            )
        time.sleep(LOOK_EVERY_S)
        secret = api.get("v1", "secrets", secret["name"])
