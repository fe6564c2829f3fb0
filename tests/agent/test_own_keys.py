"""`key: local` as a process: killed anywhere, cut off, lied to; and the key is nowhere but on the host."""

import asyncio
import base64
import sys

import pytest
import yaml

from sds_server.agent.versions import CURRENT
from sds_server.crashpoint import KEY_POINTS
from sds_server.programs.child import Child
from tests.support import pki
from tests.support.control_plane import until
from tests.support.front import KeyFront, bundle, fingerprint, spki

CA = pki.authority()
NAMES = ("www.example.test", "api.example.test")
CHAIN = (
    "agent.key_made",
    "agent.key_kept",
    "agent.key_requested",
    "agent.fetched",
    "agent.written",
    "agent.placed",
    "agent.keys_removed",
    "agent.settled",
    "agent.reported",
)
"""The points of one agent after the other: each goes on from where the one before was killed."""


class Host:
    """An agent's host, without a program that would have to be told."""

    def __init__(self, home):
        self.home, self.directory = home, home / "pair"
        self.front = KeyFront(home, CA, names=NAMES)
        self.front.credential(home / "credentials")
        self.bundle = {"secret": "www", "directory": "pair", "key": "local", "files": {}}
        self.agents = []

    def agent(self, *options, env=None):
        settings = {"server": self.front.url, "credentials": "credentials", "bundles": [self.bundle]}
        (self.home / "agent.yaml").write_text(yaml.safe_dump(settings | {"log": "debug"}))
        argv = [sys.executable, "-m", "sds_server", "agent", "--config", self.home / "agent.yaml", *options]
        agent = Child("agent", argv, log=self.home / "agent.log", env=env, cwd=self.home, pdeathsig="KILL")
        self.agents.append(agent)
        return agent

    async def reported(self, state, generation):
        async def holds():
            return (state, generation) in [report[:2] for report in self.front.reports]

        await until(holds)

    async def waits(self):
        async def holds():
            return self.front.waits is not None

        await until(holds)

    def served(self):
        """The leaf in its place, and whether key and both files are its."""
        current = self.directory / CURRENT
        chain, key = (current / "fullchain.pem").read_bytes(), (current / "key.pem").read_bytes()
        leaf = pki.x509.load_pem_x509_certificate(chain)
        public = pki.serialization.load_pem_private_key(key, None).public_key()
        whole = public == leaf.public_key() and (current / "combined.pem").read_bytes() == chain + key
        return leaf.fingerprint(pki.hashes.SHA256()).hex(), whole

    @property
    def kept(self):
        """The keys in their files, by the hashes of their public halves."""
        loaded = [
            pki.serialization.load_pem_private_key(file.read_bytes(), None)
            for file in sorted((self.directory / "keys").glob("*.pem"))
        ]
        return {spki(key.public_key()): key for key in loaded}


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path)
    await host.front.start()
    yield host
    for agent in host.agents:
        agent.kill()
    await host.front.stop()


async def test_each_pair_is_of_a_new_key_that_was_made_here(host):
    host.agent()
    leaves = []
    for generation in (1, 2, 3):
        leaves.append(fingerprint(await host.front.ordered()))
        await host.reported("accepted", generation)
        assert (leaves[-1], True) == host.served()
    await host.waits()

    assert 3 == len(set(host.front.used))
    # The one that is served, the one before, and the one that waits.
    assert [*host.front.used[1:], spki(host.front.waits)] == list(host.kept)


def test_every_point_of_a_key_is_in_the_chain():
    assert set(KEY_POINTS) <= set(CHAIN)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", ["agent.key_made", "agent.key_made:2"])
async def test_killed_here_the_chain_that_comes_finds_its_key(host, first):
    """Of the first pair, where there is none before it; and of the second."""
    for point in (first, *CHAIN[1:]):
        killed = host.agent(env={"CERTVOY_CRASHPOINT": point})
        if point in {"agent.key_made:2", "agent.fetched"}:
            await host.front.ordered()
        code = await asyncio.wait_for(killed.wait(), 60)
        assert -9 == code, f"{point}: {killed.log_tail()}"
        if (host.directory / CURRENT).exists():
            assert host.served()[1], point
        # Whatever the control plane has, ordered or not, is of a key that is here.
        assert {*host.front.used, *([spki(host.front.waits)] if host.front.waits else [])} <= set(host.kept)

    host.agent()
    if host.front.generation == 1:
        await host.front.ordered()
    await host.reported("accepted", 2)
    await host.waits()

    assert (host.front.current_leaf, True) == host.served()
    assert 2 == len(set(host.front.used))
    assert spki(host.front.waits) in host.kept
    assert {None} == set(host.front.lost)


async def test_an_answer_that_is_lost_costs_nothing(host):
    host.front.cut = 1
    host.agent()
    await host.waits()
    first = host.front.order()
    await host.reported("accepted", 1)
    await host.waits()

    assert (fingerprint(first), True) == host.served()
    assert spki(host.front.waits) not in host.front.used


