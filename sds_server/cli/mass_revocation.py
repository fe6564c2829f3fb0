"""`certvoy revoke --all --issuer X`: batches are opened, and followed until all are replaced."""

import time
from datetime import timedelta
from typing import Final

import click

from sds_server.cli.api import Api, Json
from sds_server.cli.output import moment, note, print_json
from sds_server.errors import TimedOut

LOOK_EVERY_S: Final = 1.0


def revoke_all(
    api: Api,
    issuer: str,
    *,
    reason: str,
    now: bool,
    dry_run: bool,
    timeout: timedelta | None,
    as_json: bool,
) -> None:
    """Begin it, and with ``timeout`` follow it until all are replaced, and revoked unless it is a drill."""
    since, after = None, ""
    while True:
        body = {"reason": reason, "now": now, "dry_run": dry_run, "after": after}
        begun: Json = api.post("v1", "issuers", issuer, "revocations", body=body, repeat=True)
        since = since or begun["since"]
        if begun["after"] is None:
            break
        after = begun["after"]
    progress = _progress(api, issuer, since)
    if timeout is not None:
        progress = _followed(api, issuer, since, progress, dry_run=dry_run, timeout=timeout)
    if as_json:
        print_json({"since": since, **progress})
        return
    click.echo(f"{issuer}: {_said(progress, dry_run=dry_run)}")


def _followed(
    api: Api, issuer: str, since: str, progress: Json, *, dry_run: bool, timeout: timedelta
) -> Json:
    until, said = time.monotonic() + timeout.total_seconds(), ""
    while True:
        if (now := _said(progress, dry_run=dry_run)) != said:
            said = now
            note(f"  {said}")
        if progress["replaced" if dry_run else "revoked"] >= progress["total"]:
            return progress
        if time.monotonic() >= until:
            raise TimedOut(f"not all that {issuer} has issued is replaced yet: {said}")
        time.sleep(LOOK_EVERY_S)
        progress = _progress(api, issuer, since)


def _progress(api: Api, issuer: str, since: str) -> Json:
    found: Json = api.get("v1", "issuers", issuer, "revocations", since=since)
    return found


def _said(progress: Json, *, dry_run: bool) -> str:
    parts = [
        f"{progress['replaced']} of {progress['total']} replaced",
        f"{progress['rolling_out']} rolling out",
    ]
    if not dry_run:
        parts.append(f"{progress['revoked']} revoked")
    if progress["done_at"] is not None:
        parts.append(f"{progress['waiting']} to be issued, the last at {moment(progress['done_at'])}")
    return ", ".join(parts)
