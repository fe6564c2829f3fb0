"""What every installer must do, each with its real program. A new one is entered in `SUBJECTS` and passes."""

import asyncio
import stat
import sys
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from sds_server.agent.config import KINDS, load
from sds_server.agent.delivery import Delivery, Outcome
from sds_server.agent.installers.table import INSTALLERS, installer_of
from sds_server.agent.looker import Looker
from sds_server.agent.pair import Bundle
from sds_server.agent.versions import CURRENT, PREVIOUS, Versions
from sds_server.clock import SystemClock
from sds_server.crashpoint import AGENT_POINTS
from sds_server.errors import OperatorError
from sds_server.programs.child import Child
from tests.support import debian, pki
from tests.support.beside import NAMES, SUBJECTS
from tests.support.control_plane import until
from tests.support.front import Front, bundle, fingerprint

pytestmark = pytest.mark.debian

CA = pki.authority()


def issue(**more):
    return CA.issue(dns=NAMES, **more)


class Watched:
    """An installer that keeps what it was asked for."""

    def __init__(self, installer):
        self._installer = installer
        self.asked = []

    @property
    def kind(self):
        return self._installer.kind

    async def check(self, pair, at):
        self.asked.append("check")
        await self._installer.check(pair, at)

    async def load(self, pair, at):
        self.asked.append("load")
        await self._installer.load(pair, at)


class Host:
    """A program and the agent's files beside it."""

    def __init__(self, home, subject):
        self.home, self.subject = home, subject
        self.config = home / "agent.yaml"
        self.front = Front(home)
        self.write()
        declared = load(self.config).bundles[0]
        self.installer = Watched(installer_of(declared.program))
        self.delivery = Delivery(
            secret=declared.secret,
            versions=Versions(declared.directory),
            installer=self.installer,
            looker=Looker(
                declared.probe.address, names=(), within=declared.probe.within, clock=SystemClock()
            ),
            clock=SystemClock(),
            wanted=declared.names,
        )

    def write(self):
        settings = {
            "server": self.front.url,
            "credentials": str(self.home / "credentials"),
            "bundles": [self.subject.bundle()],
        }
        self.config.write_text(yaml.safe_dump(settings))

    async def take(self, pair, generation, **other):
        return await self.delivery.take(
            Bundle.of(bundle(pair, generation, **other), etag=f'"v{generation}.json"')
        )

    async def serving(self):
        """A program that serves a first pair, proved."""
        first = issue()
        await self.take(first, 1)
        await self.subject.start()
        result = await self.delivery.resume()
        assert Outcome.PROVED is result.outcome
        self.installer.asked.clear()
        return first

    def agent(self, *, env=None):
        """The agent as a process of its own."""
        argv = [sys.executable, "-m", "sds_server", "agent", "--config", self.config]
        return Child("agent", argv, log=self.home / "agent.log", env=env, cwd=self.home, pdeathsig="KILL")

    async def reported(self, state, generation, *, by):
        """Wait until this agent has reported it."""

        async def holds():
            assert by.running, f"{state} {generation} is not reported: {by.log_tail()}"
            return (state, generation) in [report[:2] for report in self.front.reports]

        await until(holds)

    def on_disk(self):
        """The leaf that lies there, and whether the other files are of the same pair."""
        current = self.subject.directory / CURRENT
        chain, key = (current / "fullchain.pem").read_bytes(), (current / "key.pem").read_bytes()
        certificate = pki.x509.load_pem_x509_certificate(chain)
        public = pki.serialization.load_pem_private_key(key, None).public_key()
        whole = public == certificate.public_key() and (current / "combined.pem").read_bytes() == chain + key
        return certificate.fingerprint(pki.hashes.SHA256()).hex(), whole


TOLD = sorted(name for name, subject in SUBJECTS.items() if subject.loads)
"""Those that are told by something that can be made to fail."""

TAKING = (
    "agent.reported:2",
    "agent.settled",
    "agent.seen",
    "agent.loaded:2",
    "agent.checked:2",
    "agent.placed",
    "agent.remembered",
    "agent.written:2",
    "agent.fetched:2",
)
REFUSING = ("agent.reloaded", "agent.restored:2", "agent.restoring:2")
IN_BETWEEN = ("agent.seen", "agent.placed")
"""The points of one agent after the other, the last first: each goes on from where the one before was killed,
with that pair, and dies with the next. `:2`: on its way there it comes by the point where it is to die."""

