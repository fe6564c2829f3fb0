"""`certvoy proxies enroll`, `certvoy agent` and `certvoy bootstrap-config`, as an operator runs them."""

import asyncio
import json
import subprocess

import pytest
import yaml

import tests.xds.quiet  # noqa: F401
from sds_server import authority
from sds_server.agent.door import HttpsDoor
from sds_server.agent.files import CredentialFiles
from sds_server.cli import main as cli
from sds_server.errors import Unavailable
from sds_server.programs import envoy
from tests.support.admin import HOST, serving
from tests.support.front import Front, KeyFront, bundle
from tests.support.pki import authority as new_authority


@pytest.fixture
async def api(database, tmp_path):
    async with serving(database, tmp_path, own_ca=True) as running:
        yield running


@pytest.fixture
async def run(api, tmp_path, capsys):
    (tmp_path / "certvoy.yaml").write_text("state_dir: .\n")

    async def run(*words):
        code = await asyncio.to_thread(cli.main, list(words))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


async def token_of(run, tmp_path, *more):
    words = ("proxies", "enroll", "edge-1", "--config", str(tmp_path / "certvoy.yaml"), *more)
    code, shown, note = await run(*words)
    assert (0, True) == (code, note.startswith("spiffe://certvoy/proxy/edge-1 may enrol until")), note
    (token,) = shown.splitlines()
    return token


def asking(api, tmp_path, *more):
    server = f"https://{HOST}:{api.ports.api}"
    return ("agent", "--credentials", str(tmp_path / "edge-1"), "--server", server, "--once", *more)


async def test_a_token_is_all_that_a_proxy_needs(run, api, tmp_path):
    token = await token_of(run, tmp_path, "--secret", "www")
    (tmp_path / "token").write_text(token + "\n")
    code, _, said = await run(*asking(api, tmp_path, "--token-file", str(tmp_path / "token")))
    held = CredentialFiles(tmp_path / "edge-1").held()

    assert (0, True) == (code, "is renewed after" in said), said
    assert "spiffe://certvoy/proxy/edge-1" == api.admission.holder(held.paths[0].read_bytes()).identity
    assert api.admission.authorize("spiffe://certvoy/proxy/edge-1", "www")


async def test_a_server_of_another_ca_is_not_spoken_to(run, api, tmp_path):
    """The token says which CA it is of; who sits in between has another."""
    token = await token_of(run, tmp_path)
    other = authority.token_of(token.split("_enrol_")[1].split(".")[0], new_authority("other").certificate)
    code, _, said = await run(*asking(api, tmp_path, "--token", other))
    again, _, _ = await run(*asking(api, tmp_path, "--token", token))

    assert 2 == code
    assert "does not show the CA that the token is of" in said
    assert 0 == again, "the token was not shown to the other server"


async def test_a_used_token_and_a_made_up_one_are_refused(run, api, tmp_path):
    token = await token_of(run, tmp_path)
    await run(*asking(api, tmp_path, "--token", token))
    again = await run(
        "agent",
        "--credentials",
        str(tmp_path / "thief"),
        *asking(api, tmp_path, "--token", token)[3:],
    )
    made_up = await run(
        *asking(api, tmp_path, "--token", "x")[:2],
        str(tmp_path / "x"),
        *asking(api, tmp_path, "--token", "x")[3:],
    )

    assert (1, True) == (again[0], "used" in again[2])
    assert (2, True) == (made_up[0], "no enrolment token" in made_up[2])


async def test_a_name_that_is_no_secret_yet_is_named(run, tmp_path):
    """It may be ordered later, or mistyped."""
    words = ("proxies", "enroll", "edge-1", "--config", str(tmp_path / "certvoy.yaml"))
    code, shown, said = await run(*words, "--secret", "wwww", "--secret", "team/*")

    assert (0, 1) == (code, len(shown.splitlines()))
    assert "there is no secret wwww yet" in said
    assert "team/*" not in said


@pytest.mark.parametrize(("content", "said"), [(None, "token is not there"), ("\n", "token is empty")])
async def test_where_there_is_no_token_its_file_is_named(run, api, tmp_path, content, said):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    code, _, told = await run(*asking(api, tmp_path, "--token-file", str(file)))

    assert (2, True) == (code, said in told)
    assert "certvoy proxies enroll NAME`, and write it there" in told


async def test_a_file_that_may_not_be_read_is_no_reason_to_enrol_anew(run, api, tmp_path):
    """A directory is one that nobody reads as a file, root included."""
    (tmp_path / "edge-1" / "current" / "certificate.pem").mkdir(parents=True)
    (tmp_path / "token").mkdir()
    held = await run(*asking(api, tmp_path, "--token", "x"))
    token = await run(*asking(api, tmp_path, "--token-file", str(tmp_path / "token")))

    assert [1, 2] == [held[0], token[0]]
    for path, said in (("edge-1/current", held[2]), ("token", token[2])):
        assert f"cannot read {tmp_path}/{path}: Is a directory\nhint: let the agent's user read" in said


