"""``certvoy config``: what can be said of a configuration without starting anything."""

import json
from pathlib import Path

import click

from sds_server.config.certvoy_yaml import load, schema


@click.group()
def config() -> None:
    """Check the configuration, or print its schema."""


@config.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Tell every error in FILE, or "ok" with what it configures. Exit code 2 when there are errors."""
    found = load(file)
    counts = {"issuer": len(found.issuers), "secret": len(found.secrets), "grant": len(found.grants)}
    summary = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counts.items())
    at = found.http01.listen
    answers = "by certvoy responder" if at is None else f"on {at}"
    click.echo(f"ok: {summary}; SDS on {found.sds.listen}, HTTP-01 {answers}")


@config.command(name="schema")
def print_schema() -> None:
    r"""Print the JSON Schema of the configuration file, for editors and CI.

    \b
    certvoy config schema > certvoy.schema.json
    """
    click.echo(json.dumps(schema(), indent=2))
