"""envoy-configs/: each file is valid, alike where it should be, and serves what certvoy issued."""

import json
import re
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web

import tests.xds.quiet  # noqa: F401
from sds_server.agent.files import CredentialFiles
from sds_server.programs import envoy
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.targets.probe import ProbeFailed, served_fingerprint
from sds_server.xds.bootstrap import FETCH_TIMEOUT, Api, OnDemandListener, TlsListener, bootstrap
from sds_server.xds.cluster import CLUSTER, LocalControlPlane
from sds_server.xds.cluster import ControlPlane as Where
from tests.support.control_plane import HOST, ControlPlane, dsn, until
from tests.support.envoy_files import FILES, INSTALLED, install_credentials, loopback, replaced, validated
from tests.support.pages import blocks
from tests.support.pki import authority

BOOTSTRAPS = sorted(FILES.glob("*.yaml"))
SNIPPETS = sorted((FILES / "credentials").glob("*.yaml"))
SERVER_NAME = "certvoy.example.com"
DOMAIN = "www.example.test"
SOCKET = Path("/run/certvoy/edge-1.sock")
pytestmark = pytest.mark.timeout(400)

ANSWER_S = 150
"""An Envoy that came first waits up to 30 s before it asks again, and a second attempt a minute."""

INBOUND = {"sidecar-sds", "downstream-mtls"}
"""Those that stand before a service, and not before the world."""

EDGE_FETCH_TIMEOUT = timedelta(seconds=3)

ON_DEMAND = "on-demand"

by_name = pytest.mark.parametrize("file", BOOTSTRAPS, ids=lambda file: file.stem)


def parsed(file):
    return yaml.safe_load(file.read_text())


def clusters(config):
    return {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}


def listeners(config):
    return {listener["name"]: listener for listener in config["static_resources"]["listeners"]}