KILLS = [
    pytest.param(name, points, id=f"{name}-{'refusing' if points is REFUSING else 'taking'}")
    for name, subject in SUBJECTS.items()
    for points in ((IN_BETWEEN,) if subject.variant else (TAKING, REFUSING))
    if subject.loads or points is not REFUSING
]
"""Every point with one subject of each kind; what is but another way to tell it is killed in between only."""


@pytest.fixture(params=sorted(SUBJECTS))
async def host(request, tmp_path):
    home = tmp_path / "host"
    home.mkdir()
    try:
        subject = SUBJECTS[request.param](home)
    except debian.Unavailable as e:
        pytest.skip(str(e))
    host = Host(home, subject)
    yield host
    await host.front.stop()
    await subject.stop()


def test_every_installer_is_here():
    assert set(KINDS) == {subject.kind for subject in SUBJECTS.values()}
    assert len(KINDS) == len(INSTALLERS)


# Coming in


async def test_a_first_pair_waits_for_the_program_and_is_proved_when_that_runs(host):
    first = issue()
    placed = await host.take(first, 1)
    await host.subject.start()
    result = await host.delivery.resume()

    # A command of the user's may not know that nobody runs; the pair stays in its place anyway.
    assert Outcome.ACCEPTED is placed.outcome or placed.kept
    assert (Outcome.PROVED, 1, fingerprint(first)) == (result.outcome, result.generation, result.served)
    assert [fingerprint(first)] * 2 == [await host.subject.served(name) for name in NAMES]


async def test_it_rotates_again_and_again(host):
    await host.serving()
    for generation in (2, 3):
        pair = issue()
        result = await host.take(pair, generation)

        assert (Outcome.PROVED, fingerprint(pair)) == (result.outcome, result.served)
        assert [fingerprint(pair)] * 2 == [await host.subject.served(name) for name in NAMES]
        assert (fingerprint(pair), True) == host.on_disk()


async def test_files_are_for_their_owner_alone_and_old_ones_go(host):
    await host.serving()
    await host.take(issue(), 2)
    current = host.subject.directory / CURRENT
    versions = [path for path in host.subject.directory.glob(".version-*") if path.is_dir()]

    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in current.iterdir()}
    assert 0o700 == stat.S_IMODE(host.subject.directory.stat().st_mode)
    assert [current.resolve()] == versions


async def test_what_is_served_already_is_looked_at_and_left_alone(host):
    first = await host.serving()
    again = await host.take(first, 1)

    assert (Outcome.PROVED, []) == (again.outcome, host.installer.asked)


# Refused


async def test_what_the_program_refuses_leaves_the_old_one_served_and_the_reason_told(host):
    first = await host.serving()
    host.subject.spoil()
    result = await host.take(issue(), 2)

    assert (Outcome.REFUSED, 2) == (result.outcome, result.generation)
    assert host.subject.WORDS in result.reason
    assert fingerprint(first) == await host.subject.served()
    assert (fingerprint(first), True) == host.on_disk()

    host.subject.mend()
    second = issue()
    assert Outcome.PROVED is (await host.take(second, 3)).outcome
    assert fingerprint(second) == await host.subject.served()


@pytest.mark.parametrize("host", TOLD, indirect=True)
async def test_a_load_that_fails_is_taken_back(host):
    first = await host.serving()
    host.subject.refuse()
    result = await host.take(issue(), 2)

    assert Outcome.REFUSED is result.outcome
    assert host.subject.LOAD_WORDS in result.reason
    assert fingerprint(first) == await host.subject.served()
    assert (fingerprint(first), True) == host.on_disk()


@pytest.mark.parametrize("host", TOLD, indirect=True)
async def test_one_that_says_yes_and_serves_the_old_one_is_found_out(host):
    first = await host.serving()
    host.subject.deafen()
    second = issue()
    result = await host.take(second, 2)

    assert Outcome.REFUSED is result.outcome
    assert f"serves {fingerprint(first)} for " in result.reason
    assert (fingerprint(first), True) == host.on_disk()


