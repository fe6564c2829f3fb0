"""`certvoy proxies`: what each proxy has of each secret, the worst first."""

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import age, json_option, print_json, table

WORST_FIRST = ("refused", "stale", "never", "sent", "accepted", "proved")


@click.group(invoke_without_command=True)
@click.option("--secret", help="Only this secret.")
@json_option
@asks
@click.pass_context
def proxies(ctx: click.Context, /, *, secret: str | None, as_json: bool, api: Api) -> None:
    r"""List what each proxy has of each secret, the worst first, with age and reason.

    \b
    certvoy proxies --secret www
    """
    if ctx.invoked_subcommand is not None:
        return
    found = list(api.pages("v1", "proxies"))
    if as_json:
        print_json(found)
        return
    deliveries = [item for proxy in found for item in proxy["deliveries"] if secret in {None, item["secret"]}]
    deliveries.sort(key=_badness)
    table(
        ("PROXY", "SECRET", "STATE", "GENERATION", "AGE", "REASON"),
        [
            (
                item["target"],
                item["secret"],
                item["state"].upper(),
                f"{_newest(item)}/{item['current'] or 0}",
                age(item["updated_at"]),
                item["reason"],
            )
            for item in deliveries
        ],
    )


def _badness(delivery: Json) -> tuple[int, str, str]:
    return WORST_FIRST.index(delivery["state"]), delivery["target"], delivery["secret"]


def _newest(delivery: Json) -> int:
    return max(delivery[mark] or 0 for mark in ("sent", "accepted", "proved"))
