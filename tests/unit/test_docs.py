"""What the documents say, held against what is: configuration, commands, links, the state machine."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from sds_server.cli.main import certvoy
from sds_server.config.certvoy_yaml import load
from sds_server.lifecycle.states import TRANSITIONS, Event
from sds_server.model import CertificateStatus, Kind

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "envoy-configs" / "README.md",
    *sorted((ROOT / "deploy").rglob("*.md")),
]
MESSAGES = sorted((ROOT / "sds_server").rglob("*.py"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DECISION_PARTS = ["## Context", "## Choice", "## Alternatives", "## What would change our mind"]

FILE_KEYS = {"certificate", "key", "client_ca", "ca_file", "roots_file", "hmac_key_file"}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def _files(node: object) -> list[str]:
    """Return the files that a configuration names and that must exist."""
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if isinstance(node, dict):
        own = [value for key, value in node.items() if key in FILE_KEYS and isinstance(value, str)]
        return own + [name for value in node.values() for name in _files(value)]
    return []


def test_the_readme_installs_as_the_tutorial_which_is_run() -> None:
    """Into a virtual environment: the Python of Debian and Ubuntu refuses all else."""
    told = [line for block in _blocks(README, "sh") for line in block.splitlines()]
    (block,) = [block for block in _blocks(ROOT / "docs" / "tutorial.md", "sh") if "pip install" in block]
    words = block.splitlines()[:3]
    at = told.index(words[0])

    assert words == [line.partition("    #")[0] for line in told[at : at + 3]]


def test_the_configuration_of_the_readme_loads(tmp_path):
    (text,) = [block for block in _blocks(README, "yaml") if block.startswith("# certvoy.yaml")]
    for name in _files(yaml.safe_load(text)):
        (tmp_path / name).write_text("PEM\n")
    path = tmp_path / "certvoy.yaml"
    path.write_text(text)

    config = load(path)

    assert ["letsencrypt"] == list(config.issuers)
    assert tmp_path / "state" / "kek" == config.kms.key_file


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # envoy-data-plane decorates in an old way
def test_the_envoy_configuration_of_the_readme_is_envoys():
    """Every key is one that Envoy knows, and the node is sent once."""
    from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import CommonTlsContext

    (text,) = [block for block in _blocks(README, "yaml") if "common_tls_context:" in block]

    context = CommonTlsContext.from_dict(yaml.safe_load(text)["common_tls_context"])

    (secret,) = context.tls_certificate_sds_secret_configs
    assert "www" == secret.name
    assert secret.sds_config.api_config_source.set_node_on_first_message_only


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the same, imported by a command
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_in_a_document_is_one_with_these_arguments(page):
    lines = [line for block in _blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        words = _command(line)
        if words[:1] == ["certvoy"]:
            _parse(words[1:])


def _command(line: str) -> list[str]:
    """Return the words of a line's first command, without what the shell does to it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            return words[:-1] if words[-1:] == ["2"] else words
        words.append(word)
    return words


def _parse(words: list[str]) -> None:
    """Let click read the arguments, down to the last subcommand; it raises for what it does not take."""
    command, words = _command_of(words)
    command.make_context(command.name, words)


def _command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the last subcommand that words name, and those after its name."""
    command: click.Command = certvoy
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z-]*[a-z]", words[0]):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"there is no command {name}"
        command = found
    return command, words


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the same
@pytest.mark.parametrize("page", [*PAGES, *MESSAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_in_a_sentence_is_one_with_these_options(page):
    """In prose and in what the programs say, where arguments may be left out or be words for them."""
    text = re.sub(r'"\s*\n\s*f?"', "", page.read_text())  # a sentence over several lines of code
    for said in re.findall(r"`certvoy ([a-z][^`\n]*)`", text):
        command, words = _command_of(said.split())
        taken = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        options = {re.split(r"[=,.;:)\]]", word)[0] for word in words if re.match(r"\[?-", word)}
        assert set() == {option.strip("[") for option in options} - taken - {"--help"}, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_make_target_in_a_document_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set() == set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)) - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    """Within the repository: the file is there, and the heading that an anchor names."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(linked), f"{page.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_state_machine_is_documented_as_it_is():
    """Row by row and cell by cell: the table of docs/architecture.md is TRANSITIONS."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    header, _, *rows = re.findall(r"^\|.*\|$", text[text.index("| State |") :].split("\n\n")[0], re.MULTILINE)
    events = [Event(cell.strip()) for cell in header.strip("|").split("|")[1:]]
    documented = {}
    states = []
    for row in rows:
        first, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        states.append(CertificateStatus(first.split("**")[1]))
        documented |= {
            (states[-1], event): CertificateStatus(cell)
            for event, cell in zip(events, cells, strict=True)
            if cell
        }

    assert dict(TRANSITIONS) == documented
    assert list(CertificateStatus) == states
    assert set(Event) == set(events)


def test_the_glossary_knows_every_kind():
    glossary = (ROOT / "docs" / "glossary.md").read_text()

    assert [] == [kind for kind in Kind if f"`{kind}`" not in glossary]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts(page):
    text = page.read_text()

    assert re.fullmatch(r"\d{4}-[a-z0-9-]+", page.stem)
    assert text.startswith(f"# {int(page.stem[:4])}. ")
    assert DECISION_PARTS == [line for line in text.splitlines() if line.startswith("## ")]


def test_decisions_are_numbered_without_gaps():
    assert [f"{n:04}" for n in range(1, len(DECISIONS) + 1)] == [page.stem[:4] for page in DECISIONS]
