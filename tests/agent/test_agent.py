"""The process: several bundles of one program, one credential, one directory each."""

import asyncio
import sys

import pytest
import yaml

from sds_server.agent.versions import CURRENT
from sds_server.programs.child import Child
from sds_server.targets.probe import Way, served_fingerprint
from tests.support import debian, pki
from tests.support.beside import Caddy, HAProxy, Nginx
from tests.support.control_plane import until
from tests.support.front import Front, bundle, fingerprint

CA = pki.authority()
SITES = ("www.example.test", "mail.example.test")


class Sites(Nginx):
    """An nginx that starts with all of its files only."""

    def configure(self, directives=""):
        super().configure(directives)
        servers = "".join(
            f"server {{ listen {self.address} ssl; server_name {name};\n"
            f"  ssl_certificate {self.home}/{name}/current/fullchain.pem;\n"
            f"  ssl_certificate_key {self.home}/{name}/current/key.pem; return 200; }}\n"
            for name in SITES
        )
        text = self.config.read_text()
        self.config.write_text(text[: text.index("server {")] + servers + "}\n")


@pytest.fixture
async def front(tmp_path):
    front = Front(tmp_path)
    front.credential(tmp_path / "credentials")
    for name in SITES:
        front.offer(bundle(CA.issue(dns=[name]), 1, secret=name))
    await front.start()
    yield front
    await front.stop()


@pytest.fixture
async def nginx(tmp_path):
    try:
        nginx = Sites(tmp_path)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    yield nginx
    await nginx.stop()


@pytest.fixture
def start(tmp_path, front):
    """Start an agent for these bundles."""
    started = []

    def start(bundles):
        settings = {"server": front.url, "credentials": "credentials", "bundles": bundles}
        (tmp_path / "agent.yaml").write_text(yaml.safe_dump(settings))
        argv = [sys.executable, "-m", "sds_server", "agent", "--config", tmp_path / "agent.yaml"]
        started.append(Child("agent", argv, log=tmp_path / "agent.log", cwd=tmp_path, pdeathsig="KILL"))
        return started[-1]

    yield start
    for agent in started:
        agent.kill()


@pytest.mark.debian
async def test_an_nginx_that_needs_the_files_of_all_bundles_starts_with_them(front, nginx, start, tmp_path):
    """Whichever comes first is refused for what the other has not brought yet: nobody is told of that."""
    start(
        [
            {
                "secret": name,
                "directory": name,
                "probe": {"address": nginx.address},
                **nginx.settings(),
            }
            for name in SITES
        ]
    )

    async def placed():
        return all((tmp_path / name / CURRENT).exists() for name in SITES)

    async def proved():
        return [report for report in front.reports if report[0] == "proved"] == [("proved", 1, "")] * 2

    await until(placed)
    await nginx.start()
    await until(proved)

    assert [] == [report for report in front.reports if report[0] == "refused"]
    for name in SITES:
        leaf = fingerprint_of(tmp_path / name / CURRENT / "fullchain.pem")
        assert leaf == await nginx.served(name)

    # Each goes its own way from here.
    second = CA.issue(dns=[SITES[1]])
    front.offer(bundle(second, 2, secret=SITES[1]))

    async def rotated():
        return ("proved", 2, "") in front.reports

    await until(rotated)
    assert fingerprint(second) == await nginx.served(SITES[1])


@pytest.mark.debian
async def test_a_program_that_wants_the_proxy_protocol_is_proved_where_its_bundle_says_so(
    front, start, tmp_path
):
    program = HAProxy(tmp_path)
    program.program.write(program.configuration.replace("ssl crt", "accept-proxy ssl crt"))
    probe = {"address": program.address, "proxy_protocol": True}
    start([{**program.bundle(), "secret": SITES[0], "probe": probe}])

    async def placed():
        return (program.directory / CURRENT).exists()

    async def proved():
        return ("proved", 1, "") in front.reports

    await until(placed)
    await program.start()
    try:
        await until(proved)
        assert await program.served() is None, "without it nobody is shown a leaf"
    finally:
        await program.stop()


async def beside_a_caddy(start, home, protocols):
    """Start an agent for a Caddy with these protocols, which is to serve HTTP/3, and then that."""
    program = Caddy(home)
    only = f"{{\nservers {{\nprotocols {protocols}\n}}\n"
    program.program.config.write_text(program.configuration.replace("{\n", only, 1))
    probe = {"address": program.address, "http3": True, "within": "3s"}
    start([{**program.bundle(), "names": [SITES[0]], "secret": SITES[0], "probe": probe}])

    async def placed():
        return (program.directory / CURRENT).exists()

    await until(placed)
    await program.start()
    return program


async def test_a_program_with_http3_is_proved_over_quic_where_its_bundle_says_so(front, start, tmp_path):
    program = await beside_a_caddy(start, tmp_path, "h1 h2 h3")

    async def proved(generation):
        return ("proved", generation, "") in front.reports

    try:
        await until(lambda: proved(1))
        second = CA.issue(dns=[SITES[0]])
        front.offer(bundle(second, 2, secret=SITES[0]))
        await until(lambda: proved(2))
        seen = await served_fingerprint(Way(program.address, quic=True), SITES[0])
    finally:
        await program.stop()

    assert fingerprint(second) == seen


async def test_a_program_without_http3_is_not_proved_where_its_bundle_says_to_have_it(front, start, tmp_path):
    program = await beside_a_caddy(start, tmp_path, "h1 h2")

    async def told():
        return "over QUIC: Connection refused" in (tmp_path / "agent.log").read_text()

    try:
        await until(told)
    finally:
        await program.stop()

    assert "proved" not in {state for state, *_ in front.reports}


def fingerprint_of(path):
    return pki.x509.load_pem_x509_certificate(path.read_bytes()).fingerprint(pki.hashes.SHA256()).hex()


async def test_a_second_agent_on_the_same_files_is_sent_away(front, start, tmp_path):
    bundles = [{"secret": SITES[0], "directory": "pair", "files": {}}]
    start(bundles)

    async def placed():
        return ("accepted", 1, "") in front.reports

    await until(placed)
    second = start(bundles)
    code = await asyncio.wait_for(second.wait(), 60)

    assert 1 == code
    assert "another agent works there" in second.log_tail()


async def test_a_directory_where_others_may_write_is_said_at_the_start(start, tmp_path):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair").chmod(0o777)
    agent = start([{"secret": SITES[0], "directory": "pair", "files": {}}])
    code = await asyncio.wait_for(agent.wait(), 60)

    assert 1 == code
    assert "others may write there" in agent.log_tail()
    assert "chmod 700" in agent.log_tail()
