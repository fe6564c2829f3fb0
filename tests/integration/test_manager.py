"""`CertificateManager` against Pebble, with nothing beside it but a responder."""

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import tests.xds.quiet  # noqa: F401
from acme_engine.http01 import Http01Responder
from sds_server.demo.stage import DOMAIN, NODE, SECRET, Stage
from sds_server.errors import (
    BadName,
    CallerError,
    Conflict,
    DeliveryRefused,
    IssuanceFailed,
    NotFound,
    TimedOut,
)
from sds_server.inventory import deliveries, history, rotations, targets
from sds_server.inventory.deliveries import News
from sds_server.inventory.tokens import RotationTokens, Tokens
from sds_server.lifecycle.accounts import Issuer
from sds_server.limits import PRESETS
from sds_server.manager import CertificateManager
from sds_server.model import Identity, Reason
from tests.support import pebble as pebbles
from tests.support.issuances import Issuances

pytestmark = pytest.mark.debian

EXAMPLE = Path(__file__).parents[2] / "examples" / "manager.py"
SOON = timedelta(milliseconds=50)
EDGE = Identity("spiffe://example.com/edge-1")


@pytest.fixture(scope="module")
def pebble(tmp_path_factory):
    running = pebbles.start(tmp_path_factory.mktemp("pebble"))
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def unanswered(database, tmp_path, pebble):
    """A manager whose challenges nobody answers."""
    sealer = (await Issuances.open(database, tmp_path)).sealer
    issuer = Issuer(
        name="internal",
        directory_url=pebble.directory_url,
        ca_file=pebble.ca_file,
        roots=(),
        contact=(),
        terms_agreed=True,
        eab=pebble.eab,
    )
    return CertificateManager(database, sealer, {"internal": issuer})


@pytest.fixture
async def manager(unanswered, database, pebble):
    responder = Http01Responder(Tokens(database), host="127.0.0.1", port=pebble.http_port)
    await responder.start()
    yield unanswered
    await responder.stop()


async def issue(manager, *domains):
    return await manager.issue_certificate(list(domains), acme_provider="internal")


async def test_issue_returns_the_record_of_a_new_certificate(manager, database):
    record = await issue(manager, "www.example.test", "example.test")

    assert ("www.example.test", ["example.test"]) == (record.domain, record.san_domains)
    assert "issued" == record.status
    assert record.key_ref.startswith("cv1:local:")
    entries = await history.page(database, before=2**62, limit=50, subject="www.example.test")
    assert "certificate.issued" in [entry.action for entry in entries]


async def test_issuing_the_same_again_orders_nothing(manager, pebble):
    first = await issue(manager, "again.example.test")
    orders = pebble.orders()

    assert first == await issue(manager, "again.example.test")
    assert orders == pebble.orders()


async def test_issuing_other_names_replaces_what_was_there(manager):
    first = await issue(manager, "more.example.test")
    second = await issue(manager, "more.example.test", "evenmore.example.test")

    assert ["evenmore.example.test"] == second.san_domains
    assert first.fingerprint != second.fingerprint


async def test_rotate_gives_another_certificate_with_another_key(manager):
    old = await issue(manager, "rotate.example.test")
    new = await manager.rotate_certificate(old.id)

    assert old.domain == new.domain
    assert old.fingerprint != new.fingerprint
    assert old.key_ref != new.key_ref


async def test_only_the_current_certificate_is_rotated(manager):
    old = await issue(manager, "current.example.test")
    new = await manager.rotate_certificate(old.id)

    with pytest.raises(Conflict, match=new.id):
        await manager.rotate_certificate(old.id)


@pytest.mark.parametrize(
    ("cert_id", "error"), [("nonsense", CallerError), ("00000000-0000-0000-0000-000000000000", NotFound)]
)
async def test_an_id_that_is_none_is_said_so(manager, cert_id, error):
    with pytest.raises(error):
        await manager.rotate_certificate(cert_id)


async def test_a_provider_that_is_not_declared_is_named_with_those_that_are(manager):
    with pytest.raises(BadName, match="letsencrypt") as caught:
        await manager.issue_certificate(["www.example.test"])

    assert "there are: internal" == caught.value.next_step


async def test_a_wildcard_that_the_provider_cannot_prove_is_not_declared(manager, sql):
    with pytest.raises(BadName, match=r"\*\.example\.test: a wildcard is proved by DNS-01 alone") as caught:
        await manager.issue_certificate(["*.example.test"], acme_provider="internal")

    assert "give `issuers.internal` a `dns` section" in caught.value.next_step
    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")


