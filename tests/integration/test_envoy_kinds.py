"""Trust bundles, session ticket keys and generic secrets at real Envoys, by the commands that people have."""

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

import tests.xds.quiet  # noqa: F401
from sds_server.payloads.trust import fingerprint_of
from sds_server.programs import envoy
from sds_server.programs.child import free_port
from sds_server.xds.bootstrap import Api, TlsListener, bootstrap
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.edge import upstream_of
from tests.support.pages import DOCS, Shell, declared, steps
from tests.support.pki import authority, crl

EDGE = "spiffe://example.test/edge"
HTTP = "type.googleapis.com/envoy.extensions.filters"
INJECTED = "type.googleapis.com/envoy.extensions.http.injected_credentials"
SITES = authority("Sites")


@pytest.fixture
async def plane(tmp_path, connect):
    """Without a CA: nobody listens at its issuer's directory."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    plane.settings |= {
        "secrets": {},
        "grants": [{"identity": EDGE, "names": ["site", "app/*", "orders-callers"]}],
    }
    await plane.start()
    chain, key = SITES.issue(dns=["site.test"]).write(tmp_path, "site")
    await done(plane, "upload", "site", "--chain", str(chain), "--private-key", str(key))
    yield plane
    await plane.stop()


async def done(plane, *arguments):
    code, said = await plane.command(*arguments)
    assert 0 == code, said
    return said


class Edge:
    """An Envoy with one TLS listener, whose context and filters a test changes."""

    def __init__(self, plane, directory, name="edge-1", *, upstream=None):
        certificate, key = plane.clients.issue(uris=[EDGE]).write(directory, name)
        where = upstream_of(plane, certificate, key)
        self.config = json.loads(
            bootstrap(
                node_id=name,
                cluster="edge",
                api=Api.DELTA,
                control_plane=where,
                listeners=[TlsListener("https", "site")],
            )
        )
        self._directory, self._name, self._plane = directory, name, plane
        (self.listener,) = self.config["static_resources"]["listeners"]
        (self.chain,) = self.listener["filter_chains"]
        self.tls = self.chain["transport_socket"]["typed_config"]
        (secret,) = self.tls["common_tls_context"]["tls_certificate_sds_secret_configs"]
        self.source = secret["sds_config"]

    def secret(self, name):
        return {"name": name, "sds_config": self.source}

    def verifies_clients(self, name):
        self.tls["common_tls_context"]["validation_context_sds_secret_config"] = self.secret(name)
        self.tls["require_client_certificate"] = True

    async def start(self, *serves):
        self.running = await envoy.start(json.dumps(self.config), self._directory, name=self._name)
        arguments = [part for name in serves for part in ("--secret", name)]
        await done(
            self._plane,
            *("targets", "add", self._name, "--identity", EDGE, "--node", self._name),
            *("--admin", self.running.admin_address, *arguments),
        )
        await until(self._open)

    async def _open(self):
        try:
            self.port = await self.running.listener_port("https")
        except (LookupError, ValueError, OSError, StopIteration):
            return False
        return True

    def shakes_hands(self, client=None, *, session=None):
        """Make a handshake in TLS 1.2, where a refusal is part of it; return the session, and if resumed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if client is not None:
            context.load_cert_chain(*client)
        if session is not None:
            context = session[1]
        with (
            socket.create_connection((HOST, self.port), timeout=10) as connection,
            context.wrap_socket(
                connection, server_hostname="site.test", session=None if session is None else session[0]
            ) as secured,
        ):
            return (secured.session, context), secured.session_reused

    async def admits(self, client=None):
        try:
            await asyncio.to_thread(self.shakes_hands, client)
        except (ssl.SSLError, ConnectionError):
            return False
        return True


@pytest.fixture
async def edges(plane, tmp_path):
    made = []

    def make(*arguments, **options):
        made.append(Edge(plane, tmp_path, *arguments, **options))
        return made[-1]

    yield make
    for edge in made:
        with contextlib.suppress(AttributeError):
            await edge.running.stop()


async def admitted(edge, client):
    await until(lambda: edge.admits(client))


async def refused(edge, client):
    async def holds():
        return not await edge.admits(client)

    await until(holds)


def files(directory, pair, name):
    return pair.write(directory, name)


# ---------------------------------------------------------------- trust bundles


