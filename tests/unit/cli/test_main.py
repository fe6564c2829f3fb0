"""The command line: what is loaded, what is printed where, and the exit codes."""

import subprocess
import sys

import click
import pytest

from sds_server.cli import main as cli
from sds_server.errors import Unavailable
from tests.unit.test_config import SMALL


@pytest.fixture
def failing(monkeypatch):
    """A command that fails as commands do."""

    @click.command()
    def fail():
        raise Unavailable("the database does not answer", hint="start it")

    monkeypatch.setattr(cli, "fail", fail, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("sds_server.cli.main:fail", "Fail."))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "pem").write_text("something")
    path = tmp_path / "certvoy.yaml"
    path.write_text(SMALL)
    return path


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if f"  {name} " not in shown] == []


def test_help_is_there_by_its_short_name_at_any_depth():
    """In a process of its own: click keeps what the help option of a command was called first."""
    words = [sys.executable, "-m", "sds_server", "proxies", "enroll", "-h"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)

    assert ended.stdout.startswith("Usage: certvoy proxies enroll")


@pytest.mark.parametrize("account", ["1", "ca.example/acct/1", "https:///acct/1", "https://[ca/1"])
def test_a_record_that_names_no_account_is_not_made(capsys, account):
    """A CA would take it for another's, and say so at the next renewal."""
    words = ["dns-records", "*.example.com", "--ca", "ca.example", "--account"]

    assert [2, 0] == [cli.main([*words, account]), cli.main([*words, "https://ca.example/acct/1"])]
    assert "certvoy issuers ls" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    """It answers at once, and also where the rest is broken."""
    program = """
import sys
from sds_server.cli.main import main
main(["--help"])
heavy = {"grpc", "aiohttp", "asyncpg", "pydantic", "yaml", "cryptography"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stderr.strip() == ""


def test_what_was_imported_is_never_looked_at_again_for_garbage():
    """By the control plane, whose loop stands still meanwhile; what it makes itself is."""
    program = """
import gc
from sds_server.cli import serve
def load(_path):
    print(gc.get_freeze_count(), len(gc.get_objects()))
    raise SystemExit
serve.load = load
serve.serve(["--config", "x"])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    frozen, left = map(int, ended.stdout.split())

    assert frozen > 50_000 > left


ASKING = [
    "doctor",
    "freeze",
    "issue",
    "issuers",
    "ls",
    "revoke",
    "rotate",
    "targets",
    "token",
    "why",
]


def test_a_command_that_asks_the_api_loads_nothing_heavy():
    """It starts more often than it asks: with the ACME client in it, it would take four times as long."""
    program = f"""
import sys
import click
from sds_server.cli.main import certvoy
for name in {ASKING}:
    certvoy.get_command(click.Context(certvoy), name)
heavy = {{"grpc", "acme_engine", "aiohttp", "asyncpg", "pydantic", "structlog", "cryptography"}}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "" == ended.stderr.strip()


def test_module_runs_as_the_command():
    ended = subprocess.run(
        [sys.executable, "-m", "sds_server", "--help"], capture_output=True, text=True, check=True
    )

    assert ended.stdout.startswith("Usage: certvoy")


def test_unknown_command_is_a_usage_error(capsys):
    assert cli.main(["sevre"]) == 2
    assert "No such command 'sevre'" in capsys.readouterr().err


def test_error_ends_as_a_message_and_a_hint(failing, capsys):
    assert cli.main(["fail"]) == 1
    assert capsys.readouterr().err == "certvoy: the database does not answer\nhint: start it\n"


def test_good_configuration_is_summed_up(file, capsys):
    assert cli.main(["config", "check", str(file)]) == 0
    assert (
        capsys.readouterr().out
    ) == "ok: 1 issuer, 0 secrets, 0 grants; SDS on 127.0.0.1:0, HTTP-01 on 127.0.0.1:0\n"


def test_wrong_configuration_gives_a_line_for_each_error(file, capsys):
    file.write_text(SMALL.replace("https:", "http:") + "log: {level: loud}\n")

    assert cli.main(["config", "check", str(file)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.partition(": ")[0] for line in shown.err.splitlines()] == [
        "issuers.internal.directory",
        "log.level",
        "hint",
    ]


def test_missing_configuration_is_an_error_of_its_own(tmp_path, capsys):
    assert cli.main(["config", "check", str(tmp_path / "nowhere.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["pem", "pem/state"])
def test_a_state_dir_that_cannot_be_is_said_with_what_to_do(file, place):
    file.write_text(f"{SMALL}state_dir: {place}\n")
    words = [sys.executable, "-m", "sds_server", "serve", "--config", str(file)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)

    assert 1 == ended.returncode
    *_, said, hint = ended.stderr.splitlines()
    assert said.startswith(f"certvoy: state_dir: cannot keep anything in {file.parent / place}: ")
    assert hint.startswith("hint: name a directory")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # envoy-data-plane decorates in an old way
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_shows_no_mark_of_its_layout(name, capsys):
    """An example keeps its lines; the mark that says so is not shown, in a raw docstring either."""
    command = cli.certvoy.get_command(click.Context(cli.certvoy), name)
    for words in [[name], *([name, inner] for inner in getattr(command, "commands", ()))]:
        assert 0 == cli.main([*words, "--help"])

    shown = capsys.readouterr().out
    assert "\\b" not in shown
    assert "\b" not in shown


@pytest.mark.parametrize("group", ["audit", "issuers", "kms", "proxies", "token", "trust"])
def test_a_group_says_the_whole_first_sentence_of_each_of_its_commands(group, capsys):
    """What click breaks off at the end of a line, with three dots, tells nobody what the command does."""
    assert cli.main([group, "--help"]) == 0

    shown = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert shown
    assert [line for line in shown if line.endswith("...")] == []
