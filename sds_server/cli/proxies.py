"""`certvoy proxies`: what each proxy has of each secret, the worst first; and who may be a proxy."""

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import age, json_option, moment, note, print_json, table
from sds_server.errors import CertvoyError, NotFound
from sds_server.model import Kind

WORST_FIRST = ("refused", "stale", "never", "sent", "accepted", "unseen", "waiting", "proved")


class _ListsByDefault(click.Group):
    """Without a subcommand it is ``ls``, options and all; a word that is none is an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["ls", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListsByDefault)
def proxies() -> None:
    r"""List what each proxy has of each secret, the worst first; let proxies enrol.

    \b
    certvoy proxies --secret www
    certvoy proxies enroll edge-1 --secret www
    """


@proxies.command()
@click.option("--secret", help="Only this secret.")
@json_option
@asks
def ls(*, secret: str | None, as_json: bool, api: Api) -> None:
    """List what each proxy has of each secret, the worst first, with age and reason; then who has nothing."""
    found = list(api.pages("v1", "proxies"))
    if as_json:
        print_json(found)
        return
    if not found:
        note("no proxy was invited or seen; nginx and others that are no Envoy are in `certvoy targets ls`")
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
        ]
        + [
            (
                proxy["name"],
                None,
                proxy["state"].upper(),
                None,
                age(_since(proxy)),
                proxy["reason"] or "it subscribes to nothing",
            )
            for proxy in found
            if not proxy["deliveries"] and secret is None
        ],
    )


@proxies.command()
@click.argument("name")
@click.option("--secret", "names", multiple=True, help="What it may see: a name, team/* or *.example.com.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in Kind]),
    help="Of these kinds alone.",
)
@click.option("--issue", is_flag=True, help="Its wish for such a name may have a certificate ordered.")
@click.option("--max-names", type=click.IntRange(min=1), help="So many names may it want at once.")
@click.option("--ttl", default="1h", show_default=True, help="How long it has to enrol, such as 1h.")
@json_option
@asks
def enroll(
    name: str,
    *,
    names: tuple[str, ...],
    kinds: tuple[str, ...],
    issue: bool,
    max_names: int | None,
    ttl: str,
    as_json: bool,
    api: Api,
) -> None:
    r"""Let the proxy NAME enrol once, and print the token for it: it is said once and kept nowhere.

    \b
    certvoy proxies enroll edge-1 --secret www > token
    certvoy agent --credentials ./edge-1 --server https://certvoy.example.com:8445 --token-file token
    """
    body: Json = {"names": list(names), "ttl": ttl}
    if kinds:
        body["kinds"] = list(kinds)
    if issue:
        body["issue"] = True
    if max_names is not None:
        body["max_names"] = max_names
    made = api.post("v1", "proxies", name, "enrolments", body=body)
    if as_json:
        print_json(made)
    else:
        note(f"{made['identity']} may enrol until {moment(made['expires_at'])}")
        click.echo(made["token"])
        if not issue:
            _tell_of_unknown(api, names)


@proxies.command()
@click.argument("name")
@asks
def rm(name: str, *, api: Api) -> None:
    """Take the grants and the credential of the proxy NAME away, and end its streams."""
    api.delete("v1", "proxies", name)
    click.echo(f"proxy {name} is not enrolled any more, and its streams end now")


def _tell_of_unknown(api: Api, names: tuple[str, ...]) -> None:
    """Say which names are no secret's: they may become one, or were mistyped."""
    for name in names:
        if "*" in name:
            continue
        try:
            api.get("v1", "secrets", name)
        except NotFound:
            note(f"there is no secret {name} yet: `certvoy issue {name} --domain DOMAIN` makes it")
        except CertvoyError:  # who may enrol may not read, say: the token is made
            return


def _badness(delivery: Json) -> tuple[int, str, str]:
    return WORST_FIRST.index(delivery["state"]), delivery["target"], delivery["secret"]


def _since(proxy: Json) -> str | None:
    enrolment = proxy["enrolment"] or {}
    return proxy["last_seen"] or enrolment.get("credential_at") or enrolment.get("created_at")


def _newest(delivery: Json) -> int:
    return max(delivery[mark] or 0 for mark in ("sent", "accepted", "proved"))
