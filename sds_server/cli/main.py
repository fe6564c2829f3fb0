"""The commands, each imported when it is called: ``certvoy --help`` is there before gRPC would be."""

import importlib
import sys
from collections.abc import Sequence

import click

from sds_server.errors import CertvoyError, ConfigError, NotFound, TimedOut

COMMANDS = {
    # name: (module:attribute, what the overview says)
    "agent": ("sds_server.cli.agent:agent", "Keep a proxy's own client certificate."),
    "audit": ("sds_server.cli.audit:audit", "Read what was done, and verify that nobody has rewritten it."),
    "bootstrap-config": (
        "sds_server.cli.bootstrap_config:bootstrap_config",
        "Print an Envoy bootstrap that works.",
    ),
    "config": ("sds_server.cli.config:config", "Check the configuration, or print its schema."),
    "delete": ("sds_server.cli.issue:delete", "Take a secret out of the inventory."),
    "demo": ("sds_server.cli.demo:demo", "Show everything at work, on this machine, for a while."),
    "dns-records": (
        "sds_server.cli.dns_records:dns_records",
        "Print a zone's standing records for our account.",
    ),
    "doctor": ("sds_server.cli.doctor:doctor", "Look for what would go wrong, before it does."),
    "drill": ("sds_server.cli.drill:drill", "Try whether a backup would bring everything back."),
    "freeze": ("sds_server.cli.freeze:freeze", "Hold a secret as it is."),
    "generic": ("sds_server.cli.generic:generic", "Put a generic secret for a filter of Envoy's."),
    "issue": ("sds_server.cli.issue:issue", "Declare a secret and get its certificate."),
    "issuers": ("sds_server.cli.issuers:issuers", "List the CAs, and keep our accounts there."),
    "kms": ("sds_server.cli.kms:kms", "Say which KEKs are in use, and bring keys to the newest."),
    "ls": ("sds_server.cli.ls:ls", "List secrets or certificates."),
    "migrate": ("sds_server.cli.migrate:migrate", "Bring the database to this release, as its owner."),
    "probe": ("sds_server.cli.probe:probe", "Look at what is served, now."),
    "proxies": ("sds_server.cli.proxies:proxies", "List what each proxy has, the worst first."),
    "responder": ("sds_server.cli.responder:command", "Answer challenges, as a user with no other right."),
    "resume": ("sds_server.cli.freeze:resume", "Let a frozen secret go on."),
    "revoke": ("sds_server.cli.revoke:revoke", "Revoke a certificate, once its successor is proved or now."),
    "rollback": ("sds_server.cli.freeze:rollback", "Take back what is being rolled out."),
    "rotate": ("sds_server.cli.rotate:rotate", "Give a secret its next certificate now."),
    "seal": ("sds_server.cli.seal:seal", "Have a replica forget its keys, and give nothing away."),
    "serve": ("sds_server.cli.serve:serve", "Run the control plane."),
    "show": ("sds_server.cli.show:show", "Show a secret, a PEM file, or what an address serves."),
    "targets": ("sds_server.cli.targets:targets", "Say where proxies can be probed."),
    "tickets": ("sds_server.cli.tickets:tickets", "Have session ticket keys made, or bring them."),
    "token": ("sds_server.cli.token:token", "Make and revoke tokens of the API."),
    "trust": ("sds_server.cli.trust:trust", "Put trust bundles, and rotate their roots."),
    "unseal": ("sds_server.cli.seal:unseal", "Let a sealed replica go on."),
    "upload": ("sds_server.cli.upload:upload", "Bring a pair from elsewhere as a secret's next certificate."),
    "why": ("sds_server.cli.why:why", "Say why a secret is as it is, and what comes next."),
}

HOLD_KEYS = {"agent", "serve"}
"""Those that run for long with private keys in their memory."""

SENTENCE_MAX = 500
"""Characters of a first sentence: more than any has."""

EXIT_FAILED = 1
EXIT_USAGE = 2  # also of click, for arguments
EXIT_NOT_FOUND = 3
EXIT_TIMED_OUT = 5
EXIT_INTERRUPTED = 130  # as shells report SIGINT


_EXITS = ((ConfigError, EXIT_USAGE), (NotFound, EXIT_NOT_FOUND), (TimedOut, EXIT_TIMED_OUT))


class _Lazy(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _lay_out(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as e:  # click looks for like ones among what is imported
            raise click.exceptions.NoSuchCommand(e.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _lay_out(command: click.Command) -> None:
    """Prepare help for click.

    The mark before what it must not wrap is two characters in a raw docstring. A group says of each of its
    commands the whole first sentence, wrapped; click would break it off at the end of the line.
    """
    if command.help is not None:
        command.help = command.help.replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _lay_out(inner)
            inner.short_help = inner.get_short_help_str(limit=SENTENCE_MAX)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["--help", "-h"]})
@click.version_option(package_name="certvoy")
def certvoy() -> None:
    """Issue, rotate and deliver TLS certificates, and prove what is served.

    Commands ask the certvoy that runs on this machine by --config, or one elsewhere by --url with the token
    in CERTVOY_TOKEN. Exit codes: 0 done or nothing to do, 1 failed, 2 usage, 3 not found, 5 timed out.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, by the table in ``certvoy --help``."""
    if argv is None and not HOLD_KEYS.isdisjoint(sys.argv[1:2]):
        importlib.import_module("sds_server.memory").scrub_on_free()
    try:
        code = certvoy.main(args=argv, prog_name="certvoy", standalone_mode=False)
    except CertvoyError as e:
        wrong_file = isinstance(e, ConfigError)  # one error a line, each with its place
        click.echo(e.message if wrong_file else f"certvoy: {e.message}", err=True)
        click.echo(f"hint: {e.next_step}", err=True)
        return next((code for kind, code in _EXITS if isinstance(e, kind)), EXIT_FAILED)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0
