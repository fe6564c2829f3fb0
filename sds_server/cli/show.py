"""`certvoy show`: a secret, a PEM file, or what an address serves."""

import asyncio
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import facts, json_option, moment, print_json
from sds_server.cli.payload import payload_facts
from sds_server.conditions import on_demand
from sds_server.errors import CallerError
from sds_server.targets.places import all_of, shown
from sds_server.targets.probe import ProbeFailed, Way, served_leaf, split


@click.command()
@click.argument("what", metavar="NAME|FILE|HOST:PORT")
@click.option("--server-name", help="The name to ask HOST:PORT for; HOST by default.")
@click.option("--proxy-protocol", is_flag=True, help="HOST:PORT wants the PROXY protocol before TLS.")
@click.option("--http3", is_flag=True, help="HOST:PORT serves HTTP/3 as well: ask it over QUIC too.")
@json_option
@asks
def show(
    what: str, *, server_name: str | None, proxy_protocol: bool, http3: bool, as_json: bool, api: Api
) -> None:
    r"""Show the secret NAME, the certificate in a FILE, or the one that HOST:PORT serves.

    \b
    certvoy show www
    certvoy show /etc/ssl/www.pem
    certvoy show www.example.com:443
    """
    if Path(what).is_file():
        described = _leaf(api, _from_file(Path(what)))
    elif ":" in what:
        way = Way(what, proxy_protocol=proxy_protocol, http3=http3)
        described = _leaf(api, _from_endpoint(way, server_name))
    else:
        described = api.get("v1", "secrets", what)
    if as_json:
        print_json(described)
    elif "conditions" in described:
        _print_secret(described)
    else:
        facts(described)


def _from_file(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as e:
        raise CallerError(f"cannot read {path}: {e.strerror}", hint="name a PEM file") from e
    except ValueError as e:  # its words are about a parser
        raise CallerError(f"{path}: holds no certificate in PEM", hint="name a PEM file") from e


def _from_endpoint(way: Way, server_name: str | None) -> x509.Certificate:
    host, _ = split(way.address)
    try:
        looks = all_of(asyncio.run(_leaves(way, server_name or host)))
    except ProbeFailed as e:
        raise CallerError(str(e), hint="is it there, and does it speak TLS?") from e
    (place, leaf), *others = looks.items()
    for other, its in others:
        if its != leaf:
            raise CallerError(
                f"{other} serves another leaf than {place}: {sha256(its).hexdigest()[:16]}..., not "
                f"{sha256(leaf).hexdigest()[:16]}...",
                hint=f"`certvoy probe {way.address} --http3` says whose they are",
            )
    return x509.load_der_x509_certificate(leaf)


async def _leaves(way: Way, server_name: str) -> Mapping[str, bytes | ProbeFailed]:
    """Return what is served there; where there is HTTP/3, at each place and by each way."""
    if not way.http3:
        return {way.address: await served_leaf(way, server_name)}
    return await shown(way, lambda each: served_leaf(each, server_name))


def _leaf(api: Api, leaf: x509.Certificate) -> Json:
    """Return a certificate's facts, and what the inventory knows of it."""
    fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    known = list(api.pages("v1", "certificates", fingerprint=fingerprint))
    ours = [f"{item['secret']}, generation {item['generation']}, {item['status']}" for item in known]
    return {
        "subject": leaf.subject.rfc4514_string(),
        "names": ", ".join(_names(leaf)),
        "issuer": leaf.issuer.rfc4514_string(),
        "serial_number": f"{leaf.serial_number:x}",
        "not_before": moment(leaf.not_valid_before_utc.isoformat()),
        "not_after": moment(leaf.not_valid_after_utc.isoformat()),
        "fingerprint": fingerprint,
        "certvoy": ours[0] if ours else "never issued it",
    }


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _print_secret(secret: Json) -> None:
    if secret["payload"] is None:
        keys: tuple[str, ...] = ("name", "kind", "issuer", "key_type", "key_holder", "proof", "managed_by")
        more: dict[str, object] = {"domains": ", ".join(secret["domains"])}
        if secret["key_file"] is not None:
            more["key_file"] = secret["key_file"]
    else:
        keys, more = ("name", "kind", "managed_by"), payload_facts(secret["payload"])
    facts({key: secret[key] for key in keys} | more | {"created_at": moment(secret["created_at"])})
    if secret["on_demand"] is not None:
        facts({"on_demand": on_demand(secret["on_demand"])})
    if secret["key_custody"] is not None:
        facts({"keys": secret["key_custody"]["message"]})
    if secret["frozen"] is not None:
        facts({"frozen": f"since {moment(secret['frozen']['at'])} by {secret['frozen']['by']}"})
    certificate = secret["certificate"]
    if certificate is not None:
        facts(
            {
                key: certificate[key]
                for key in ("generation", "status", "serial_number", "fingerprint", "key_ref")
            }
            | {key: moment(certificate[key]) for key in ("not_before", "not_after", "renew_at")}
            | {"renewed then": f"because {secret['renewal']['message']}"}
        )
    if secret["staple"] is not None and secret["staple"]["next_update"] is not None:
        facts({"staple": f"good until {moment(secret['staple']['next_update'])}"})
    for revocation in secret["revocations"]:
        facts(
            {f"revocation of {revocation['generation']}": f"{revocation['state']}: {revocation['message']}"}
        )
    for condition in secret["conditions"]:
        click.echo(
            f"{condition['type']}: {condition['status']} ({condition['reason']}): {condition['message']}"
        )
