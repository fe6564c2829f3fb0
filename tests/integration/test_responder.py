"""`certvoy responder`: a process that answers challenges, with a login that may do nothing else."""

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

from sds_server.cli.responder import command
from sds_server.errors import Unavailable
from sds_server.inventory.database import open_database
from sds_server.inventory.schema import bring_up
from sds_server.programs.child import Child
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.fault_proxy import Fault
from tests.support.postgres_network import behind

ROOT = Path(__file__).parents[2]


class Responder:
    """`certvoy responder` as an operator runs it."""

    def __init__(self, directory, connect):
        self.directory = directory
        (directory / "database.answer").write_text(dsn(connect))
        self.child = None

    async def start(self, *options):
        files = ("--database-file", self.directory / "database.answer", "--ports-file", self.ports)
        argv = [sys.executable, "-m", "sds_server", "responder", *files, *options]
        self.child = Child("responder", argv, log=self.directory / "responder.log", cwd=ROOT)

        async def answers():
            return self.ports.exists()

        await self.child.ready(answers, timeout_s=180)

    @property
    def ports(self):
        return self.directory / "ports"

    def log(self):
        return (self.directory / "responder.log").read_text()


@pytest.fixture
async def login(connect):
    """A login of the responder's role, in a database that is migrated."""
    opened = await open_database(connect, size=1)
    await bring_up(opened)
    await opened.close()
    name = f"{connect['database']}_answer"
    sql = await asyncpg.connect(**connect)
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2' IN ROLE {connect['database']}_responder")
    yield {**connect, "user": name, "password": "hunter2"}
    await sql.close()


@pytest.fixture
async def responder(tmp_path, login):
    made = Responder(tmp_path, login)
    yield made
    if made.child is not None:
        await made.child.stop()


async def asked(port, token="x" * 30):
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    line = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    return int(line.split()[1])


@pytest.mark.debian
@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
async def test_a_ca_validates_by_it_while_serve_answers_nothing(kind, pebble, connect, responder, tmp_path):
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(pebble.directory_url, pebble.ca_file, challenge=kind, terms_agreed=True)
    plane.settings["http01"] = {"listen": "off"}
    plane.settings["tls_alpn01"] = {"listen": "off"}
    await responder.start(
        "--http01", f"{HOST}:{pebble.http_port}", "--tls-alpn01", f"{HOST}:{pebble.tls_port}"
    )
    await plane.start()
    sql = await asyncpg.connect(**connect)

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate") == 1

    try:
        await until(issued)
        who = await sql.fetch("SELECT usename FROM pg_stat_activity")
    finally:
        await sql.close()
        await plane.stop()
    (ready,) = [entry for entry in plane.entries() if entry["event"] == "app.ready"]

    assert (None, None) == (ready["http01_port"], ready["tls_alpn01_port"])
    assert f"{connect['database']}_answer" in {row["usename"] for row in who}
    assert "overprivileged" not in responder.log()
    assert 0 == await responder.child.stop()


async def test_the_internet_is_told_no_by_it_and_not_yet_while_the_database_is_away(login, tmp_path):
    async with behind(login) as network:
        responder = Responder(tmp_path, network.connect)
        await responder.start("--http01", f"{HOST}:0")
        port = int(responder.ports.read_text().split()[0])
        try:
            unknown = await asked(port)
            network.proxy.become(Fault.RESET)
            away = await asked(port, "y" * 30)
            network.proxy.heal()
            again = await asked(port, "z" * 30)
        finally:
            await responder.child.stop()

    assert (404, 503, 404) == (unknown, away, again)


async def test_a_login_that_could_do_more_becomes_the_responder(login, connect, tmp_path):
    """A superuser's session without what the role may would read on."""
    responder = Responder(tmp_path, connect)
    await responder.start("--http01", f"{HOST}:0")
    port = int(responder.ports.read_text().split()[0])
    sql = await asyncpg.connect(**connect)
    before = await asked(port)
    await sql.execute(f"REVOKE ALL ON challenge_token FROM {connect['database']}_responder")
    after = await asked(port, "y" * 30)
    await sql.close()
    await responder.child.stop()

    assert (404, 503) == (before, after)
    assert "overprivileged" not in responder.log()


async def test_a_login_that_reads_keys_and_cannot_be_less_is_warned_of(login, connect, tmp_path):
    sql = await asyncpg.connect(**connect)
    name = f"{connect['database']}_serve"
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2' IN ROLE {connect['database']}_app")
    await sql.close()
    responder = Responder(tmp_path, {**connect, "user": name, "password": "hunter2"})
    await responder.start("--http01", f"{HOST}:0")
    await responder.child.stop()

    assert "responder.overprivileged" in responder.log()


async def test_a_database_without_a_schema_is_named(bare, tmp_path):
    responder = Responder(tmp_path, bare)
    with pytest.raises(Unavailable, match="certvoy migrate"):
        await responder.start("--http01", f"{HOST}:0")
    await responder.child.stop()


def test_it_answers_something():
    from click.testing import CliRunner

    run = CliRunner().invoke(command, ["--database-file", "x"])

    assert 2 == run.exit_code
    assert "nothing to answer" in run.output
