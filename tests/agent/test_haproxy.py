"""The HAProxy installer, on a real HAProxy."""

import asyncio
import fcntl
import os
import re
import signal
import subprocess
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.agent.installers import haproxy_socket, master
from sds_server.agent.installers.haproxy import HAProxy, HAProxySettings
from sds_server.agent.installers.haproxy_socket import RuntimeApi
from sds_server.agent.installers.installer import NotRunning, Rejected
from sds_server.targets.probe import ProbeFailed, served_fingerprint, served_leaves
from tests.support import debian, haproxy
from tests.support.control_plane import until
from tests.support.pairs import DOMAIN, Issuer, place, settings
from tests.support.pki import authority
from tests.support.traffic import Traffic

pytestmark = pytest.mark.debian
SITES = authority()


@pytest.fixture
def pairs(tmp_path):
    return tmp_path / "pairs"


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
async def started(tmp_path):
    """Start an HAProxy of this bind line; ended with the test."""
    running = []

    async def start(bind, global_settings=""):
        proxy = haproxy.HAProxy(tmp_path, bind, global_settings)
        running.append(proxy)
        await proxy.start()
        return proxy

    try:
        debian.program("haproxy", of="haproxy")
    except debian.Unavailable as e:
        pytest.skip(str(e))
    yield start
    for proxy in running:
        await proxy.stop()


def installer(**values):
    """An HAProxy that is not asked for its own check, unless a command says how."""
    return HAProxy(settings(HAProxySettings, **{"command": ("true",)} | values))


async def test_who_can_only_read_the_sockets_directory_cannot_keep_the_agent_waiting(tmp_path, monkeypatch):
    """/run/haproxy is open to every user of the host, and so is a lock of it."""
    monkeypatch.setattr(haproxy_socket, "TURN_S", 0.2)
    stranger = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    try:
        async with RuntimeApi(tmp_path / "admin.sock").turn():
            with pytest.raises(NotRunning, match="somebody else"):
                async with RuntimeApi(tmp_path / "admin.sock").turn():
                    pass
    finally:
        os.close(stranger)

    assert 0o600 == (tmp_path / ".admin.sock.lock").stat().st_mode & 0o777


async def test_a_socket_that_anyone_could_have_made_is_not_given_a_key(tmp_path, issuer, pairs):
    shared, heard = tmp_path / "shared", []
    shared.mkdir()
    shared.chmod(0o1777)

    async def listen(reader, writer):
        heard.append(await reader.readline())
        writer.write(b"Status: Used\n")
        writer.close()

    pair = issuer.next()
    async with await asyncio.start_unix_server(listen, shared / "admin.sock"):
        for ask in (
            installer(socket=shared / "admin.sock").check,
            installer(socket=shared / "admin.sock").load,
        ):
            with pytest.raises(Rejected, match="everybody may write there"):
                await ask(pair, place(pairs, pair))

    assert [] == heard


async def served(proxy):
    try:
        return await served_fingerprint(proxy.address, DOMAIN)
    except ProbeFailed:
        return None


async def test_a_rotation_over_the_socket_costs_no_connection(started, issuer, pairs):
    at = place(pairs, issuer.next())
    proxy = await started(f"ssl crt {at.combined}")
    installs = installer(socket=proxy.socket, command=proxy.command)

    async with Traffic(proxy.address, DOMAIN) as traffic:
        for _ in range(20):
            pair = issuer.next()
            place(pairs, pair)
            await installs.check(pair, at)
            await installs.load(pair, at)

            assert pair.fingerprint == await served(proxy)

    print(traffic)
    assert (0, 0, 0) == (traffic.failed, traffic.cut, traffic.broken), traffic.errors
    assert traffic.done > 20
    assert traffic.held > 20


async def test_of_two_types_of_keys_each_leaf_is_seen(started, tmp_path):
    pairs = [SITES.issue([DOMAIN]), SITES.issue([DOMAIN], key=rsa.generate_private_key(65537, 2048))]
    for number, pair in enumerate(pairs):
        (tmp_path / f"{number}.pem").write_bytes(pair.chain_pem + pair.key_pem)
    proxy = await started(f"ssl crt {tmp_path}/0.pem crt {tmp_path}/1.pem")

    leaves = [leaf async for leaf in served_leaves(proxy.address, DOMAIN)]

    assert [pair.certificate.public_bytes(Encoding.DER) for pair in pairs] == leaves


