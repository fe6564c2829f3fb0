"""deploy/systemd: the units are such that systemd takes, and certvoy does what they promise there."""

import re
import shlex
import shutil
import socket
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sds_server import memory
from sds_server.agent.files import CredentialFiles
from sds_server.cli.responder import command as responder_command
from sds_server.config.certvoy_yaml import load
from sds_server.programs.child import Child, free_port
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "deploy" / "systemd"
UNIT = DIRECTORY / "certvoy.service"
AGENT = DIRECTORY / "certvoy-agent.service"
PAIRS = DIRECTORY / "certvoy-pairs.service"
RESPONDER = DIRECTORY / "certvoy-responder.service"
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


class Unit(dict):
    """Directives that stand more than once are lists."""

    def __init__(self, text):
        super().__init__()
        for line in text.splitlines():
            if line and not line.startswith(("#", "[", ";")):
                name, _, value = line.partition("=")
                self.setdefault(name, []).append(value)


def unit(file=UNIT):
    return Unit(file.read_text().replace("\\\n", ""))


@pytest.mark.parametrize("file", [UNIT, AGENT, PAIRS, RESPONDER], ids=lambda file: file.stem)
def test_systemd_finds_nothing_to_say_about_the_unit(file, tmp_path):
    """The program is another: in /opt/certvoy there is none here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here (Debian package systemd)")
    text = file.read_text()
    (tmp_path / file.name).write_text(text.replace("/opt/certvoy/bin/certvoy", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", "--generators=no", tmp_path / file.name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)

    ours = [line for line in (run.stdout + run.stderr).splitlines() if file.name in line]
    assert (0, []) == (run.returncode, ours)


@pytest.mark.parametrize("file", [UNIT, AGENT, RESPONDER], ids=lambda file: file.stem)
def test_every_credential_of_a_unit_is_put_there_by_the_readme(file):
    """Systemd starts nothing for which one is missing."""
    commands = "".join(blocks((DIRECTORY / "README.md").read_text()))
    sources = [value.partition(":")[2] for value in unit(file)["LoadCredential"]]

    assert [] == [path for path in sources if not re.search(rf"(?m)^install .* {path}(?= |$)", commands)]


def test_the_command_is_on_the_path_before_the_readme_calls_it():
    """It is installed into a virtual environment: Debian's own Python takes nothing by pip."""
    install, *later = blocks((DIRECTORY / "README.md").read_text())

    assert re.search(r"(?m)^ln -s /opt/certvoy/bin/certvoy /usr/local/bin/$", install)
    assert any(line.startswith("certvoy ") for block in later for line in block.splitlines())


@pytest.mark.parametrize("file", [UNIT, AGENT, PAIRS, RESPONDER], ids=lambda file: file.stem)
def test_no_directive_stands_in_a_comment_of_its_line(file):
    """Systemd reads a # after a value as a part of it."""
    assert [] == [value for values in unit(file).values() for value in values if "#" in value]


def test_the_agent_is_shut_in_as_the_control_plane_is_but_for_the_proxys_user():
    """RemoveIPC= would remove what is the proxy's; an agent opens few sockets, and has no watchdog."""
    ours, agents = unit(), unit(AGENT)
    told = {"Description", "Environment", "ExecStart", "User", "LoadCredential", "StateDirectory", "Before"}
    told |= {"Restart", "RestartSec", "StartLimitIntervalSec", "TimeoutStartSec"}

    assert {"DynamicUser", "RemoveIPC", "LimitNOFILE", "WatchdogSec", "TimeoutStopSec", "ExecReload"} == set(
        ours
    ) - set(agents)
    assert {"User", "Before", "StartLimitIntervalSec"} == set(agents) - set(ours)
    assert {key: values for key, values in ours.items() if key in agents and key not in told} == {
        key: values for key, values in agents.items() if key not in told
    }


@pytest.mark.parametrize("file", [UNIT, AGENT, PAIRS], ids=lambda file: file.stem)
def test_a_unit_keeps_keys_out_of_freed_memory_core_files_and_swap(file):
    """With what the process would begin once more with otherwise."""
    assignments = dict(word.split("=", 1) for line in unit(file)["Environment"] for word in line.split())

    assert None is memory.environment_for(assignments)
    assert (["0"], ["0"]) == (unit(file)["LimitCORE"], unit(file)["MemorySwapMax"])


def test_the_responder_is_shut_in_as_the_control_plane_is_but_for_its_port():
    """And it is handed the database's URL alone."""
    ours, answers = unit(), unit(RESPONDER)
    told = {"Description", "ExecStart", "LoadCredential", "Restart", "CapabilityBoundingSet", "LimitNOFILE"}
    only = {"StateDirectory", "StateDirectoryMode", "TimeoutStartSec", "TimeoutStopSec"}
    only |= {"Environment", "MemorySwapMax"}  # of who has keys in its memory

    assert {"AmbientCapabilities", "InaccessiblePaths"} == set(answers) - set(ours)
    assert only | {"ExecReload"} == set(ours) - set(answers)
    assert {key: values for key, values in ours.items() if key in answers and key not in told} == {
        key: values for key, values in answers.items() if key in ours and key not in told
    }
    assert ["database:/etc/certvoy/database.answer"] == answers["LoadCredential"]
    (command,) = answers["ExecStart"]
    words = shlex.split(command.replace("${CREDENTIALS_DIRECTORY}", "/run"))[2:]
    assert "0.0.0.0:80" == str(responder_command.make_context("responder", words).params["http01"])


