"""docker-compose.yml: right by the compose specification, and what it starts does what it is for.

There is no container engine in a test: each service's own command and files are started as processes, with
the names of services turned into ports of loopback.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

import tests.xds.quiet  # noqa: F401
from sds_server.cli.main import certvoy
from sds_server.programs import envoy
from sds_server.programs.child import Child, free_port
from sds_server.targets.probe import served_fingerprint
from tests.support import debian
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.envoy_files import INSTALLED, endpoint, loopback, replaced

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
SCHEMA = ROOT / "tests" / "support" / "compose-spec" / "compose-spec.json"
REPLICAS = ("certvoy-1", "certvoy-2")
DOMAIN = "www.example.test"


def mounts(service):
    """Container path -> path in the tree, or the name of a volume."""
    found = [volume.split(":") for volume in SERVICES[service].get("volumes", ())]
    return {inside: outside for outside, inside, *_ in found}


def file_of(service, path):
    """The file of the tree that a service finds at a path of its container."""
    return ROOT / mounts(service)[path]


# ---------------------------------------------------------------- as text


def test_the_compose_specification_takes_it():
    # Its $schema is written with http:, by which jsonschema does not know the draft.
    schema = jsonschema.Draft201909Validator(json.loads(SCHEMA.read_text()))
    typing_error = COMPOSE | {"services": {"envoy": {"imaeg": "envoy"}}}

    assert [] == [error.message for error in schema.iter_errors(COMPOSE)]
    assert not schema.is_valid(typing_error)


def test_every_image_is_pinned_or_built_here_and_every_mount_is_there():
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    sources = {source for service in SERVICES for source in mounts(service).values()}

    assert [] == [image for image in images if not re.search(r":v?\d+(\.\d+)*(-\w+)*$", image)]
    assert [] == [source for source in sources if source.startswith("./") and not (ROOT / source).exists()]
    assert set(COMPOSE["volumes"]) == {source for source in sources if not source.startswith("./")}


def test_both_replicas_are_the_same_but_for_their_name_and_state():
    first, second = (
        {key: value for key, value in SERVICES[name].items() if key != "hostname"} for name in REPLICAS
    )

    assert json.dumps(first).replace(*REPLICAS) == json.dumps(second)


def test_no_port_is_open_to_other_machines_and_no_secret_is_written():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    text = (ROOT / "docker-compose.yml").read_text()

    assert [] == [port for port in ports if not port.startswith("127.0.0.1:")]
    assert [] == re.findall(r"(?i)(?:password|token|secret|key)\w*: *['\"]?(?!/)\S", text)


@pytest.mark.parametrize(
    "service", [name for name, it in SERVICES.items() if it["image"] == "certvoy" and "entrypoint" not in it]
)
def test_what_certvoy_is_told_are_commands_that_it_has(service):
    words = SERVICES[service].get("command", ["serve", "--config", "/etc/certvoy/certvoy.yaml"])
    command, context = certvoy, click.Context(certvoy)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(context, name)
    command.make_context(name, words)


# ---------------------------------------------------------------- at work


class Trial:
    """The services as processes; names, mounts and ports, the engine's part, are changed in the texts."""

    def __init__(self, directory, database):
        self.directory = directory
        self.database = database
        self.credentials = directory / "credentials"
        self.envoy_credentials = directory / "etc" / "credentials"
        self.ca, self.http, self.https, self.app = (free_port() for _ in range(4))
        self.children = []
        self.planes = {}
        self.envoy = None

    def make_credentials(self):
        """Run the service `credentials`, twice: the second time it must change nothing."""
        self.credentials.mkdir()
        self.envoy_credentials.mkdir(parents=True)
        # What is mounted from the tree is where it is in the tree; the volumes are this test's.
        places = {inside: ROOT / outside for inside, outside in mounts("credentials").items()}
        places |= {"/credentials": self.credentials, "/envoy": self.envoy_credentials}
        command = []
        for word in SERVICES["credentials"]["entrypoint"]:
            mount = next((path for path in places if word == path or word.startswith(f"{path}/")), None)
            command.append(str(places[mount]) + word.removeprefix(mount) if mount else word)
        subprocess.run(command, check=True, capture_output=True)
        made = snapshot(self.directory)
        subprocess.run(command, check=True, capture_output=True)
        assert made == snapshot(self.directory)
        # What the engine would mount at /etc/envoy/credentials lies elsewhere here.
        for snippet in self.envoy_credentials.glob("*.yaml"):
            snippet.write_text(replaced(snippet.read_text(), {INSTALLED: self.directory / "etc"}))

    def start_ca(self):
        """Pebble by its file and command; in place of the engine's DNS, one that knows this machine alone."""
        dns, management = free_port(), free_port()
        self.children.append(
            Child(
                "dns",
                [
                    debian.program("pebble-challtestsrv", of="pebble"),
                    *("-dns01", f"{HOST}:{dns}", "-management", f"{HOST}:{management}"),
                    *("-http01", "", "-https01", "", "-tlsalpn01", ""),
                    *("-defaultIPv4", HOST, "-defaultIPv6", ""),
                ],
                log=self.directory / "dns.log",
            )
        )
        told = file_of("pebble", "/etc/pebble.json").read_text()
        changes = {
            "0.0.0.0:14000": f"{HOST}:{self.ca}",
            "0.0.0.0:15000": f"{HOST}:{free_port()}",
            '"httpPort": 80': f'"httpPort": {self.http}',
            "/credentials": self.credentials,
        }
        config = self.directory / "pebble.json"
        config.write_text(replaced(told, changes))
        command = [config if word == "/etc/pebble.json" else word for word in SERVICES["pebble"]["command"]]
        program = debian.program("pebble", of="pebble")
        self.children.append(
            Child(
                "pebble",
                [program, *command, "-dnsserver", f"{HOST}:{dns}"],
                log=self.directory / "pebble.log",
                env=SERVICES["pebble"]["environment"],
            )
        )

    def prepare(self, name):
        """A replica: the file of the service, with ports of its own."""
        directory = self.directory / name
        directory.mkdir()
        plane = ControlPlane(directory, database="")
        config = replaced(
            file_of(name, "/etc/certvoy/certvoy.yaml").read_text(),
            {
                "https://pebble:14000": f"https://localhost:{self.ca}",
                "/credentials": self.credentials,
                "/var/lib/certvoy": directory / "state",
                "0.0.0.0:8080": f"{HOST}:{plane.http01_port}",
                "0.0.0.0:8443": f"{HOST}:{plane.sds_port}",
                "127.0.0.1:8081": f"{HOST}:0",
            },
        )
        # Only the test: `poll` and `lease` as short as the others have them.
        plane.settings = yaml.safe_load(config) | {
            "replica": SERVICES[name]["hostname"],
            "rotation": {"lease": "2s", "poll": "200ms"},
        }
        self.planes[name] = plane

    async def start_envoy(self):
        """The edge, with an endpoint for each replica, as the engine's DNS would say."""
        text = file_of("envoy", "/etc/envoy/edge.yaml").read_text()
        assert set(REPLICAS) == {
            name
            for name, service in SERVICES.items()
            if "certvoy.example.com" in (service.get("networks") or {}).get("default", {}).get("aliases", ())
        }
        for old, port_of in ((8443, "sds_port"), (8080, "http01_port")):
            line = next(line for line in text.splitlines() if endpoint("certvoy.example.com", old) in line)
            lines = [
                line.replace(endpoint("certvoy.example.com", old), endpoint(HOST, getattr(plane, port_of)))
                for plane in self.planes.values()
            ]
            text = text.replace(line, "\n".join(lines))
        moved = {
            ("0.0.0.0", 443): self.https,
            ("0.0.0.0", 80): self.http,
            ("127.0.0.1", 9901): 0,
            ("app.example.com", 8000): self.app,
        }
        text = replaced(text, {**loopback(moved), INSTALLED: self.directory / "etc"})
        self.envoy = await envoy.start(text, self.directory, form="yaml")
        await until(self.envoy.live)  # the service's health check

    async def command(self, service, replica):
        """Run what a one-off service runs."""
        words = [word.replace("envoy:443", f"{HOST}:{self.https}") for word in SERVICES[service]["command"]]
        config = words.index("--config")
        return await self.planes[replica].command(*words[:config])

    async def stop(self):
        for plane in self.planes.values():
            if plane.child is not None:
                await plane.stop()
        if self.envoy is not None:
            await self.envoy.stop()
        for child in reversed(self.children):
            await child.stop()