async def test_checked_it_is_not_served_and_leaves_no_transaction(started, issuer, pairs):
    first = issuer.next()
    at = place(pairs, first)
    proxy = await started(f"ssl crt {at.combined}")
    second = issuer.next()
    place(pairs, second)

    await installer(socket=proxy.socket).check(second, at)

    assert first.fingerprint == await served(proxy)
    said = await RuntimeApi(proxy.socket).say(f"commit ssl cert {at.combined}")
    assert "No ongoing transaction" in said


async def test_a_configuration_that_haproxy_refuses_is_told_in_its_words(started, issuer, pairs):
    pair = issuer.next()
    at = place(pairs, pair)
    proxy = await started(f"ssl crt {at.combined}")
    proxy.write("global\n    no-such-keyword\n")

    with pytest.raises(Rejected, match="no-such-keyword"):
        await installer(socket=proxy.socket, command=proxy.command).check(pair, at)


async def test_a_pair_that_what_runs_refuses_is_told_and_the_old_one_served_on(started, issuer, pairs):
    first = issuer.next()
    at = place(pairs, first)
    proxy = await started(f"ssl crt {at.combined}", "tune.bufsize 4096")
    second = issuer.next()
    second = replace(second, chain_pem=second.chain_pem * 5)
    place(pairs, second)
    installs = installer(socket=proxy.socket)

    with pytest.raises(Rejected, match=r"tune\.bufsize"):
        await installs.load(second, at)

    assert first.fingerprint == await served(proxy)
    third = issuer.next()
    place(pairs, third)
    await installs.load(third, at)
    assert third.fingerprint == await served(proxy)


async def test_what_a_killed_agent_left_open_is_given_up(started, issuer, pairs):
    at = place(pairs, issuer.next())
    proxy = await started(f"ssl crt {at.combined}")
    await RuntimeApi(proxy.socket).set(str(at.combined), issuer.next().combined_pem)
    pair = issuer.next()
    place(pairs, pair)

    await installer(socket=proxy.socket).load(pair, at)

    assert pair.fingerprint == await served(proxy)


async def test_what_was_left_open_for_another_certificate_does_not_get_this_pair(started, pairs, tmp_path):
    issuers = {name: Issuer([f"{name}.example.test"]) for name in ("a", "b")}
    firsts = {name: issuer.next() for name, issuer in issuers.items()}
    at = {name: place(pairs / name, pair) for name, pair in firsts.items()}
    proxy = await started(f"ssl crt {at['a'].combined} crt {at['b'].combined}")
    await RuntimeApi(proxy.socket).set(str(at["a"].combined), issuers["a"].next().combined_pem)
    second = issuers["b"].next()
    place(pairs / "b", second)

    await installer(socket=proxy.socket).load(second, at["b"])

    assert second.fingerprint == await served_fingerprint(proxy.address, "b.example.test")
    assert firsts["a"].fingerprint == await served_fingerprint(proxy.address, "a.example.test")


async def test_two_at_once_do_not_get_each_others_certificate(started, pairs):
    issuers = {name: Issuer([f"{name}.example.test"]) for name in ("a", "b", "c")}
    at = {name: place(pairs / name, issuer.next()) for name, issuer in issuers.items()}
    proxy = await started("ssl " + " ".join(f"crt {placed.combined}" for placed in at.values()))
    installs = installer(socket=proxy.socket)

    for _ in range(10):
        news = {name: issuer.next() for name, issuer in issuers.items()}
        for name, pair in news.items():
            place(pairs / name, pair)
        await asyncio.gather(*(installs.load(news[name], at[name]) for name in news))

        for name, pair in news.items():
            assert pair.fingerprint == await served_fingerprint(proxy.address, f"{name}.example.test")