BEGINS = datetime.now(UTC) - timedelta(days=3)
BAD = {
    "expired": (issue(not_before=BEGINS, not_after=BEGINS + timedelta(days=1)), {}, "dates"),
    "of another key": (issue(), {"private_key": pki.key_pem(pki.new_key()).decode()}, "key"),
    "of other names": (CA.issue(dns=["www.example.org"]), {}, "names"),
    "no certificate": (issue(), {"chain": "garbage"}, "pem"),
    "no key": (issue(), {"private_key": "garbage"}, "key"),
    "of another secret": (issue(), {"name": "mail"}, "names"),
}


@pytest.mark.parametrize("what", sorted(BAD))
async def test_a_bad_pair_never_reaches_the_program(host, what):
    first = await host.serving()
    link = (host.subject.directory / CURRENT).readlink()
    pair, other, rule = BAD[what]
    result = await host.take(pair, 2, **other)

    assert Outcome.REFUSED is result.outcome
    assert result.reason.startswith(f"content gate: {rule}: ")
    assert [] == host.installer.asked
    assert link == (host.subject.directory / CURRENT).readlink()
    assert fingerprint(first) == await host.subject.served()


# Attacks


@pytest.mark.parametrize("planted", [CURRENT, PREVIOUS])
async def test_a_planted_link_is_refused_and_nothing_is_written_through_it(host, planted):
    first = await host.serving()
    elsewhere = host.home / "elsewhere"
    elsewhere.mkdir()
    (host.subject.directory / planted).unlink(missing_ok=True)
    (host.subject.directory / planted).symlink_to(elsewhere)
    with pytest.raises(OperatorError, match="not the agent that put it there"):
        await host.take(issue(), 2)

    assert [] == list(elsewhere.iterdir())
    assert [] == host.installer.asked
    if planted != CURRENT:
        assert fingerprint(first) == await host.subject.served()


# The process: killed, cut off


def test_every_point_is_in_a_chain():
    assert set(AGENT_POINTS) == {point.partition(":")[0] for point in (*TAKING, *REFUSING)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("host", "points"), KILLS, indirect=["host"])
async def test_killed_here_it_goes_on_with_a_whole_pair(host, points):
    """The pair on disk is whole at that moment; and in the end what is right is served and reported."""
    refuses = points is REFUSING
    good = await host.serving()
    host.front.credential(host.home / "credentials")
    host.front.offer(bundle(good, 1))
    await host.front.start()
    running = host.agent(env={"CERTVOY_CRASHPOINT": points[0]})
    await host.reported("proved", 1, by=running)
    if refuses:
        host.subject.refuse()

    for generation, (point, after) in enumerate(zip(points, (*points[1:], None), strict=True), 2):
        offered = issue()
        host.front.offer(bundle(offered, generation))
        code = await asyncio.wait_for(running.wait(), 60)
        assert -9 == code, f"{point}: {running.log_tail()}"
        assert host.on_disk()[1], point
        assert await host.subject.served() in {fingerprint(good), fingerprint(offered)}, point

        host.front.reports.clear()
        running = host.agent(env={"CERTVOY_CRASHPOINT": after} if after else None)
        await host.reported("refused" if refuses else "proved", generation, by=running)
        good = good if refuses else offered
        assert (fingerprint(good), True) == host.on_disk(), point
        assert fingerprint(good) == await host.subject.served(), point
    running.kill()


async def test_without_a_control_plane_it_serves_on_and_reports_later(host):
    first = await host.serving()
    host.front.credential(host.home / "credentials")
    running = host.agent()

    async def asked():
        return "bundle.not_fetched" in (host.home / "agent.log").read_text()

    async def reported():
        return ("proved", 1, "") in host.front.reports

    try:
        await until(asked)
        assert fingerprint(first) == await host.subject.served()
        host.front.offer(bundle(first, 1))
        await host.front.start()
        await until(reported)
    finally:
        running.kill()
    assert fingerprint(first) == await host.subject.served()