async def test_a_port_that_speaks_no_tls_is_said_in_words(run, tmp_path):
    async def hang_up(reader, writer):
        await reader.read(65_536)
        writer.close()

    async with await asyncio.start_server(hang_up, HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        door = HttpsDoor(f"https://{HOST}:{port}")
        with pytest.raises(Unavailable, match="ended the connection before there was TLS") as e:
            await door.enroll(authority.token_of("x" * 43, new_authority("any").certificate), "")

    assert "admin.listen" in e.value.next_step


async def test_a_proxy_is_taken_away_by_name(run, api, tmp_path):
    await token_of(run, tmp_path)
    config = ("--config", str(tmp_path / "certvoy.yaml"))
    first = await run("proxies", "rm", "edge-1", *config)
    second = await run("proxies", "rm", "edge-1", *config)
    listed = await run("proxies", *config)

    assert (0, 3, 0) == (first[0], second[0], listed[0])
    assert "not enrolled any more" in first[1]


async def test_the_bootstrap_is_one_that_envoy_takes(run, api, tmp_path):
    token = await token_of(run, tmp_path)
    await run(*asking(api, tmp_path, "--token", token))
    words = ("bootstrap-config", "n", "--server", "127.0.0.1:8443", "--credentials", str(tmp_path / "edge-1"))
    code, shown, _ = await run(*words, "--listener", "www=127.0.0.1:0")
    (tmp_path / "envoy.json").write_text(shown)
    argv = [envoy.binary(), "--mode", "validate", "-c", tmp_path / "envoy.json", "-l", "error"]
    validated = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
    bootstrap = json.loads(shown)
    (cluster,) = bootstrap["static_resources"]["clusters"]

    assert 0 == code
    assert 0 == validated.returncode, validated.stdout + validated.stderr
    assert "n" == bootstrap["node"]["id"]
    assert "DELTA_GRPC" == bootstrap["dynamic_resources"]["ads_config"]["api_type"]
    assert "5s" == cluster["connect_timeout"]


@pytest.mark.parametrize("server", ["nowhere", "h:99999", ":1", "https://h:1"])
async def test_an_address_that_is_none_is_refused(run, tmp_path, server):
    code, _, said = await run("bootstrap-config", "n", "--credentials", str(tmp_path), "--server", server)

    assert (2, True) == (code, "must be HOST:PORT" in said)


@pytest.mark.parametrize("api", ["sotw", "delta", "ads", "ads-sotw", "rest"])
async def test_every_way_of_asking_is_one_that_envoy_takes(run, tmp_path, api):
    words = ("bootstrap-config", "n", "--api", api, "--listener", "www=127.0.0.1:0")
    code, shown, said = await run(*words, "--socket", str(tmp_path / "edge.sock"))
    if api == "rest":
        assert (2, True) == (code, "REST is not served there" in said)
        return
    (tmp_path / "envoy.json").write_text(shown)
    argv = [envoy.binary(), "--mode", "validate", "-c", tmp_path / "envoy.json", "-l", "error"]
    validated = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
    (cluster,) = json.loads(shown)["static_resources"]["clusters"]

    assert 0 == validated.returncode, validated.stdout + validated.stderr
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert {"pipe": {"path": str(tmp_path / "edge.sock")}} == endpoints[0]["endpoint"]["address"]
    assert "transport_socket" not in cluster


@pytest.mark.parametrize("api", ["sotw", "delta", "ads", "ads-sotw"])
async def test_certificates_on_demand_are_asked_for_over_delta_alone(run, tmp_path, api):
    words = ("bootstrap-config", "n", "--api", api, "--on-demand", "127.0.0.1:0")
    code, shown, said = await run(*words, "--socket", str(tmp_path / "edge.sock"))
    if "sotw" in api:
        assert (2, True) == (code, f"over --api {api} Envoy is never told that a name is absent" in said)
        return
    (tmp_path / "envoy.json").write_text(shown)
    argv = [envoy.binary(), "--mode", "validate", "-c", tmp_path / "envoy.json", "-l", "error"]
    validated = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
    (listener,) = json.loads(shown)["static_resources"]["listeners"]
    tls = listener["filter_chains"][0]["transport_socket"]["typed_config"]

    assert 0 == validated.returncode, validated.stdout + validated.stderr
    assert tls["disable_stateless_session_resumption"] is tls["disable_stateful_session_resumption"] is True
    selector = tls["common_tls_context"]["custom_tls_certificate_selector"]["typed_config"]
    assert "default" == selector["certificate_mapper"]["typed_config"]["default_value"]
    assert "max_secrets" not in selector  # Envoy 1.40 does not know it


async def test_envoy_polls_over_http_1_and_mutual_tls(run, tmp_path):
    words = (
        "bootstrap-config",
        "n",
        "--api",
        "rest",
        "--server",
        "c.test:8444",
        "--credentials",
        str(tmp_path),
    )
    code, shown, _ = await run(*words, "--listener", "www=127.0.0.1:0")
    (listener,) = json.loads(shown)["static_resources"]["listeners"]
    (cluster,) = json.loads(shown)["static_resources"]["clusters"]
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]

    assert 0 == code
    source = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"][
        "tls_certificate_sds_secret_configs"
    ][0]["sds_config"]["api_config_source"]
    assert ("REST", ["certvoy"], "10s", "1s") == tuple(
        source[key] for key in ("api_type", "cluster_names", "refresh_delay", "request_timeout")
    )
    assert ["http/1.1"] == tls["alpn_protocols"]
    assert "typed_extension_protocol_options" not in cluster


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--server and --credentials"),
        (("--server", "c.test:8443"), "--server and --credentials"),
        (("--socket", "/run/x", "--server", "c.test:8443"), "--socket: needs no other way"),
        (("--socket", "/run/x", "--credentials", "x"), "--socket: needs no other way"),
    ],
)
async def test_half_a_way_or_two_are_refused(run, words, message):
    code, _, said = await run("bootstrap-config", "n", *words)

    assert (2, True) == (code, message in said)


