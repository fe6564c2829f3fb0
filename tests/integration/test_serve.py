"""`certvoy serve` as a process: what an operator sees when all is well, and when it is not."""

import asyncio
import re
import signal
import socket
import ssl
import sys
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as pb

from acme_engine.http01 import Http01Responder
from sds_server.agent.files import CredentialFiles
from sds_server.inventory.tokens import Tokens
from sds_server.programs.caddy import Caddy
from sds_server.programs.child import free_port
from sds_server.xds.server import SDS
from tests.support.control_plane import HOST, SERVER_NAME, ControlPlane, dsn, until


@pytest.fixture
async def ca(tmp_path):
    http01_port = free_port()
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{http01_port}")
    caddy.http01_port = http01_port
    yield caddy
    await caddy.stop()


@pytest.fixture
def control_plane(tmp_path, connect):
    """Without a CA: nobody listens at its issuer's directory."""
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    return plane


async def refused(plane: ControlPlane) -> tuple[int, str]:
    """Start what cannot start; return its exit code and what it printed."""
    child = plane.launch()
    async with asyncio.timeout(240):
        return await child.wait(), plane.log()


async def test_a_secret_is_issued_stored_and_complete_when_nobody_has_to_be_asked(ca, connect, sql, tmp_path):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http01_port)
    plane.issuer(ca.directory_url, ca.ca_file, roots_file=str(ca.ca_file))
    await plane.start()

    async def completed():
        return await sql.fetchval("SELECT outcome FROM certrotation") == "completed_unobserved"

    await until(completed)
    code, why = await plane.command("why", "www")
    stopped = await plane.stop()

    assert (0, 0) == (code, stopped)
    assert "generation 1, active" in why
    assert "app.stopping" in plane.log()
    assert plane.log().rstrip().splitlines()[-1].count("app.stopped") == 1
    key = await sql.fetchrow("SELECT envelope, dek_wrapped FROM key_material LIMIT 1")
    assert b"PRIVATE" not in key["envelope"] + key["dek_wrapped"]


async def test_any_replica_answers_for_the_one_that_orders(ca, connect, database, sql, tmp_path):
    """The CA comes to a responder in another process than the worker's."""
    responder = Http01Responder(Tokens(database), host=HOST, port=ca.http01_port)
    await responder.start()
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(ca.directory_url, ca.ca_file)
    await plane.start()

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate") == 1

    try:
        await until(issued)
    finally:
        await plane.stop()
        await responder.stop()


async def test_two_replicas_make_one_account_and_one_certificate_each(ca, connect, database, sql, tmp_path):
    secrets = {f"s{n}": {"domains": [f"s{n}.example.test"], "issuer": "internal"} for n in range(6)}
    planes = []
    for name, port in (("a", ca.http01_port), ("b", None)):
        (tmp_path / name).mkdir()
        plane = ControlPlane(tmp_path / name, database=dsn(connect), http01_port=port)
        plane.issuer(ca.directory_url, ca.ca_file)
        plane.settings |= {"secrets": secrets, "replica": name, "kms": {"key_file": str(tmp_path / "kek")}}
        planes.append(plane)
    await asyncio.gather(*(plane.start() for plane in planes))

    async def completed():
        done = "SELECT count(*) FROM certrotation WHERE outcome = 'completed_unobserved'"
        return await sql.fetchval(done) == len(secrets)

    try:
        await until(completed)
    finally:
        await asyncio.gather(*(plane.stop() for plane in planes))

    assert 1 == await sql.fetchval("SELECT count(*) FROM acme_account")
    assert len(secrets) == await sql.fetchval("SELECT count(*) FROM certificate")
    assert len(secrets) == await sql.fetchval("SELECT count(*) FROM acme_order")


async def test_a_target_that_cannot_be_proved_keeps_the_rotation_open_and_is_named(
    ca, connect, sql, tmp_path
):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=ca.http01_port)
    plane.issuer(ca.directory_url, ca.ca_file)
    plane.settings["rotation"]["settle"] = "1h"
    await plane.start()
    nobody = free_port()
    try:
        code, said = await plane.command(
            "targets", "add", "edge-1", "--probe", f"{HOST}:{nobody}", "--secret", "www"
        )

        async def looked():
            return await sql.fetchval("SELECT probe_error FROM delivery") is not None

        await until(looked)
        _, why = await plane.command("why", "www")
    finally:
        await plane.stop()

    assert 0 == code, said
    assert "rolling out" in why
    assert "target edge-1" in why
    assert f"not proved: {HOST}:{nobody}" in why
    assert await sql.fetchval("SELECT outcome FROM certrotation") is None


