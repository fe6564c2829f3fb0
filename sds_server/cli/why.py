"""`certvoy why NAME`: why a secret is as it is, and what comes next, as one tree."""

from collections.abc import Iterator
from pathlib import Path

import click

from sds_server.cli.inventory import ask, config_option
from sds_server.inventory import certificates, progress, roll_outs, secrets, targets
from sds_server.inventory.certificates import Pair
from sds_server.inventory.database import Database
from sds_server.inventory.targets import Live
from sds_server.model import Rotation, Secret


@click.command()
@click.argument("name")
@config_option
def why(name: str, path: Path) -> None:
    """Say why the secret NAME is as it is: certificate, rotation, targets, reason, next try."""
    for line in ask(path, lambda database: _explain(database, name)):
        click.echo(line)


async def _explain(database: Database, name: str) -> list[str]:
    secret = await secrets.get(database, name)
    served = (await certificates.served(database, [name]))[name]
    pairs = [] if served.cert_id is None else await certificates.pairs(database, [served.cert_id])
    rotation = await progress.latest(database, name)
    roll_out = await roll_outs.get(database, name)
    live = await targets.live_set(database, name)
    wanted = None if roll_out is None else roll_out.generation
    return [
        *_secret(secret),
        *_certificate(pairs[0] if pairs else None),
        *_rotation(rotation),
        *(line for item in live for line in _target(item, wanted)),
        *([] if live else ["└─ targets: none was seen subscribing, and none is registered with --secret"]),
    ]


def _secret(secret: Secret) -> Iterator[str]:
    yield f"{secret.name}: {', '.join(secret.domains)} from {secret.issuer} ({secret.key_type})"


def _certificate(pair: Pair | None) -> Iterator[str]:
    if pair is None:
        yield "├─ certificate: none yet"
        return
    certificate = pair.certificate
    yield f"├─ certificate: generation {certificate.generation}, {certificate.status}"
    yield f"│  ├─ serial {certificate.serial_number}, leaf SHA-256 {certificate.fingerprint}"
    yield f"│  └─ valid until {certificate.not_after:%FT%TZ}, renewed at {certificate.renew_at:%FT%TZ}"


def _rotation(rotation: Rotation) -> Iterator[str]:
    state = rotation.outcome or ("rolling out" if rotation.new_cert_id else "waiting for a certificate")
    yield f"├─ rotation {rotation.id}: {rotation.reason}, {state}, {_attempts(rotation.attempts)}"
    if rotation.last_error is not None:
        yield f"│  ├─ reason: {rotation.last_error['what']}"
        for problem in rotation.last_error.get("problems", ()):
            yield f"│  │  └─ the CA said: {problem['type']}: {problem['detail']}"
        yield f"│  ├─ remedy: {rotation.last_error['hint']}"
    if rotation.outcome is None and rotation.new_cert_id is None:
        yield f"│  └─ next try: {rotation.next_attempt_at:%FT%TZ}"


def _attempts(count: int) -> str:
    return f"{count} attempt{'s' * (count != 1)}"


def _target(item: Live, wanted: int | None) -> Iterator[str]:
    marks = [
        f"{word} {generation}"
        for word, generation in (
            ("sent", item.sent),
            ("accepted", item.accepted),
            ("refused", item.refused),
            ("proved", item.proved),
        )
        if generation is not None
    ]
    yield f"├─ target {item.target.name}: {', '.join(marks) or 'nothing yet'}"
    if wanted is not None and (item.proved or 0) < wanted:
        if item.refusal is not None and item.refused == wanted:
            yield f"│  ├─ refused: {item.refusal}"
        yield f"│  └─ not proved: {item.probe_error or 'not probed yet'}"