def test_the_configuration_loads_with_the_credentials_that_the_unit_hands_over(tmp_path, monkeypatch):
    """Each ${CREDENTIALS_DIRECTORY}/NAME of the file is loaded by the unit, and the unit loads no other."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    names = [value.partition(":")[0] for value in unit()["LoadCredential"]]
    for name in names:
        (tmp_path / name).write_text("postgresql://certvoy:hunter2@db/certvoy\n")
    text = (DIRECTORY / "certvoy.yaml").read_text()
    (tmp_path / "certvoy.yaml").write_text(text.replace("/etc/certvoy", str(tmp_path)))

    config = load(tmp_path / "certvoy.yaml")

    assert "postgresql://certvoy:hunter2@db/certvoy" == config.database
    assert tmp_path / "kek" == config.kms.key_file
    assert Path("/var/lib") / unit()["StateDirectory"][0] == config.state_dir
    assert sorted(names) == sorted(
        line.split("}/")[1].split()[0] for line in text.splitlines() if "}/" in line
    )


@pytest.fixture
def inbox(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.setblocking(False)
        yield channel


def heard(inbox):
    """All that systemd was told until now."""
    messages = []
    while True:
        try:
            messages.append(inbox.recv(64).decode())
        except BlockingIOError:
            return messages


async def test_serve_is_ready_when_it_serves_feeds_the_watchdog_and_says_that_it_stops(
    connect, inbox, tmp_path, monkeypatch
):
    """With its secrets as credentials, in a directory whose name only the environment knows."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    plane = ControlPlane(tmp_path, database="")
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    (credentials / "database").write_text(dsn(connect) + "\n")
    kek = subprocess.run(
        "head -c 32 /dev/urandom | base64", shell=True, capture_output=True, check=True
    ).stdout
    (credentials / "kek").write_bytes(kek)
    (credentials / "kek").chmod(0o440)  # as an ACL for one user looks from outside
    published = yaml.safe_load((DIRECTORY / "certvoy.yaml").read_text())
    plane.settings |= {"database": published["database"], "kms": published["kms"]}
    plane.settings["sds"] = published["sds"] | {"listen": f"{HOST}:{plane.sds_port}"}
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "600000",
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    told = []

    def hears(message):
        async def holds():
            told.extend(heard(inbox))
            return message in told

        return holds

    plane.launch(env=environment)
    await until(hears("READY=1"))
    with socket.create_connection((HOST, plane.sds_port)):  # it serves, and not: it has begun to start
        told.clear()
    await until(hears("WATCHDOG=1"))
    stopped = await plane.stop()

    assert 0 == stopped, plane.log()
    assert "STOPPING=1" in told + heard(inbox)


async def test_serve_lives_under_memory_deny_write_execute(connect, tmp_path):
    """The kernel's own form of it (prctl(2) PR_SET_MDWE, Linux 6.3), which children inherit."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.write()
    refuse = "import ctypes; prctl = ctypes.CDLL(None).prctl"
    refuse += f"; assert 0 == prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)"
    if subprocess.run([sys.executable, "-c", refuse], capture_output=True, check=False).returncode != 0:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    start = "import runpy; runpy.run_module('sds_server', run_name='__main__', alter_sys=True)"
    plane.program = [sys.executable, "-c", f"{refuse}; {start}"]
    await plane.start()

    assert 0 == await plane.stop()
    assert ["yes"] == unit()["MemoryDenyWriteExecute"]


async def test_the_agent_has_started_when_its_credential_works_and_needs_the_token_once(
    connect, inbox, tmp_path
):
    """The unit's own command, with what systemd would put into it."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings["sds"] = {"listen": plane.settings["sds"]["listen"]}
    plane.settings["admin"] = {"listen": f"{HOST}:{free_port()}"}
    await plane.start()
    code, said = await plane.command("proxies", "enroll", "edge-1")
    assert 0 == code, said
    (loaded,) = unit(AGENT)["LoadCredential"]
    token = tmp_path / loaded.partition(":")[0]
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "CERTVOY_SERVER": f"https://{plane.settings['admin']['listen']}",
    }
    (command,) = unit(AGENT)["ExecStart"]
    program, *words = shlex.split(command.replace("%S", str(tmp_path)))
    words = [string.Template(word).substitute(environment) for word in words]
    assert "/opt/certvoy/bin/certvoy" == program
    files = CredentialFiles(tmp_path / unit(AGENT)["StateDirectory"][0])

    async def started():
        heard(inbox)
        argv = [sys.executable, "-m", "sds_server", *words]
        agent = Child("agent", argv, log=tmp_path / "agent.log", env=environment, cwd=ROOT)

        async def ready():
            return "READY=1" in heard(inbox)

        await agent.ready(ready, timeout_s=180)
        held = files.held()
        await agent.stop()
        return held.certificate

    token.write_text(said.splitlines()[-1])
    first = await started()
    token.write_text("")
    await plane.stop()

    assert first == await started()