async def test_an_unreachable_ca_is_said_and_tried_again(control_plane, sql):
    await control_plane.start()

    async def failed():
        return await sql.fetchval("SELECT last_error FROM certrotation") is not None

    try:
        await until(failed)
        _, why = await control_plane.command("why", "www")
    finally:
        await control_plane.stop()

    assert "certificate: none yet" in why
    assert "reason: " in why
    assert "remedy: check the CA's URL" in why
    assert "next try: " in why


async def test_a_refused_validation_is_told_in_the_cas_own_words(connect, sql, tmp_path):
    caddy = await Caddy.start(tmp_path / "caddy", responder=f"{HOST}:{free_port()}")
    plane = ControlPlane(tmp_path, database=dsn(connect))
    plane.issuer(caddy.directory_url, caddy.ca_file)
    await plane.start()

    async def failed():
        return await sql.fetchval("SELECT last_error FROM certrotation") is not None

    try:
        await until(failed)
        _, why = await plane.command("why", "www")
    finally:
        await plane.stop()
        await caddy.stop()

    assert "the CA said: urn:ietf:params:acme:error:" in why
    assert "www.example.test" in why


@pytest.mark.parametrize("setting", ["sds", "http01"])
async def test_a_port_in_use_is_named(control_plane, setting):
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        taken = f"{HOST}:{holder.getsockname()[1]}"
        control_plane.settings[setting]["listen"] = taken
        code, said = await refused(control_plane)

    assert 1 == code
    assert taken in said
    assert "hint: " in said
    assert "Traceback" not in said


async def test_a_newer_schema_is_refused(control_plane, sql):
    await sql.execute("INSERT INTO schema_migration VALUES (9999, '9999_tomorrow', 'x')")
    code, said = await refused(control_plane)

    assert 1 == code
    assert "newer than this release" in said
    assert "Traceback" not in said


async def test_an_empty_client_ca_is_never_no_verification(control_plane):
    control_plane.client_ca.write_text("")
    code, said = await refused(control_plane)

    assert 2 == code
    assert "sds.client_ca" in said
    assert "line" in said


async def test_a_missing_ca_file_is_an_error_with_its_line(control_plane):
    control_plane.settings["issuers"]["internal"]["ca_file"] = "nowhere.pem"
    code, said = await refused(control_plane)

    assert 2 == code
    assert "issuers.internal.ca_file" in said
    assert "nowhere.pem" in said


async def test_a_database_that_is_not_there_is_said_at_once(tmp_path):
    plane = ControlPlane(tmp_path, database=f"postgresql://nobody@{HOST}:{free_port()}/none")
    plane.issuer("https://localhost:1/directory", plane.client_ca)
    code, said = await refused(plane)

    assert 1 == code
    assert "database: " in said
    assert "Traceback" not in said


