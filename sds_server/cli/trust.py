"""`certvoy trust`: whose certificates proxies believe, and how a root is changed for another."""

from datetime import timedelta
from pathlib import Path

import click

from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, print_json
from sds_server.cli.payload import told
from sds_server.cli.upload import pem_file, read_pem
from sds_server.cli.wait import timeout_option, wait_option
from sds_server.errors import CallerError


@click.group()
def trust() -> None:
    r"""Put trust bundles (validation contexts), and rotate their roots in three steps.

    \b
    certvoy trust add clients new-root.pem --wait    every proxy trusts both
    (issue from the new root, until nothing of the old one is served)
    certvoy trust remove clients OLD_FINGERPRINT     every proxy trusts the new one alone
    """


@trust.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=pem_file)
@click.option("--crl", "crls", multiple=True, type=pem_file, help="PEM; one of each CA.")
@click.option("--leaf-crl-only", is_flag=True, help="Only the leaf's issuer needs a CRL.")
@click.option("--san", "sans", multiple=True, help="TYPE:MATCH:VALUE, such as uri:prefix:spiffe://mesh/.")
@wait_option
@timeout_option
@json_option
@asks
def put(
    name: str,
    *,
    files: tuple[Path, ...],
    crls: tuple[Path, ...],
    leaf_crl_only: bool,
    sans: tuple[str, ...],
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    r"""Make the CAs in FILES, and no others, the trust bundle NAME; one that is not there is created.

    \b
    certvoy trust put clients root.pem --crl root.crl --wait
    """
    body = {
        "cas": "\n".join(map(read_pem, files)),
        "crls": "\n".join(map(read_pem, crls)),
        "leaf_crl_only": leaf_crl_only,
        "sans": [_san(text) for text in sans],
    }
    secret = api.put("v1", "secrets", name, "trust-bundle", body=body)
    told(api, secret, timeout=timeout if wait else None, as_json=as_json)


@trust.command()
@click.argument("name")
@click.argument("file", type=pem_file)
@wait_option
@timeout_option
@json_option
@asks
def add(name: str, *, file: Path, wait: bool, timeout: timedelta, as_json: bool, api: Api) -> None:
    """Trust the CAs in FILE as well; with --wait it returns when it is safe to issue from them."""
    secret = api.post("v1", "secrets", name, "trust-bundle", "cas", body={"cas": read_pem(file)}, repeat=True)
    told(api, secret, timeout=timeout if wait else None, as_json=as_json)
    if wait and not as_json:
        click.echo("every proxy of the live set trusts it: issue from it now, then `certvoy trust remove`")


@trust.command()
@click.argument("name")
@click.argument("fingerprint")
@click.option("--force", is_flag=True, help="Although a proxy or a certificate still needs it.")
@click.option("--reason", help="Why; with --force, for the audit.")
@wait_option
@timeout_option
@json_option
@asks
def remove(
    name: str,
    *,
    fingerprint: str,
    force: bool,
    reason: str | None,
    wait: bool,
    timeout: timedelta,
    as_json: bool,
    api: Api,
) -> None:
    """Trust the CA with the SHA-256 FINGERPRINT no more; refused while something needs it."""
    if force and not reason:
        raise CallerError("--force needs a reason", hint="say it: --reason TEXT; the audit keeps it")
    plain = fingerprint.lower().replace(":", "")
    secret = api.delete("v1", "secrets", name, "trust-bundle", "cas", plain, force=reason if force else None)
    told(api, secret, timeout=timeout if wait else None, as_json=as_json)


@trust.command()
@click.argument("name")
@json_option
@asks
def show(name: str, *, as_json: bool, api: Api) -> None:
    """Print the CAs of the bundle NAME as PEM, each behind its name and fingerprint."""
    secret = api.get("v1", "secrets", name)
    bundle = None if secret["payload"] is None else secret["payload"]["bundle"]
    if bundle is None:
        raise CallerError(f"secret {name}: it is no trust bundle", hint="`certvoy ls` shows the kinds")
    if as_json:
        print_json(bundle)
        return
    blocks = bundle["pem"].split("-----END CERTIFICATE-----\n")
    for ca, block in zip(bundle["cas"], blocks, strict=False):
        click.echo(f"# {ca['subject']}\n# SHA-256 {ca['fingerprint']}, valid until {ca['not_after']}")
        click.echo(f"{block}-----END CERTIFICATE-----")


def _san(text: str) -> dict[str, str]:
    kind, _, rest = text.partition(":")
    match, _, value = rest.partition(":")
    if not value:
        raise CallerError(f"--san {text}: must be TYPE:MATCH:VALUE", hint="such as dns:suffix:.example.com")
    return {"type": kind, "match": match, "value": value}
