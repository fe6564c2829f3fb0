"""The commands, each imported when it is called: ``certvoy --help`` is there before gRPC would be."""

import importlib
from collections.abc import Sequence

import click

from sds_server.errors import CertvoyError, ConfigError

COMMANDS = {
    # name: (module:attribute, what the overview says)
    "config": ("sds_server.cli.config:config", "Check the configuration."),
    "demo": ("sds_server.cli.demo:demo", "Show everything at work, on this machine, for a while."),
    "rotate": ("sds_server.cli.rotate:rotate", "Give a secret its next certificate now."),
    "serve": ("sds_server.cli.serve:serve", "Run the control plane."),
    "targets": ("sds_server.cli.targets:targets", "Show what each proxy serves."),
    "why": ("sds_server.cli.why:why", "Say why a secret is as it is, and what comes next."),
}

EXIT_FAILED = 1
EXIT_USAGE = 2  # also of click, for arguments
EXIT_INTERRUPTED = 130  # as shells report SIGINT


class _Lazy(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=_Lazy)
@click.version_option(package_name="certvoy")
def certvoy() -> None:
    """Issue, rotate and deliver TLS certificates, and prove what is served."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for what failed, 2 for arguments or configuration."""
    try:
        code = certvoy.main(args=argv, prog_name="certvoy", standalone_mode=False)
    except CertvoyError as e:
        wrong_file = isinstance(e, ConfigError)  # one error a line, each with its place
        click.echo(e.message if wrong_file else f"certvoy: {e.message}", err=True)
        click.echo(f"hint: {e.next_step}", err=True)
        return EXIT_USAGE if wrong_file else EXIT_FAILED
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0