async def test_embedded_postgres_ends_with_the_server_even_by_sigkill(tmp_path):
    plane = ControlPlane(tmp_path, database="embedded")
    plane.issuer(f"https://localhost:{free_port()}/directory", plane.client_ca)
    await plane.start()
    pid = int((tmp_path / "state" / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    plane.child.kill()

    async def gone():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return True
        return str(tmp_path).encode() not in command

    await until(gone)
    await plane.start()
    code, said = await plane.command("why", "www")
    assert (0, 0) == (code, await plane.stop()), said


async def test_without_any_certificate_of_its_own_it_serves_and_enrols(control_plane, tmp_path):
    """No PEM file is made by hand: certvoy's own CA is enough for both listeners and for a proxy."""
    port = free_port()
    for setting in ("certificate", "key", "client_ca"):
        del control_plane.settings["sds"][setting]
    control_plane.settings["admin"] = {"listen": f"{HOST}:{port}"}
    await control_plane.start()
    try:
        _, said = await control_plane.command("proxies", "enroll", "edge-1", "--secret", "www")
        token = said.strip().splitlines()[-1]
        arguments = [
            "--credentials",
            str(tmp_path / "edge-1"),
            "--server",
            f"https://{HOST}:{port}",
            "--once",
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sds_server",
            "agent",
            *arguments,
            "--token",
            token,
            cwd=Path(__file__).parents[2],
        )
        code = await process.wait()
        certificate, key, authorities = CredentialFiles(tmp_path / "edge-1").held().paths
        context = ssl.create_default_context(cafile=str(authorities))
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(
            HOST, control_plane.sds_port, ssl=context, server_hostname="localhost"
        )
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.close()
    finally:
        await control_plane.stop()

    assert (0, "h2") == (code, chosen)


async def test_who_is_denied_at_a_sighup_is_cut_and_a_wrong_file_changes_nothing(
    control_plane, tmp_path, sql
):
    edge, other = "spiffe://td.test/edge", "spiffe://td.test/other"
    sockets = {edge: tmp_path / "run" / "edge.sock", other: tmp_path / "run" / "other.sock"}
    control_plane.settings["sds"]["sockets"] = [
        {"path": str(path), "identity": identity} for identity, path in sockets.items()
    ]
    await control_plane.start()
    async with asyncio.timeout(240):
        calls = {}
        for identity, path in sockets.items():
            channel = grpc.aio.insecure_channel(f"unix:{path}")
            calls[identity] = channel.stream_stream(f"/{SDS}/DeltaSecrets")()
            request = pb.DeltaDiscoveryRequest(node=Node(id="n"), resource_names_subscribe=["theirs"])
            await calls[identity].write(request.SerializeToString())
            await calls[identity].read()  # it is absent
        control_plane.settings["sds"]["deny"] = [edge]
        control_plane.settings["log"] = {"level": "warning"}
        control_plane.write()
        control_plane.child.send_signal(signal.SIGHUP)

        assert grpc.StatusCode.UNAUTHENTICATED is await calls[edge].code()
        assert not calls[other].done()

        control_plane.config.write_text("sds: [")
        control_plane.child.send_signal(signal.SIGHUP)

        async def told():
            return '"config.kept"' in control_plane.log()

        await until(told)
        assert not calls[other].done()
        calls[other].cancel()
    assert 0 == await control_plane.stop()
    assert f'"identities": ["{edge}"]' in control_plane.log()
    assert '"changed": ["log"]' in control_plane.log()
    audited = await sql.fetch(
        "SELECT action, actor, payload::json ->> 'denied' AS denied, payload::json ->> 'identities' AS now"
        "  FROM certaudit WHERE action IN ('config.read', 'deny.changed') ORDER BY id"
    )
    assert [
        ("config.read", "config:test", "[]", None),
        ("deny.changed", "config:test", None, f'["{edge}"]'),
    ] == [tuple(row) for row in audited]
    assert not any(path.exists() for path in sockets.values())


async def test_a_token_that_is_made_by_hand_opens_its_port_until_it_is_revoked(control_plane):
    port = free_port()
    control_plane.settings["sds"]["tokens"] = f"{HOST}:{port}"
    await control_plane.start()
    _, said = await control_plane.command("token", "create", "edge-1", "--identity", "spiffe://td.test/edge")
    (token,) = re.findall(r"certvoy_[A-Za-z0-9_-]{43}", said)
    request = pb.DeltaDiscoveryRequest(node=Node(id="edge-1"), resource_names_subscribe=["nowhere"])
    credentials = grpc.ssl_channel_credentials(control_plane.clients.pem)
    options = [("grpc.ssl_target_name_override", SERVER_NAME)]
    async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials, options) as channel:

        def opened():
            call = channel.stream_stream(f"/{SDS}/DeltaSecrets")
            return call(metadata=(("authorization", f"Bearer {token}"),), timeout=60)

        async def answered():
            stream = opened()
            await stream.write(request.SerializeToString())
            try:
                answers.append((stream, await stream.read()))
            except grpc.aio.AioRpcError:  # this replica has not heard of the token yet
                return False
            return True

        answers = []
        await until(answered)
        stream, data = answers[-1]
        revoked, _ = await control_plane.command("token", "revoke", "edge-1")
        code, details = await stream.code(), await stream.details()
        again = await opened().code()
    stopped = await control_plane.stop()

    assert ["nowhere"] == pb.DeltaDiscoveryResponse.FromString(data).removed_resources
    assert (0, grpc.StatusCode.UNAUTHENTICATED) == (revoked, code)
    assert "the client is not admitted any more" == details
    assert grpc.StatusCode.UNAUTHENTICATED == again
    assert 0 == stopped
    assert token not in control_plane.log()