async def test_clients_are_admitted_by_the_bundle_and_refused_by_its_crl(plane, edges, tmp_path):
    ours, theirs = authority("Ours"), authority("Theirs")
    friend, fired, stranger = ours.issue(dns=["f"]), ours.issue(dns=["g"]), theirs.issue(dns=["s"])
    clients = {
        name: files(tmp_path, pair, name)
        for name, pair in {"friend": friend, "fired": fired, "stranger": stranger}.items()
    }
    root = ours.write(tmp_path / "ours.pem")
    edge = edges()
    edge.verifies_clients("app/clients")
    await done(plane, "trust", "put", "app/clients", str(root))
    await edge.start("app/clients")
    await admitted(edge, clients["friend"])

    assert await edge.admits(clients["fired"])
    assert not await edge.admits(clients["stranger"])
    assert not await edge.admits(None)

    listed = tmp_path / "ours.crl"
    listed.write_text(crl(ours, [fired.certificate]))
    await done(plane, "trust", "put", "app/clients", str(root), "--crl", str(listed), "--wait")
    await refused(edge, clients["fired"])

    assert await edge.admits(clients["friend"])
    described = json.loads(await done(plane, "show", "app/clients", "--json"))
    # It has the same CAs as the one before: of its CRL Envoy's /certs shows nothing.
    evidence = described["payload"]["versions"][0]["evidence"]
    assert {"targets": 1, "proved": {}, "accepted": 1} == evidence


async def test_no_other_kind_comes_into_the_slot_of_a_ca(plane, edges, tmp_path):
    ours = authority("Ours")
    friend = files(tmp_path, ours.issue(dns=["f"]), "friend")
    edge = edges()
    edge.verifies_clients("app/clients")
    await done(plane, "trust", "put", "app/clients", str(ours.write(tmp_path / "ours.pem")))
    await edge.start("app/clients")
    await admitted(edge, friend)
    chain, key = SITES.issue(dns=["x.test"]).write(tmp_path, "x")
    empty = tmp_path / "empty.pem"
    empty.write_text("")

    for attempt in (
        ("upload", "app/clients", "--chain", str(chain), "--private-key", str(key)),
        ("generic", "app/clients", "--file", str(key)),
        ("tickets", "app/clients", "--rotate-every", "12h"),
        ("issue", "app/clients", "--domain", "x.test", "--issuer", "internal"),
        ("trust", "put", "app/clients", str(empty)),
        ("trust", "put", "app/clients", str(chain)),
        ("rotate", "app/clients"),
    ):
        code, said = await plane.command(*attempt)
        assert 1 == code, said
    code, _ = await plane.command("delete", "app/clients")
    assert 0 == code
    code, said = await plane.command("generic", "app/clients", "--file", str(key))
    assert (1, True) == (code, "for ever" in said)

    assert await edge.admits(friend)
    assert not await edge.admits(None)


async def test_a_root_is_rotated_under_handshakes_that_never_fail(plane, edges, tmp_path):
    old, new = authority("Old root"), authority("New root")
    before, after = (
        files(tmp_path, ca.issue(dns=["c"]), name) for ca, name in ((old, "before"), (new, "after"))
    )
    edge = edges()
    edge.verifies_clients("app/clients")
    await done(plane, "trust", "put", "app/clients", str(old.write(tmp_path / "old.pem")))
    await edge.start("app/clients")
    await admitted(edge, before)
    client, failed, made, over = before, [], 0, asyncio.Event()

    async def knock():
        nonlocal made
        while not over.is_set():
            if not await edge.admits(client):
                failed.append(made)
            made += 1

    knocking = [asyncio.create_task(knock()) for _ in range(2)]
    try:
        await done(plane, "trust", "add", "app/clients", str(new.write(tmp_path / "new.pem")), "--wait")
        assert await edge.admits(after)
        client = after  # the switch: clients have certificates of the new root
        async with asyncio.timeout(10):
            settled = made + 4
            while made < settled:
                await asyncio.sleep(0.01)
        await done(plane, "trust", "remove", "app/clients", fingerprint_of(old.certificate), "--wait")
        await refused(edge, before)
    finally:
        over.set()
        await asyncio.gather(*knocking)

    assert made > 20
    assert [] == failed
    described = json.loads(await done(plane, "show", "app/clients", "--json"))
    versions = described["payload"]["versions"]
    assert [("remove", {"certs": 1}), ("add", {"certs": 1})] == [
        (version["phase"], version["evidence"]["proved"]) for version in versions[:2]
    ]
    assert "of 1 targets 1 proved, 0 accepted" in await done(plane, "why", "app/clients")