def sds_source(config):
    """Where the file's first listener has its certificate from."""
    first = config["static_resources"]["listeners"][0]
    tls = first["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    if (selector := tls.get("custom_tls_certificate_selector")) is not None:
        return selector["typed_config"]["config_source"]
    (secret,) = tls["tls_certificate_sds_secret_configs"]
    return secret["sds_config"]


# ---------------------------------------------------------------- as text


@pytest.mark.parametrize(
    "file", [file for file in BOOTSTRAPS if file.stem != "edge-socket"], ids=lambda f: f.stem
)
def test_what_the_readme_says_of_an_agents_directory_makes_the_names_fit(file, tmp_path):
    """Envoy takes no secret of another name from a file, and says only that there is none."""
    kept, config = tmp_path / "agent", tmp_path / "envoy.yaml"
    CredentialFiles(kept).store(certificate_pem="", key_pem=b"", authorities_pem="")
    (block,) = [block for block in blocks((FILES / "README.md").read_text()) if block.startswith("sed")]
    config.write_text(file.read_text())
    changes = {"/etc/envoy/envoy.yaml": config, "/var/lib/certvoy-agent": kept}
    subprocess.run(["sh", "-c", replaced(block, changes)], check=True)
    tls = clusters(parsed(config))[CLUSTER]["transport_socket"]["typed_config"]["common_tls_context"]
    asked = [*tls["tls_certificate_sds_secret_configs"], tls["validation_context_sds_secret_config"]]
    paths = [Path(secret["sds_config"]["path_config_source"]["path"]) for secret in asked]

    assert [secret["name"] for secret in asked] == [
        json.loads(path.read_text())["resources"][0]["name"] for path in paths
    ]


def test_the_readme_tells_of_every_file():
    told = (FILES / "README.md").read_text()

    assert [] == [file.name for file in BOOTSTRAPS + SNIPPETS if f"`{file.name}`" not in told]


@pytest.mark.parametrize("file", BOOTSTRAPS + SNIPPETS, ids=lambda file: file.stem)
def test_no_word_is_one_that_yaml_1_1_reads_as_something_else(file):
    """Envoy and PyYAML read YAML 1.1: `no`, `on`, `y` are booleans there, 1:30 a number, 012 octal."""
    odd = []
    for token in yaml.scan(file.read_text()):
        if isinstance(token, yaml.ScalarToken) and token.plain:
            value = token.value
            number = re.fullmatch(r"0|[1-9][0-9]*", value)
            read = yaml.safe_load(value)
            if value.lower() in {"y", "n"} or not (number or value in {"true", "false"} or read == value):
                odd.append(value)

    assert [] == odd


def test_all_reach_certvoy_in_the_same_way():
    """A file that is copied is changed in one place only if the others say the same there."""
    remote = [file for file in BOOTSTRAPS if file.stem not in {"edge-rest", "edge-socket"}]
    first, *others = [clusters(parsed(file))[CLUSTER] for file in remote]

    assert [first] * len(others) == others


def form(file):
    """How the file's Envoy asks."""
    if file.stem == "edge-rest":
        return Api.REST
    return Api.ADS if "dynamic_resources" in parsed(file) else Api.DELTA


def generated(file, fetch_timeout):
    """What the code builds for the same edge."""
    where = (
        LocalControlPlane(SOCKET)
        if file.stem == "edge-socket"
        else Where(
            host=SERVER_NAME,
            port=8443,
            server_name=SERVER_NAME,
            ca=Path("/ca"),
            certificate=Path("/crt"),
            private_key=Path("/key"),
        )
    )
    return json.loads(
        bootstrap(
            node_id="edge-1",
            cluster="edge",
            control_plane=where,
            listeners=[OnDemandListener("https") if file.stem == ON_DEMAND else TlsListener("https", "www")],
            api=form(file),
            fetch_timeout=fetch_timeout,
        )
    )


@by_name
def test_settings_are_those_that_the_code_writes(file):
    """All but the time to wait for a Secret: an edge must open the port where the CA asks."""
    config = parsed(file)
    waits = EDGE_FETCH_TIMEOUT if file.stem.startswith("edge") else FETCH_TIMEOUT
    theirs = generated(file, waits)
    ours, code = clusters(config)[CLUSTER], clusters(theirs)[CLUSTER]
    for setting in ("type", "connect_timeout", "circuit_breakers", "typed_extension_protocol_options"):
        assert plain(code.get(setting)) == plain(ours.get(setting))
    assert plain(sds_source(theirs)) == plain(sds_source(config))
    assert plain(theirs.get("dynamic_resources")) == plain(config.get("dynamic_resources"))


def plain(value):
    """Durations and enums in one spelling, defaults left out."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and (seconds := re.fullmatch(r"([0-9.]+)s", value)):
        return float(seconds[1])
    return value


# ---------------------------------------------------------------- at work


def secret_of(file):
    """What the file's Envoy asks for: on demand, what its client names."""
    if file.stem == ON_DEMAND:
        return DOMAIN
    return "orders" if file.stem in INBOUND else "www"


class Site:
    """A CA, `certvoy serve`, an application; and the Envoy of a file between them."""

    def __init__(self, directory, database):
        self.directory = directory
        self.http, self.https, self.app, self.rest = (free_port() for _ in range(4))
        self.socket = directory / "run" / "edge-1.sock"
        self.plane = ControlPlane(directory, database=database)
        self.plane.clients.issue(dns=[SERVER_NAME]).write(directory, "control-plane")
        self.plane.settings["sds"]["rest"] = f"{HOST}:{self.rest}"
        self.plane.settings["sds"]["sockets"] = [
            {"path": str(self.socket), "identity": "spiffe://example.com/edge-1"}
        ]
        self.mesh = authority("Mesh")
        self.credentials = install_credentials(directory)
        self.plane.client_ca.rename(self.credentials / "ca.crt")
        self.plane.settings["sds"]["client_ca"] = str(self.credentials / "ca.crt")
        self.mesh.write(self.credentials / "mesh.crt")
        self.caddy = self.envoy = None

    def credential(self, name):
        """Give Envoy a client certificate as its README says: beside, then by rename."""
        pair = self.plane.clients.issue(uris=[f"spiffe://example.com/{name}"])
        for content, file in ((pair.key_pem, "tls.key"), (pair.chain_pem, "tls.crt")):
            (self.credentials / f"{file}.new").write_bytes(content)
            (self.credentials / f"{file}.new").rename(self.credentials / file)
        return pair.certificate.serial_number

    def written(self, file):
        """The file with addresses of this test."""
        moved = {("0.0.0.0", 443): self.https, ("127.0.0.1", 9901): 0}
        places = {INSTALLED: self.directory}
        if file.stem == "edge-socket":
            places = {str(SOCKET): self.socket}
        elif file.stem == "edge-rest":
            moved |= {("certvoy.example.com", 8444): self.rest}
        else:
            moved |= {("certvoy.example.com", 8443): self.plane.sds_port}
        if file.stem in INBOUND:
            moved |= {("127.0.0.1", 8000): self.app}
        else:
            moved |= {
                ("0.0.0.0", 80): self.http,
                ("certvoy.example.com", 8080): self.plane.http01_port,
                ("app.example.com", 8000): self.app,
            }
        text = replaced(file.read_text(), {**loopback(moved), **places})
        path = self.directory / file.name
        path.write_text(text)
        return path

    async def start(self, file):
        name = "orders-1" if file.stem in INBOUND else "edge-1"
        secret = secret_of(file)
        self.credential(name)
        # The CA asks at the edge's port 80, and no other way leads to certvoy; a sidecar has none.
        self.asked = self.plane.http01_port if file.stem in INBOUND else self.http
        self.caddy = await Caddy.start(self.directory / "caddy", responder=f"{HOST}:{self.asked}")
        self.plane.issuer(self.caddy.directory_url, self.caddy.ca_file)
        self.plane.settings["secrets"] = {secret: {"domains": [DOMAIN], "issuer": "internal"}}
        names = [secret, f"{secret}-callers"]
        self.plane.settings["grants"] = [{"identity": f"spiffe://example.com/{name}", "names": names}]
        if file.stem == ON_DEMAND:
            self.plane.settings["secrets"] = {}
            self.plane.settings["grants"][0]["issue"] = True
            self.plane.settings["on_demand"] = [{"name": "sites", "names": [DOMAIN], "issuer": "internal"}]
        if file.stem == "downstream-mtls":
            callers = {"kind": "validation_context", "ca_file": str(self.credentials / "mesh.crt")}
            self.plane.settings["secrets"][names[1]] = callers
        self.plane.settings["rotation"]["settle"] = "1h"  # nothing completes before Envoy was looked at
        self.envoy = await envoy.start(self.written(file).read_text(), self.directory, form="yaml")
        await until(self.answers)
        await self.plane.start()
        counts = () if file.stem == ON_DEMAND else ("--secret", secret)
        code, said = await self.plane.command(
            *("targets", "add", name, "--probe", f"{HOST}:{self.https}"),
            *("--identity", f"spiffe://example.com/{name}", *counts),
        )
        assert code == 0, said
        if file.stem == ON_DEMAND:
            await until(self.asked_for)

    async def asked_for(self):
        """Whether a client that asks for the domain is served: the first one has it issued."""
        try:
            return await served_fingerprint(f"{HOST}:{self.https}", DOMAIN)
        except ProbeFailed:
            return None

    async def answers(self):
        """Whether the CA would be heard: an edge opens port 80 when it has waited for its Secret."""
        return self.asked == self.plane.http01_port or await self.envoy.live()

    async def stop(self):
        for part in (self.envoy, self.plane.child, self.caddy):
            if part is not None:
                await part.stop()

    def context(self, client=None):
        context = ssl.create_default_context(cafile=str(self.caddy.ca_file))
        if client is not None:
            chain, key = client.write(self.directory, "caller")
            context.load_cert_chain(chain, key)
        return context

    async def asks(self, url, *, client=None, **options):
        """Ask Envoy's https listener as a client that trusts the CA alone."""
        port = self.https if url.startswith("https:") else self.http
        connector = aiohttp.TCPConnector(ssl=self.context(client), resolver=Resolver())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url.replace(DOMAIN, f"{DOMAIN}:{port}"), allow_redirects=False, **options) as answer,
        ):
            return answer.status, await answer.text(), answer.headers