# With pairs


@pytest.fixture
async def beside(tmp_path):
    """A door with a bundle behind it, and an agent.yaml whose files a command judges."""
    front = Front(tmp_path)
    front.credential(tmp_path / "credentials")
    front.offer(bundle(new_authority("ca").issue(dns=["www.example.test"]), 1))
    await front.start()
    settings = {
        "server": front.url,
        "credentials": "credentials",
        "bundles": [{"secret": "www", "directory": "www", "files": {"check": ["cat", "judged"]}}],
    }
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(settings))
    yield front
    await front.stop()


async def test_once_brings_in_what_is_due_and_says_what_came_of_it(run_alone, beside, tmp_path):
    (tmp_path / "judged").touch()
    code, _, said = await run_alone(tmp_path, "agent", "--config", "agent.yaml", "--once")

    assert (0, "www: generation 1 is accepted") == (code, said.strip())
    assert [("accepted", 1, "")] == beside.reports
    assert (tmp_path / "www" / "current" / "combined.pem").exists()


@pytest.fixture
async def signing(tmp_path):
    """A door that takes signing requests, and an agent.yaml of an Envoy's keys."""
    front = KeyFront(tmp_path, new_authority("ca"), names=["www.example.test"])
    front.credential(tmp_path / "credentials")
    await front.start()
    keys = [{"secret": "www", "directory": "keys"}]
    settings = {"server": front.url, "credentials": "credentials", "keys": keys}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(settings))
    yield front
    await front.stop()


async def test_once_has_the_next_key_made_and_asked_for_and_says_so(run_alone, signing, tmp_path):
    code, _, said = await run_alone(tmp_path, "agent", "--config", "agent.yaml", "--once")

    assert (0, "www: the next key is in its place") == (code, said.strip())
    assert signing.waits is not None


async def test_once_ends_in_an_error_where_a_key_could_not_be_asked_for(run_alone, signing, tmp_path):
    await signing.stop()
    code, _, said = await run_alone(tmp_path, "agent", "--config", "agent.yaml", "--once")

    assert (1, True) == (code, "secret www: its next key is not asked for" in said)


async def test_once_ends_in_an_error_where_a_pair_is_refused(run_alone, beside, tmp_path):
    (tmp_path / "judged").touch()
    await run_alone(tmp_path, "agent", "--config", "agent.yaml", "--once")
    (tmp_path / "judged").unlink()
    beside.offer(bundle(new_authority("ca").issue(dns=["www.example.test"]), 2))
    code, _, said = await run_alone(tmp_path, "agent", "--config", "agent.yaml", "--once")

    assert 1 == code
    assert "cat: judged: No such file or directory\nhint: the pairs before are served on" in said
    assert ("refused", 2) == beside.reports[-1][:2]


@pytest.mark.parametrize(
    "words",
    [
        ("agent",),
        ("agent", "--credentials", "x"),
        ("agent", "--config", "agent.yaml", "--server", "https://certvoy"),
    ],
)
async def test_what_is_asked_for_is_either_a_file_or_a_credential(run_alone, tmp_path, words):
    code, _, said = await run_alone(tmp_path, *words)

    assert (2, True) == (code, "--config" in said)


@pytest.fixture
def run_alone(capsys, monkeypatch):
    """Run a command in a directory, without a control plane of ours."""

    async def run(directory, *words):
        monkeypatch.chdir(directory)
        code = await asyncio.to_thread(cli.main, list(words))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run