def snapshot(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def proved(sql, generation):
    async def holds():
        done = (
            "SELECT count(*) FROM certrotation JOIN certificate c ON c.id = new_cert_id"
            " WHERE outcome = 'completed' AND generation = $1"
        )
        return await sql.fetchval(done, generation) == 1

    return holds


@pytest.fixture
async def trial(tmp_path, connect):
    trial = Trial(tmp_path, dsn(connect))
    yield trial
    await trial.stop()


def test_the_credentials_are_right_for_those_who_use_them(trial):
    trial.make_credentials()

    private = [*trial.credentials.glob("*.key"), trial.credentials / "kek", trial.credentials / "database"]
    private += [trial.credentials / "postgres-password", trial.envoy_credentials / "tls.key"]
    assert [] == [path.name for path in private if path.stat().st_mode & 0o077]
    assert not (trial.credentials / "ca.key").exists()
    environment = SERVICES["postgres"]["environment"]
    password = (trial.credentials / "postgres-password").read_text()
    url = f"postgresql://{environment['POSTGRES_USER']}:{password}@postgres/{environment['POSTGRES_DB']}"
    assert url == (trial.credentials / "database").read_text()


@pytest.mark.debian
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
async def test_it_issues_serves_and_rotates_also_when_a_replica_was_killed(trial, sql):
    """Pebble asks through Envoy, either replica answers; each generation is proved by a handshake."""
    trial.make_credentials()
    (trial.credentials / "database").write_text(trial.database)
    try:
        trial.start_ca()
    except debian.Unavailable as e:
        pytest.skip(str(e))
    for name in REPLICAS:
        trial.prepare(name)
    await trial.start_envoy()
    for plane in trial.planes.values():
        await plane.start()
    code, said = await trial.command("register", "certvoy-1")
    assert code == 0, said

    await until(proved(sql, 1))
    first = await served_fingerprint(f"{HOST}:{trial.https}", DOMAIN)
    trial.planes["certvoy-1"].child.kill()
    code, said = await trial.planes["certvoy-2"].command("rotate", "www")
    assert code == 0, said
    await until(proved(sql, 2))
    second = await served_fingerprint(f"{HOST}:{trial.https}", DOMAIN)

    issued = await sql.fetch("SELECT fingerprint FROM certificate ORDER BY generation")
    assert [first, second] == [row["fingerprint"] for row in issued]
