"""`certvoy kms`: which KEKs are in use, and keys brought to the newest."""

import time
from datetime import UTC, datetime
from typing import Any

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, moment, note, print_json, table
from sds_server.errors import CustodyError
from sds_server.keys.custody import SAMPLE_MAX


@click.group()
def kms() -> None:
    """Say which KEKs are in use, and bring keys to the newest."""


@kms.command()
@json_option
@asks
def status(*, as_json: bool, api: Api) -> None:
    """List the KEKs and their versions, with how many keys each has wrapped, and which may go."""
    found = api.get("v1", "kms")
    if as_json:
        print_json(found)
        return
    table(
        ("KEK", "VERSION", "KEYS", ""),
        [(item["kek_uri"], item["kek_version"], item["keys"], _meaning(item)) for item in found["items"]],
    )
    if found["error"] is not None:
        note(f"the KMS does not say which version is the newest: {found['error']}")
    if found["behind"]:
        note(f"{found['behind']} keys are behind: `certvoy kms rewrap`")


@kms.command()
@click.option("--all", "every", is_flag=True, help="Also keys that the newest version has wrapped.")
@json_option
@asks
def rewrap(*, every: bool, as_json: bool, api: Api) -> None:
    """Bring every key to the newest version of the KEK, from other KEKs too; no private key is opened.

    It may be ended at any time, and goes on where it was. Nothing that is served is touched.
    """
    done: dict[str, Any] = {"rewrapped": 0, "passed_over": 0, "refused": []}
    behind = api.get("v1", "kms")["behind"]
    after, began = None, time.monotonic()
    while True:
        # Twice is the same as once: what is done is not behind any more.
        batch = api.post("v1", "kms", "rewrap", body={"after": after, "all": every}, repeat=True)
        for counted in done:
            done[counted] += batch[counted]
        after = batch["after"]
        if after is None:
            break
        note(f"{done['rewrapped']} rewrapped" + ("" if every else f" of {behind}"))
    if as_json:
        print_json(done)
    else:
        rate = done["rewrapped"] / max(time.monotonic() - began, 0.001)
        click.echo(
            f"{done['rewrapped']} keys rewrapped, {rate:.0f} a second;"
            " `certvoy kms status` says which KEKs are in use"
        )
        for refusal in done["refused"]:
            note(f"not rewrapped: {_named(refusal)}")
    if done["refused"]:
        raise CustodyError(
            f"{len(done['refused'])} keys could not be rewrapped, and stay as they are",
            hint="restore the KEK that wrapped them under kms.previous, or rotate what they are of",
        )


@kms.command()
@click.option(
    "--sample", type=click.IntRange(1, SAMPLE_MAX), default=20, show_default=True, help="So many keys."
)
@json_option
@asks
def check(*, sample: int, as_json: bool, api: Api) -> None:
    """Open some keys by chance by the KMS, and hold each against its certificate; none is shown.

    What is in memory does not help: it is what a restart would meet. It ends with 1 if one does not open.
    """
    done = api.post("v1", "kms", "checks", body={"sample": sample}, repeat=True)
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"{done['opened']} of {done['opened'] + len(done['refused'])} keys opened and are their own"
        )
        for refusal in done["refused"]:
            note(f"not opened: {_named(refusal)}")
    if done["refused"]:
        raise CustodyError(
            f"{len(done['refused'])} keys do not open",
            hint="`certvoy kms status` names the KEKs; restore what is missing, or rotate what they are of",
        )


def _named(refusal: dict[str, Any]) -> str:
    """Return why, with the key: a KMS does not know whose data key it refuses."""
    key = f"key {refusal['key_id']}: "
    return key + str(refusal["why"]).removeprefix(key)


def _meaning(item: dict[str, Any]) -> str:
    if item["current"]:
        return "wraps now"
    if item["keys"] and not item["opens"]:
        return "cannot be opened here: name it in kms.previous"
    if item["keys"]:
        return "behind: `certvoy kms rewrap`"
    if item["needed_until"] is not None:
        until = moment(item["needed_until"])
        over = datetime.fromisoformat(item["needed_until"]) <= datetime.now(UTC)
        return "may go: no kept backup needs it" if over else f"kept backups need it until {until}"
    if item["left_at"] is not None:
        return f"may go, once no kept backup is from before {moment(item['left_at'])}"
    return "wraps nothing: may go"