async def test_more_names_than_a_ca_takes_are_not_declared(manager, sql):
    with pytest.raises(BadName, match="has 101 names"):
        await manager.issue_certificate([f"{n}.example.test" for n in range(101)], acme_provider="internal")

    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")


async def test_what_a_ca_certifies_in_no_such_certificate_is_not_declared(manager, sql):
    manager._issuers["internal"] = replace(manager._issuers["internal"], limits=PRESETS["letsencrypt"])
    with pytest.raises(BadName, match=r"192\.0\.2\.7: the CA certifies addresses in the profile shortlived"):
        await issue(manager, "192.0.2.7")

    assert 0 == await sql.fetchval("SELECT count(*) FROM secret")


@pytest.mark.parametrize("name", ["", "*", "a\nb", "x" * 513])
async def test_a_secret_that_cannot_be_called_that_is_not_declared(manager, name):
    with pytest.raises(BadName, match="name: "):
        await manager.issue_certificate(["www.example.test"], acme_provider="internal", name=name)


async def test_what_the_ca_said_comes_with_the_error(unanswered):
    with pytest.raises(IssuanceFailed, match=r"www\.example\.test") as caught:
        await issue(unanswered, "www.example.test")

    assert ["urn:ietf:params:acme:error:connection"] == [
        problem["type"] for problem in caught.value.told["problems"]
    ]


async def test_a_challenge_is_valid_when_the_domain_answers_with_our_key_authorization(
    manager, database, pebble
):
    record = await issue(manager, "challenge.example.test")
    rotation = await rotations.open_for(database, record.domain, reason=Reason.OPERATOR, actor="person:test")
    token = "t" * 43
    await RotationTokens(database, rotation).put(token, f"{token}.thumbprint", ttl_s=60)
    address = f"127.0.0.1:{pebble.http_port}"

    assert await manager.validate_acme_challenge(record.domain, token, address=address)
    assert not await manager.validate_acme_challenge(record.domain, "u" * 43, address=address)


async def test_a_challenge_is_not_valid_where_somebody_else_answers(manager, database):
    record = await issue(manager, "elsewhere.example.test")
    rotation = await rotations.open_for(database, record.domain, reason=Reason.OPERATOR, actor="person:test")
    token = "t" * 43
    await RotationTokens(database, rotation).put(token, f"{token}.thumbprint", ttl_s=60)

    async def wrong(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(wrong, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert not await manager.validate_acme_challenge(record.domain, token, address=f"127.0.0.1:{port}")


async def test_distribute_says_which_target_is_missing_and_why(manager, database):
    record = await issue(manager, "missing.example.test")
    await targets.register(
        database, "edge-9", probe=None, identity=None, node_id=None, serves=(), actor="person:test"
    )

    with pytest.raises(TimedOut, match=r"edge-9 \(it does not subscribe to missing\.example\.test\)"):
        await manager.distribute_certificate(record.id, ["edge-9"], within=SOON)
    with pytest.raises(NotFound, match="edge-10"):
        await manager.distribute_certificate(record.id, ["edge-10"], within=SOON)


async def test_distribute_says_what_a_target_refused(manager, database):
    record = await issue(manager, "refused.example.test")
    news = News(
        identity=EDGE,
        node_id="edge-1",
        secret=record.domain,
        sent=1,
        accepted=None,
        refused=1,
        refusal="key values mismatch",
        refused_version="v1",
        seen_for=timedelta(minutes=10),
    )
    await deliveries.write(database, [news], actor="replica:test")

    with pytest.raises(DeliveryRefused, match=r"edge-1 \(key values mismatch\)"):
        await manager.distribute_certificate(record.id, ["edge-1"])


async def test_the_example_issues_rotates_and_waits_for_the_proof_at_an_envoy(tmp_path):
    """`examples/manager.py` beside the demo's control plane, with the CA and the Envoy of the demo."""
    stage = Stage(tmp_path)
    try:
        await stage.start_ca()
        await stage.start_control_plane()
        await stage.start_envoy()
        address = f"127.0.0.1:{stage.envoy_port}"
        await stage.certvoy("targets", "add", NODE, "--probe", address, "--secret", SECRET)
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, EXAMPLE, stage.config, "internal", SECRET, DOMAIN, NODE),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=EXAMPLE.parent.parent,
        )
        said, complaints = await ran.communicate()
        served = await stage.served()
    finally:
        await stage.stop()

    assert 0 == ran.returncode, complaints.decode()
    first, second = said.decode().splitlines()
    assert first.startswith(f"{DOMAIN}: ")
    assert f"{DOMAIN}: {served} took its place" == second
    assert served not in first
