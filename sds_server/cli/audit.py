"""`certvoy audit`: who did what to what, and when; the list."""

import difflib
import json
from datetime import UTC, datetime, timedelta

import click

from sds_server.audit.actions import ACTIONS
from sds_server.cli.api import Api, asks
from sds_server.cli.audit_proofs import export, prove, verify
from sds_server.cli.output import json_option, moment, print_json, table
from sds_server.cli.wait import Duration


@click.group()
def audit() -> None:
    """Read what was done, and verify that nobody has rewritten it."""


audit.add_command(export)
audit.add_command(verify)
audit.add_command(prove)


@audit.command()
@click.option("--subject", help="A secret, a target, a token, ...")
@click.option("--action", help="Such as certificate.issued.")
@click.option("--actor", help="Such as person:alice.")
@click.option("--since", type=Duration(), help="Not older than, such as 24h.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@json_option
@asks
def ls(
    *,
    subject: str | None,
    action: str | None,
    actor: str | None,
    since: timedelta | None,
    limit: int,
    as_json: bool,
    api: Api,
) -> None:
    r"""List what was done, newest first.

    \b
    certvoy audit ls --subject www --since 24h
    """
    after = None if since is None else (datetime.now(UTC) - since).isoformat()
    found = list(
        api.pages("v1", "audit", limit=limit, subject=subject, action=action, actor=actor, since=after)
    )
    if action is not None and not found:
        _refuse_unknown(action)
    if as_json:
        print_json(found)
        return
    table(
        ("TIME", "ACTION", "SUBJECT", "ACTOR", "DETAIL"),
        [
            (
                moment(item["at"]),
                item["action"],
                item["subject"],
                item["actor"],
                json.dumps(item["detail"], ensure_ascii=False),
            )
            for item in found
        ],
    )


def _refuse_unknown(action: str) -> None:
    """Say so where nothing was found: another release's action may have entries all the same."""
    names = [known.name for known in ACTIONS]
    if action in names:
        return
    close = difflib.get_close_matches(action, names, n=1)
    hint = f"did you mean {close[0]}?" if close else "docs/reference/audit.md has them all"
    raise click.BadParameter(
        f"nothing was found, and no action is called {action}; {hint}", param_hint="--action"
    )