async def test_a_new_name_is_added_to_the_crt_list_and_to_its_file(started, issuer, pairs, tmp_path):
    crt_list = tmp_path / "list.txt"
    other = place(tmp_path / "other", Issuer(["other.example.test"]).next())
    crt_list.write_text(f"{other.combined} other.example.test\n")
    proxy = await started(f"ssl crt-list {crt_list} strict-sni")
    crt_list.write_text(f"{other.combined} other.example.test")  # HAProxy would not start with it
    pair = issuer.next()
    at = place(pairs, pair)
    installs = installer(socket=proxy.socket, crt_list=crt_list)
    assert await served(proxy) is None

    await installs.load(pair, at)
    await installs.load(pair, at)

    assert pair.fingerprint == await served(proxy)
    assert [f"{other.combined} other.example.test", str(at.combined)] == crt_list.read_text().splitlines()

    await proxy.stop()
    await proxy.start()
    assert pair.fingerprint == await served(proxy)


async def test_a_certificate_that_no_bind_line_names_is_rejected_with_what_to_do(
    started, issuer, pairs, tmp_path
):
    other = place(tmp_path / "other", issuer.next())
    proxy = await started(f"ssl crt {other.combined}")
    pair = issuer.next()

    with pytest.raises(Rejected, match=r"knows no certificate .*set crt_list"):
        await installer(socket=proxy.socket).load(pair, place(pairs, pair))


async def test_without_a_socket_the_master_is_told_to_reload_again_and_again(started, issuer, pairs):
    """While it still loads what it was told last it hears nothing."""
    at = place(pairs, issuer.next())
    proxy = await started(f"ssl crt {at.combined}")
    for _ in range(5):
        pair = issuer.next()
        place(pairs, pair)

        await installer(pid_file=proxy.pid_file).load(pair, at)

    async def newest():
        return pair.fingerprint == await served(proxy)

    await until(newest)


async def test_a_master_that_executes_itself_anew_is_an_haproxy_still(started, issuer, pairs, monkeypatch):
    """For a moment of that it has no command line."""
    at = place(pairs, issuer.next())
    proxy = await started(f"ssl crt {at.combined}")
    pair = issuer.next()
    place(pairs, pair)
    named, looks = master._named, []

    def at_that_moment(pid_file):
        looks.append(pid_file)
        pid, title = named(pid_file)
        return pid, b"" if len(looks) == 1 else title

    monkeypatch.setattr(master, "_named", at_that_moment)
    await installer(pid_file=proxy.pid_file).load(pair, at)

    async def newest():
        return pair.fingerprint == await served(proxy)

    await until(newest)


async def test_an_haproxy_that_is_dead_and_not_buried_does_not_run(issuer, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(master, "LOOKS", 2)
    pair = issuer.next()
    at = place(pairs, pair)
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / "dead.pid").write_text(str(child.pid))
    try:
        with pytest.raises(NotRunning, match="is no haproxy"):
            await installer(pid_file=tmp_path / "dead.pid").load(pair, at)
    finally:
        child.wait()


async def test_an_haproxy_that_is_frozen_is_no_fault_of_the_pair(started, issuer, pairs, monkeypatch):
    monkeypatch.setattr(haproxy_socket, "ANSWER_S", 0.2)
    at = place(pairs, issuer.next())
    proxy = await started(f"ssl crt {at.combined}")
    pair = issuer.next()
    place(pairs, pair)
    info = await RuntimeApi(proxy.socket).say("show info")
    worker = int(re.search(r"^Pid: (\d+)", info, re.MULTILINE)[1])
    os.kill(worker, signal.SIGSTOP)
    try:
        await installer(socket=proxy.socket).check(pair, at)
        with pytest.raises(NotRunning, match="does not answer"):
            await installer(socket=proxy.socket).load(pair, at)
    finally:
        os.kill(worker, signal.SIGCONT)

    await installer(socket=proxy.socket).load(pair, at)
    assert pair.fingerprint == await served(proxy)


async def test_an_haproxy_that_does_not_run_is_no_fault_of_the_pair(started, issuer, pairs, tmp_path):
    pair = issuer.next()
    at = place(pairs, pair)

    await installer(socket=tmp_path / "nobody.sock").check(pair, at)
    with pytest.raises(NotRunning):
        await installer(socket=tmp_path / "nobody.sock").load(pair, at)
    with pytest.raises(NotRunning):
        await installer(pid_file=tmp_path / "nobody.pid").load(pair, at)