# ---------------------------------------------------------------- session ticket keys


async def test_sessions_are_resumed_at_every_proxy_and_over_a_rotation_and_end_with_their_key(
    plane, edges, tmp_path
):
    first, second = edges("edge-1"), edges("edge-2")
    await done(plane, "tickets", "app/tickets", "--rotate-every", "12h", "--keep", "2", "--wait")
    for edge in (first, second):
        edge.tls["session_ticket_keys_sds_secret_config"] = edge.secret("app/tickets")
        await edge.start("app/tickets")
        await until(edge.admits)
    session, fresh = await asyncio.to_thread(first.shakes_hands)
    _, resumed = await asyncio.to_thread(second.shakes_hands, session=session)
    await done(plane, "tickets", "app/tickets", "--now", "--wait")
    _, over_a_rotation = await asyncio.to_thread(second.shakes_hands, session=session)

    assert (False, True, True) == (fresh, resumed, over_a_rotation)

    await done(plane, "tickets", "app/tickets", "--now", "--wait")

    async def ended():
        _, reused = await asyncio.to_thread(first.shakes_hands, session=session)
        return not reused

    await until(ended)
    described = json.loads(await done(plane, "show", "app/tickets", "--json"))
    assert 2 == described["payload"]["tickets"]["keys"]
    assert "keys" not in json.dumps(described["payload"]["versions"])


# ---------------------------------------------------------------- generic secrets


async def test_a_generic_secret_is_what_a_filter_sends_on_and_a_new_one_is_taken(plane, edges, tmp_path):
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    port = runner.addresses[0][1]
    edge = edges()
    injector = {
        "name": "envoy.filters.http.credential_injector",
        "typed_config": {
            "@type": f"{HTTP}.http.credential_injector.v3.CredentialInjector",
            "overwrite": True,
            "credential": {
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": {
                    "@type": f"{INJECTED}.generic.v3.Generic",
                    "credential": edge.secret("app/token"),
                    "header": "Authorization",
                },
            },
        },
    }
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "app"}}
    edge.chain["filters"] = [
        {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "https",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                "http_filters": [injector, router],
            },
        }
    ]
    address = {"socket_address": {"address": HOST, "port_value": port}}
    edge.config["static_resources"]["clusters"].append(
        {
            "name": "app",
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": "app",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
            },
        }
    )
    token = tmp_path / "token"
    token.write_bytes(b"Bearer first")
    await done(plane, "generic", "app/token", "--file", str(token))
    await edge.start("app/token")
    context = ssl.create_default_context(cadata=SITES.pem.decode())
    context.check_hostname = False

    async def injected(wanted):
        with contextlib.suppress(OSError):
            async with ClientSession() as session, session.get(f"https://{HOST}:{edge.port}/", ssl=context):
                pass
        return seen[-1:] == [wanted]

    try:
        await until(lambda: injected("Bearer first"))
        token.write_bytes(b"Bearer second")
        await done(plane, "generic", "app/token", "--file", str(token), "--wait")
        await until(lambda: injected("Bearer second"))
    finally:
        await runner.cleanup()
    shown = await done(plane, "show", "app/token", "--json") + await done(plane, "why", "app/token")
    assert "Bearer" not in shown + plane.log()


# ---------------------------------------------------------------- the page


@pytest.mark.timeout(600)
async def test_the_how_to_rotates_a_root_as_it_stands(plane, edges, tmp_path):
    edge, port = edges("orders-1"), free_port()
    edge.verifies_clients("orders-callers")
    edge.listener["address"]["socket_address"]["port_value"] = port
    edge.running = await envoy.start(json.dumps(edge.config), tmp_path, name="orders-1")
    shell = Shell(plane.directory, path=[Path(sys.executable).parent])
    variables, *rest = steps((DOCS / "how-to" / "client-certificates.md").read_text())
    values = {
        "SERVICE": f"{HOST}:{port}",
        "NAME": "orders-1",
        "IDENTITY": EDGE,
        "ADMIN": edge.running.admin_address,
    }
    try:
        await asyncio.to_thread(shell.run, declared(variables.commands, values))
        for step in rest:
            await asyncio.to_thread(shell.follow, step)
    finally:
        await asyncio.to_thread(shell.end)
