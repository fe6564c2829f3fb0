"""`certvoy revoke`: let the CA say that a certificate, or all of it, is not to be trusted any more."""

import time
from datetime import timedelta
from typing import Final

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.mass_revocation import revoke_all
from sds_server.cli.output import json_option, note, print_json
from sds_server.cli.wait import follow, timeout_option
from sds_server.errors import CallerError, TimedOut

LOOK_EVERY_S: Final = 0.5
REASONS: Final = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
)


@click.command()
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All that --issuer has issued and that is served.")
@click.option("--issuer", help="With --all: whose certificates.")
@click.option("--dry-run", is_flag=True, help="With --all, as a drill: replace all, and revoke nothing.")
@click.option("--generation", type=click.IntRange(1), help="The one that is served by default.")
@click.option("--reason", type=click.Choice(REASONS), default="superseded", show_default=True)
@click.option("--now", is_flag=True, help="Ask the CA at once, also for what is served: its key is lost.")
@click.option("--wait", is_flag=True, help="Wait until the CA has revoked it.")
@timeout_option
@json_option
@asks
def revoke(
    name: str | None,
    *,
    everything: bool,
    issuer: str | None,
    dry_run: bool,
    generation: int | None,
    reason: str,
    now: bool,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Revoke a certificate of the secret NAME; what is served gets a successor, with a new key, first.

    With --all everything that an issuer has issued is replaced under the limits of its CA, and revoked; how
    long that will take is told.

    \b
    certvoy revoke www --wait
    certvoy revoke www --reason keyCompromise --now
    certvoy revoke --all --issuer le --reason keyCompromise --dry-run --wait
    """
    if everything:
        if name is not None or issuer is None or generation is not None:
            raise CallerError("--all: whose?", hint="`certvoy revoke --all --issuer NAME`, and no secret")
        revoke_all(
            api,
            issuer,
            reason=reason,
            now=now,
            dry_run=dry_run,
            timeout=timeout if wait else None,
            as_json=as_json,
        )
        return
    if name is None or issuer is not None or dry_run:
        raise CallerError("which secret?", hint="name one; --issuer and --dry-run go with --all")
    until = time.monotonic() + timeout.total_seconds()
    # The generation is settled before it is asked for: asked again after a lost answer, "the one that is
    # served" could be its successor.
    body = {"generation": generation or _served(api, name), "reason": reason, "now": now}
    wanted: Json = api.post("v1", "secrets", name, "revocations", body=body, repeat=True)
    rotation, revocation = wanted["rotation"], wanted["revocation"]
    if wait:
        if rotation is not None and not now:
            follow(api, rotation["id"], of=name, timeout=timeout)
        revocation = _settled(api, revocation, of=name, until=until)
    if as_json:
        print_json(wanted | {"revocation": revocation})
        return
    click.echo(f"{name}, generation {revocation['generation']}: {revocation['message']}")
    if rotation is not None and not wait:
        click.echo(f"rotation {rotation['id']} brings its successor; `certvoy why {name}` says how it goes")


def _served(api: Api, name: str) -> int:
    certificate = api.get("v1", "secrets", name)["certificate"]
    if certificate is None:
        hint = f"`certvoy ls --secret {name}` lists what it has; choose one by --generation"
        raise CallerError(f"secret {name}: nothing is served", hint=hint)
    return int(certificate["generation"])


def _settled(api: Api, revocation: Json, *, of: str, until: float) -> Json:
    """Wait until the CA has revoked it, telling why it has not."""
    said = None
    while revocation["state"] not in {"revoked", "lapsed"}:
        if revocation["message"] != said:
            said = revocation["message"]
            note(f"  {said}")
        if time.monotonic() >= until:
            raise TimedOut(
                f"generation {revocation['generation']} is not revoked yet: {said}",
                hint=f"it goes on without us: `certvoy why {of}` says how it goes",
            )
        time.sleep(LOOK_EVERY_S)
        revocation = api.get("v1", "certificates", revocation["cert_id"])["revocation"]
    return revocation