async def test_a_control_plane_from_a_backup_goes_back_by_one_and_on_with_a_new_key(host):
    host.agent()
    for generation in (1, 2):
        pair = await host.front.ordered()
        await host.reported("accepted", generation)
        if generation == 1:
            first, used, before = pair, list(host.front.used), host.front.offered
    await host.waits()
    # What it knew after generation 1: the key that is now in use waits there to be ordered.
    waits = pki.x509.load_pem_x509_certificate(pair.chain_pem).public_key()
    host.front.reports.clear()
    host.front.generation, host.front.used, host.front.waits = 1, used, waits
    host.front.offer(before)
    await host.reported("accepted", 1)
    assert (fingerprint(first), True) == host.served()

    async def replaced():
        return host.front.waits is not None and host.front.waits != waits

    await until(replaced)
    third = await host.front.ordered()
    await host.reported("accepted", 2)
    assert (fingerprint(third), True) == host.served()


async def test_a_chain_of_a_key_that_is_gone_is_refused_told_of_and_replaced(host):
    agent = host.agent()
    await host.front.ordered()
    await host.reported("accepted", 1)
    await host.waits()
    agent.kill()
    await agent.wait()
    for file in sorted(host.directory.rglob("*"), reverse=True):
        file.unlink() if file.is_file() or file.is_symlink() else file.rmdir()

    host.front.waits = None  # it was ordered meanwhile
    host.agent()
    await host.reported("refused", 1)

    async def told():
        return 1 in host.front.lost

    await until(told)
    second = await host.front.ordered()
    await host.reported("accepted", 2)
    await host.waits()

    (reason,) = {report[2] for report in host.front.reports if report[0] == "refused"}
    assert "is not on this host: another one is ordered" in reason
    assert (fingerprint(second), True) == host.served()
    assert {None, 1} == set(host.front.lost)


async def test_once_tells_of_a_missing_key_as_well(host):
    stranger = CA.issue(dns=NAMES)
    host.front.offer(bundle(stranger, 1, private_key=None))
    agent = host.agent("--once")
    code = await asyncio.wait_for(agent.wait(), 60)

    assert 1 == code
    assert "is not on this host" in agent.log_tail()
    assert [None, 1] == host.front.lost


@pytest.mark.parametrize(
    ("key", "private_key", "words"),
    [("local", "delivered", "key_holder: target"), ("delivered", None, "write `key: local`")],
)
async def test_the_wrong_kind_of_bundle_is_refused_with_the_remedy(host, key, private_key, words):
    host.bundle["key"] = key
    stranger = CA.issue(dns=NAMES)
    given = stranger.key_pem.decode() if private_key else None
    host.front.offer(bundle(stranger, 1, private_key=given))
    host.agent()
    await host.reported("refused", 1)

    assert words in host.front.reports[0][2]
    assert not (host.directory / CURRENT).exists()


async def test_where_another_target_has_the_keys_it_says_so_and_fetches_nothing(host):
    host.front.refusal = (409, "web-2 (spiffe://example.test/web-2) has its keys")
    agent = host.agent()

    async def said():
        return "web-2 (spiffe://example.test/web-2) has its keys" in agent.log_tail()

    await until(said)
    assert 0 == host.front.fetched


def needles(key):
    """What a key looks like, whole or in parts: lines of PEM, DER, the secret number; hex and base64 too."""
    der = key.private_bytes(
        pki.serialization.Encoding.DER,
        pki.serialization.PrivateFormat.PKCS8,
        pki.serialization.NoEncryption(),
    )
    number = key.private_numbers().private_value.to_bytes(32)
    yield from (line for line in pki.key_pem(key).splitlines() if not line.startswith(b"---"))
    for secret in (der, number):
        yield secret
        yield secret.hex().encode()
        for skipped in range(3):  # base64 of something longer shows it in one of three alignments
            whole = base64.b64encode(secret[skipped:])
            yield whole[: len(whole) // 4 * 4 - 4]


async def test_the_private_key_is_in_no_request_no_log_line_and_no_report(host):
    """Over issuance, rotation, a kill, a refused chain and a refused request."""
    made = {}
    killed = host.agent(env={"CERTVOY_CRASHPOINT": "agent.key_requested:2"})
    await host.front.ordered()
    await asyncio.wait_for(killed.wait(), 60)
    made |= host.kept
    host.agent()
    for generation in (2, 3):
        await host.front.ordered()
        await host.reported("accepted", generation)
        await host.waits()
        made |= host.kept
    host.front.refusal = (400, "csr: cannot be used")
    host.front.waits = None
    host.front.offer(bundle(CA.issue(dns=NAMES), 4, private_key=None))
    await host.reported("refused", 4)
    made |= host.kept

    log = (host.home / "agent.log").read_bytes()
    heard = b"\n".join(host.front.heard)
    assert heard.count(b"BEGIN CERTIFICATE REQUEST") >= 4
    assert b"key.not_requested" in log
    assert len(made) >= 5
    for key in made.values():
        pem = pki.key_pem(key)
        written = pem + base64.b64decode(b"".join(pem.splitlines()[1:-1]))
        assert any(needle in written for needle in needles(key)), "the needles would find it"
        for needle in needles(key):
            assert needle not in heard
            assert needle not in log
    assert b"PRIVATE KEY" not in heard + log