class Resolver(aiohttp.abc.AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": HOST, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self):
        pass


@pytest.fixture
async def site(tmp_path, connect):
    site = Site(tmp_path, dsn(connect))
    yield site
    await site.stop()


@pytest.fixture
async def application(site):
    """What is behind Envoy; it says who called."""

    async def answer(request):
        _, _, caller = request.headers.get("x-forwarded-client-cert", "").rpartition("URI=")
        return web.Response(text=f"hello {caller or 'stranger'}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, site.app).start()
    yield
    await runner.cleanup()


def proved_everywhere(sql, generation):
    """Whether the rotation to a generation was completed by handshakes."""

    async def holds():
        done = (
            "SELECT count(*) FROM certrotation JOIN certificate c ON c.id = new_cert_id"
            " WHERE outcome = 'completed' AND generation = $1"
        )
        return await sql.fetchval(done, generation) == 1

    return holds


@by_name
def test_envoy_finds_each_file_valid(file, site):
    site.credential("edge-1")

    assert "" == validated(site.written(file))


@by_name
async def test_what_was_issued_is_served_rotated_and_proved(file, site, sql):
    await site.start(file)
    await until(proved_everywhere(sql, 1), timeout_s=ANSWER_S)
    first = await served_fingerprint(f"{HOST}:{site.https}", DOMAIN)
    code, said = await site.plane.command("rotate", secret_of(file))
    await until(proved_everywhere(sql, 2), timeout_s=ANSWER_S)
    second = await served_fingerprint(f"{HOST}:{site.https}", DOMAIN)

    assert 0 == code, said
    issued = await sql.fetch("SELECT fingerprint FROM certificate ORDER BY generation")
    assert [first, second] == [row["fingerprint"] for row in issued]
    assert await site.envoy.live()


@pytest.mark.parametrize("file", [f for f in BOOTSTRAPS if f.stem not in INBOUND], ids=lambda f: f.stem)
async def test_an_edge_serves_the_application_sends_http_to_https_and_the_ca_to_certvoy(
    file, site, application, sql
):
    """The CA's own question came this way: nothing else leads to the responder."""
    await site.start(file)
    await until(proved_everywhere(sql, 1), timeout_s=ANSWER_S)
    token = "a" * 43

    status, text, _ = await site.asks(f"https://{DOMAIN}/")
    assert (200, "hello stranger") == (status, text)
    status, _, headers = await site.asks(f"http://{DOMAIN}/some/path")
    assert (301, f"https://{DOMAIN}/some/path") == (status, re.sub(r":\d+/", "/", headers["location"]))
    status, _, headers = await site.asks(f"http://{DOMAIN}/.well-known/acme-challenge/{token}")
    assert (404, None) == (status, headers.get("location"))


async def test_a_sidecar_lets_in_members_of_its_trust_domain_alone(site, application, sql):
    await site.start(FILES / "sidecar-sds.yaml")
    await until(proved_everywhere(sql, 1), timeout_s=ANSWER_S)
    caller = site.mesh.issue(uris=["spiffe://example.com/shop"])

    status, text, _ = await site.asks(f"https://{DOMAIN}/", client=caller)
    assert (200, "hello spiffe://example.com/shop") == (status, text)

    forged = {"x-forwarded-client-cert": "URI=spiffe://example.com/admin"}
    _, text, _ = await site.asks(f"https://{DOMAIN}/", client=caller, headers=forged)
    assert "hello spiffe://example.com/shop" == text

    stranger = site.mesh.issue(uris=["spiffe://elsewhere.example/shop"])
    impostor = authority("Mesh").issue(uris=["spiffe://example.com/shop"])
    for client in (None, stranger, impostor):
        with pytest.raises(aiohttp.ClientError):
            await site.asks(f"https://{DOMAIN}/", client=client)


async def test_a_service_lets_in_callers_of_the_cas_that_the_configuration_declares_alone(
    site, application, sql
):
    await site.start(FILES / "downstream-mtls.yaml")
    await until(proved_everywhere(sql, 1), timeout_s=ANSWER_S)
    caller = site.mesh.issue(uris=["spiffe://example.com/shop"])

    status, text, _ = await site.asks(f"https://{DOMAIN}/", client=caller)
    assert (200, "hello spiffe://example.com/shop") == (status, text)

    for client in (None, authority("Mesh").issue(uris=["spiffe://example.com/shop"])):
        with pytest.raises(aiohttp.ClientError):
            await site.asks(f"https://{DOMAIN}/", client=client)


async def test_a_client_certificate_that_is_renamed_into_place_is_taken_without_a_restart(site, sql):
    await site.start(FILES / "edge-sds.yaml")
    await until(proved_everywhere(sql, 1), timeout_s=ANSWER_S)
    serial = site.credential("edge-1")

    async def taken():
        used = {
            int(leaf["serial_number"], 16) for cert in await site.envoy.certs() for leaf in cert["cert_chain"]
        }
        return serial in used

    await until(taken)
