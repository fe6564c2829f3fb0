"""OCSP staples at a real Envoy: of a real responder, refreshed in place, ended in place."""

import asyncio
import json
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

import tests.xds.quiet  # noqa: F401
from sds_server.programs import envoy
from sds_server.programs.child import Child, free_port
from sds_server.staples.response import Finding, judge
from sds_server.targets import handshake
from sds_server.targets.tls13 import HandshakeFailed, KeyKind
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import upstream_of
from tests.support.pki import BACKDATED, authority, cert_pem, key_pem
from tests.support.responder import Responder

EDGE = "spiffe://example.test/edge"
SITES = authority("Sites root").intermediate("Sites 1")
NAME = "site.test"
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.timeout(600)
POLICIES = {"lenient": "LENIENT_STAPLING", "strict": "STRICT_STAPLING", "must": "MUST_STAPLE"}


@pytest.fixture
async def plane(tmp_path, connect):
    """Without a CA: nobody listens at its issuer's directory."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings |= {
        "secrets": {},
        "grants": [{"identity": EDGE, "names": ["site"]}],
        "push": {"allow": ["127.0.0.0/8"]},
    }
    await plane.start()
    yield plane
    if plane.child is not None:
        await plane.stop()


class Edge:
    """An Envoy with a listener of each policy that is ``wanted``."""

    def __init__(self, plane, directory):
        self.wanted = [*POLICIES]
        self._plane, self._directory = plane, directory

    def _config(self):
        plane = self._plane
        certificate, key = plane.clients.issue(uris=[EDGE]).write(self._directory, "edge")
        where = upstream_of(plane, certificate, key)
        listeners = [TlsListener(policy, "site") for policy in self.wanted]
        config = json.loads(
            bootstrap(
                node_id="edge-1", cluster="edge", api=Api.DELTA, control_plane=where, listeners=listeners
            )
        )
        for listener in config["static_resources"]["listeners"]:
            tls = listener["filter_chains"][0]["transport_socket"]["typed_config"]
            tls["ocsp_staple_policy"] = POLICIES[listener["name"]]
        return json.dumps(config)

    async def start(self):
        self.running = await envoy.start(self._config(), self._directory)
        await until(self.running.live)
        self.ports = {policy: await self.running.listener_port(policy) for policy in self.wanted}

    async def shown(self, policy="lenient"):
        """Ask for a staple in a new handshake."""
        reader, writer = await asyncio.open_connection(HOST, self.ports[policy])
        try:
            return await handshake.shake(reader, writer, NAME, [KeyKind.ECDSA_P256])
        finally:
            writer.close()

    async def staples(self):
        return (await self.shown()).staple is not None


@pytest.fixture
async def edge(plane, tmp_path):
    edge = Edge(plane, tmp_path)
    yield edge
    if hasattr(edge, "running"):
        await edge.running.stop()


async def upload(plane, directory, pair):
    chain, key = pair.write(directory, "site")
    code, said = await plane.command("upload", "site", "--chain", str(chain), "--private-key", str(key))
    assert 0 == code, said


async def why(plane):
    return (await plane.command("why", "site"))[1]


class OpensslResponder:
    """`openssl ocsp`, of an index in which a certificate is valid or revoked."""

    def __init__(self, directory, port):
        self._directory, self._port = directory, port
        self._index = directory / "index.txt"
        (directory / "sites.pem").write_bytes(cert_pem(SITES.certificate))
        (directory / "sites.key").write_bytes(key_pem(SITES.key))

    def lists(self, leaf, *, revoked=False):
        ends, number = f"{leaf.not_valid_after_utc:%y%m%d%H%M%SZ}", f"{leaf.serial_number:X}"
        number = number.zfill(len(number) + len(number) % 2)
        state, since = ("R", f"{leaf.not_valid_before_utc:%y%m%d%H%M%SZ}") if revoked else ("V", "")
        self._index.write_text(f"{state}\t{ends}\t{since}\t{number}\tunknown\t/CN=site\n")

    async def start(self):
        argv = [
            OPENSSL,
            "ocsp",
            "-port",
            str(self._port),
            "-index",
            self._index,
            "-nmin",
            "60",
            "-ignore_err",
        ]
        argv += ["-CA", "sites.pem", "-rsigner", "sites.pem", "-rkey", "sites.key"]
        self.child = Child("ocsp", argv, log=self._directory / "ocsp.log", cwd=self._directory)

        async def listens():  # not by a connection: it would read from that for ever
            return "waiting for OCSP client connections" in self.child.log_tail()

        await until(listens)


def s_client(port):
    """What another client sees and verifies of the staple."""
    argv = [OPENSSL, "s_client", "-connect", f"{HOST}:{port}", "-servername", NAME, "-status"]
    return subprocess.run(argv, input="", capture_output=True, text=True, timeout=20, check=False).stdout


async def test_what_openssl_says_of_a_certificate_is_stapled_by_envoy(plane, edge, tmp_path, sql):
    port = free_port()
    pair = SITES.issue([NAME], responder=f"http://{HOST}:{port}/")
    responder = OpensslResponder(tmp_path, port)
    responder.lists(pair.certificate)
    await responder.start()
    try:
        await upload(plane, tmp_path, pair)
        await until(lambda: stapled(plane))
        await edge.start()
        await until(edge.staples)
        said = {policy: await asyncio.to_thread(s_client, edge.ports[policy]) for policy in POLICIES}
        shown = await edge.shown()
        judged = judge(shown.staple, leaf=pair.certificate, issuer=SITES.certificate, now=datetime.now(UTC))
        responder.child.kill()  # it reads its index once
        await responder.child.wait()
        responder.lists(pair.certificate, revoked=True)
        await responder.start()
        await sql.execute("UPDATE staple SET next_at = certvoy_now()")
        await until(lambda: has(plane, "is revoked"))
        after = await edge.shown()
    finally:
        responder.child.kill()

    assert dict.fromkeys(POLICIES, True) == {
        policy: "OCSP Response Status: successful" in one and "Cert Status: good" in one
        for policy, one in said.items()
    }
    assert Finding.GOOD is judged.finding
    assert shown.leaf == after.leaf  # it serves on until there is another
    assert "staple.revoked" in plane.log()


async def stapled(plane):
    return "staple: good until" in await why(plane)


async def has(plane, words):
    return words in await why(plane)


async def shorten(edge, responder, sql, *, to_s):
    """Have a staple of so many seconds in place of the first: an Envoy may take longer to start."""
    first = (await edge.shown()).staple
    responder.lasts = BACKDATED + timedelta(seconds=to_s)
    await sql.execute("UPDATE staple SET next_at = certvoy_now()")

    async def shortened():
        return (await edge.shown()).staple != first

    await until(shortened)


async def test_a_staple_is_refreshed_without_a_failed_handshake_and_ends_in_place(plane, edge, tmp_path, sql):
    async with Responder(SITES) as responder:
        pair = SITES.issue([NAME], responder=responder.url)
        responder.known[pair.certificate.serial_number] = pair.certificate
        await upload(plane, tmp_path, pair)
        await until(lambda: stapled(plane))
        await edge.start()
        await until(edge.staples)
        opened = await asyncio.open_connection(HOST, edge.ports["lenient"])
        await shorten(edge, responder, sql, to_s=14)
        first, handshakes = (await edge.shown()).staple, 0
        began = time.monotonic()
        while (seen := (await edge.shown("strict")).staple) == first:
            handshakes += 1
            assert seen is not None
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.02)
        # The one that is refreshed no more ends at the proxies, which nobody can tell: we are not there.
        await plane.stop()
        plane.child = None
        last = {policy: (await edge.shown(policy)).staple for policy in POLICIES}

        async def ended():
            return (await edge.shown()).staple is None

        await until(ended)
        with pytest.raises(HandshakeFailed):
            await edge.shown("strict")
        with pytest.raises(HandshakeFailed):
            await edge.shown("must")
        opened[1].close()

    assert handshakes > 10
    assert {seen} == set(last.values())
    stats = await edge.running.stats("listener.*ocsp|sds.site")
    assert not any(name.endswith("update_rejected") and value for name, value in stats.items())


async def test_a_responder_that_dies_costs_the_staple_and_no_handshake(plane, edge, tmp_path, sql):
    async with Responder(SITES) as responder:
        pair = SITES.issue([NAME], responder=responder.url)
        responder.known[pair.certificate.serial_number] = pair.certificate
        await upload(plane, tmp_path, pair)
        await until(lambda: stapled(plane))
        edge.wanted = ["lenient", "strict"]  # one that must have a staple refuses the secret for all
        await edge.start()
        await until(edge.staples)
        await shorten(edge, responder, sql, to_s=12)
        responder.down = True

        async def without():
            """Also where STRICT: what has ended was taken off, and so costs nobody a handshake."""
            return {None} == {(await edge.shown(policy)).staple for policy in ("lenient", "strict")}

        began = time.monotonic()
        while not await without():
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.05)

    assert "staple.ended" in plane.log()
