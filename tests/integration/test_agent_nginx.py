"""docs/targets/nginx.md with the real control plane, agent and nginx: enrol, rotate under users, refuse."""

import asyncio
import os
import re
import ssl
import statistics

import pytest
import yaml

from tests.support import beside, debian
from tests.support.beside import HOST, Nginx
from tests.support.control_plane import until
from tests.support.pages import DOCS, blocks, section

pytestmark = pytest.mark.debian

PAGE = DOCS / "targets" / "nginx.md"
DOMAIN = "www.example.test"
ROTATIONS = 20
SLOW = 4 * 1024 * 1024


class Site(Nginx):
    """nginx as the page has it; one of its answers takes as long as the test does."""

    @property
    def directory(self):
        return self.home / "www"

    @property
    def lines(self):
        page = blocks(section(PAGE, "In three steps"), "nginx")[0]
        slow = f"location /slow {{ root {self.home}; limit_rate 8k; }}"
        return page.replace("/var/lib/certvoy-pairs/www", str(self.directory)) + slow


def agent_yaml(host, server):
    """The page's agent.yaml, with this test's places."""
    (text,) = [block for block in blocks(section(PAGE, "In three steps"), "yaml") if "bundles:" in block]
    settings = yaml.safe_load(text)
    settings["server"] = server
    settings["credentials"] = str(host.home / "credentials")
    settings["token_file"] = str(host.home / "token")
    (bundle,) = settings["bundles"]
    bundle["directory"] = str(host.directory)
    bundle["probe"]["address"] = host.address
    bundle["nginx"] = {"command": host.command}
    return yaml.safe_dump(settings)


class Users:
    """Handshakes without end, each with a request; and one request that is under way all the time."""

    def __init__(self, site, ca_file):
        self._site, self._context = site, ssl.create_default_context(cafile=str(ca_file))
        self.done, self.failures, self.leaves = 0, [], set()
        self.held = 0

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(2)]
        self._tasks.append(asyncio.create_task(self._hold()))
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, path):
        reader, writer = await asyncio.open_connection(
            HOST, self._site.port, ssl=self._context, server_hostname=DOMAIN
        )
        self.leaves.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {DOMAIN}\r\n\r\n".encode())
        return reader, writer

    async def _visit(self):
        while True:
            try:
                async with asyncio.timeout(10):
                    reader, writer = await self._open("/")
                    answer = await reader.read()
                    writer.transport.abort()
                if b"hello" not in answer:
                    self.failures.append(f"answered {answer[:40]!r}")
            except (OSError, EOFError) as e:
                self.failures.append(repr(e))
            self.done += 1
            await asyncio.sleep(0.01)

    async def _hold(self):
        reader, writer = await self._open("/slow")
        try:
            while content := await reader.read(4096):
                self.held += len(content)
            self.failures.append("the held connection ended")
        except OSError as e:
            self.failures.append(f"the held connection: {e!r}")
        finally:
            writer.transport.abort()


@pytest.fixture
async def plane(connect, tmp_path):
    async with beside.control_plane(connect, tmp_path) as plane:
        yield plane


@pytest.fixture
async def host(tmp_path):
    home = tmp_path / "host"
    home.mkdir()
    try:
        site = Site(home)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    (home / "slow").write_bytes(os.urandom(SLOW))
    yield site
    await site.stop()


@pytest.mark.timeout(400)
async def test_the_page_serves_rotates_proves_and_keeps_what_works(plane, host, sql):
    async def outcome(generation):
        return await sql.fetchval(
            "SELECT r.outcome FROM certrotation r JOIN certificate c ON c.id = r.new_cert_id"
            " WHERE c.generation = $1",
            generation,
        )

    def completed(generation):
        async def holds():
            return await outcome(generation) == "completed"

        return holds

    # In three steps.
    await plane.start()
    code, said = await plane.command("proxies", "enroll", "web-1", "--secret", "www")
    assert 0 == code, said
    (host.home / "token").write_text(said.strip().splitlines()[-1])
    (host.home / "agent.yaml").write_text(agent_yaml(host, f"https://{plane.settings['admin']['listen']}"))
    agent = beside.agent(host.home)
    try:
        await agent.ready(lambda: asyncio.to_thread((host.directory / "current").exists), timeout_s=180)
        await host.start()
        await until(completed(1))

        # Rotations, under users.
        async with Users(host, plane.root) as users:
            for generation in range(2, ROTATIONS + 2):
                code, said = await plane.command("rotate", "www")
                assert 0 == code, said
                await until(completed(generation))
            flowing = users.held

            async def flows():
                return users.held > flowing

            await until(flows)
        took = await sql.fetch(
            "SELECT extract(epoch FROM a.timestamp - c.issued_at) AS seconds"
            " FROM certaudit a JOIN certificate c ON c.id = a.cert_id"
            " WHERE a.action = 'delivery.proved' AND c.generation > 1"
        )
        seconds = sorted(float(row["seconds"]) for row in took)
        print(
            f"{ROTATIONS} rotations, {users.done} handshakes, {len(users.failures)} failed, "
            f"{len(users.leaves)} leaves; stored to proved: median {statistics.median(seconds):.2f} s, "
            f"longest {seconds[-1]:.2f} s"
        )
        assert [] == users.failures
        assert ROTATIONS == len(seconds)
        assert users.done > ROTATIONS
        assert len(users.leaves) >= ROTATIONS

        # nginx refuses what comes next: the reason is told, and the old one is served and current again.
        before = await host.served()
        host.spoil()
        await plane.command("rotate", "www")

        async def refused():
            _, why = await plane.command("why", "www")
            return "unknown directive" in why

        await until(refused)
        assert before == await host.served()

        async def taken_back():
            status = "SELECT status FROM certificate ORDER BY generation DESC LIMIT 1"
            return await sql.fetchval(status) == "rejected"

        await until(taken_back)
        _, listed = await plane.command("targets", "ls")
        assert re.search(r"^web-1\s+nginx", listed, re.MULTILINE), listed

        # Mended, the next one comes in.
        host.mend()
        await plane.command("rotate", "www")

        async def complete():
            return await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL") == 0

        await until(complete)
        newest = await sql.fetchval("SELECT fingerprint FROM certificate ORDER BY generation DESC LIMIT 1")
        assert before != newest
        assert newest == await host.served()
    finally:
        agent.kill()
