"""acme2certifier, a third ACME server, with ARI and profiles of its own."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import Client, KeyType, ari, keys
from acme_engine import chain as chains
from acme_engine.dns.table import provider_of
from acme_engine.dns_records import persist_record_text
from acme_engine.errors import ProfileUnavailable
from acme_engine.messages import RevocationReason
from acme_engine.ordering import Profile, Terms
from tests.support import acme2certifier
from tests.support.acme import MemoryJournal, Orderer, Tokens, responding
from tests.support.acme2certifier import ARI_FROM_PERCENT, CA_IDENTITY, LIFETIME_DAYS, SHORTLIVED
from tests.support.bind import KEY_NAME, KEY_SECRET, Bind, Zone
from tests.support.ca_front import CaFront
from tests.support.control_plane import ControlPlane, dsn, until

pytestmark = [pytest.mark.debian, pytest.mark.timeout(600)]

WWW = ["www.example.test"]


@pytest.fixture(scope="module")
def bind(tmp_path_factory):
    running = asyncio.run(Bind.start(tmp_path_factory.mktemp("bind"), [Zone("example.test")]))
    yield running
    asyncio.run(running.stop())


@pytest.fixture(scope="module")
def server(tmp_path_factory, bind):
    running = acme2certifier.start(tmp_path_factory.mktemp("a2c"), dns_port=bind.port)
    yield running
    asyncio.run(running.stop())


@asynccontextmanager
async def account(server):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(server.directory_url, account_key=key, ca_file=server.ca_file) as client:
        await client.register(terms_agreed=True, contact=["mailto:ops@example.test"])
        yield client


async def issued(server, client, terms=None):
    tokens = Tokens()
    async with responding(tokens, port=server.http_port):
        orderer = Orderer(client, WWW, tokens, terms=terms)
        return await orderer.obtain(MemoryJournal()), orderer


def days(chain):
    return (chain.not_after - chain.not_before) / timedelta(days=1)


async def test_a_profile_that_is_required_decides_what_is_issued(server):
    async with account(server) as client:
        got, _ = await issued(server, client, Terms(profile=Profile(SHORTLIVED, required=True)))
        default, _ = await issued(server, client)

    assert (LIFETIME_DAYS[SHORTLIVED], 90) == (round(days(got)), round(days(default)))
    assert tuple(WWW) == got.names


async def test_a_profile_that_it_does_not_have_is_gone_without_or_fails_before_the_order(server):
    async with account(server) as client:
        got, orderer = await issued(server, client, Terms(profile=Profile("tlsserver")))
        with pytest.raises(ProfileUnavailable, match="it offers classic, shortlived"):
            await issued(server, client, Terms(profile=Profile("tlsserver", required=True)))

    assert 90 == round(days(got))
    assert "order.profile_refused" in [name for name, _ in orderer.steps]


async def test_dates_that_it_passes_over_are_told(server):
    """It issues as if none had been asked for, and says nothing."""
    async with account(server) as client:
        terms = Terms(lifetime=timedelta(days=7), backdate=timedelta(hours=1))
        got, orderer = await issued(server, client, terms)

    assert 90 == round(days(got))
    (said,) = [fields["certificate"] for name, fields in orderer.steps if name == "order.dates_ignored"]
    assert f"begins {got.not_before:%FT%TZ} and ends {got.not_after:%FT%TZ}" == said


async def test_it_says_when_it_would_like_a_certificate_renewed_and_takes_what_replaces_it(server):
    """RFC 9773 sections 4.1 and 5: it finds the certificate by our identifier."""
    async with account(server) as client:
        first, _ = await issued(server, client)
        identifier = ari.certificate_id(first.leaf)
        async with ari.Inquiry(server.directory_url, ca_file=server.ca_file) as inquiry:
            info = await inquiry.ask(identifier)
        second, orderer = await issued(server, client, Terms(replaces=identifier))
    begins = first.not_before + (first.not_after - first.not_before) * ARI_FROM_PERCENT / 100

    assert abs(info.window.start - begins) <= timedelta(seconds=2)
    assert first.not_after == info.window.end
    assert timedelta(hours=6) == info.retry_after
    assert second.fingerprint != first.fingerprint
    assert "order.replaces_refused" not in [name for name, _ in orderer.steps]


async def test_an_account_s_key_is_changed_and_the_account_ends(server):
    key = keys.generate(KeyType.ECDSA_P384)
    async with account(server) as client:
        await client.change_key(key)
        got, _ = await issued(server, client)
        url = client.account_url
    async with Client(server.directory_url, account_key=key, ca_file=server.ca_file) as again:
        found = await again.find_account()
        ended = await again.deactivate()

    assert 90 == round(days(got))
    assert url == found.url
    assert "deactivated" == ended.status


async def test_what_it_has_revoked_already_is_as_it_shall_be(server):
    async with account(server) as client:
        got, _ = await issued(server, client)
        der = got.leaf.public_bytes(Encoding.DER)
        await client.revoke(der, reason=RevocationReason.SUPERSEDED)
        await client.revoke(der, reason=RevocationReason.SUPERSEDED)


# The whole of it


@pytest.fixture
async def front(server, tmp_path):
    """A door before it, which sees what is asked."""
    front = CaFront(tmp_path, upstream=server.directory_url, upstream_ca=server.ca_file)
    await front.open()
    yield front
    await front.shut()


@pytest.fixture
async def plane(tmp_path, connect, server, front):
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=server.http_port)
    plane.issuer(
        front.directory_url,
        front.ca_file,
        contact=["mailto:ops@example.test"],
        roots_file=str(server.roots_file),
        profile={"name": SHORTLIVED, "required": True},
    )
    yield plane
    if plane.child is not None:
        await plane.stop()
    await server.want_renewals(now=False)


async def test_a_control_plane_renews_when_the_ca_says_so_and_tells_what_it_replaces(
    plane, server, front, sql
):
    """Its window is at the end of a certificate's life: beyond ours nobody waits.

    Then every window has passed, the new certificate's too: that one is held back, or there would be no end.
    """

    async def asked():
        return await sql.fetchval("SELECT count(*) FROM renewal_info WHERE answered_at IS NOT NULL") == 1

    async def renewed():
        return await sql.fetchval("SELECT max(generation) FROM certificate WHERE status = 'active'") == 2

    async def held_back():
        return await sql.fetchval("SELECT renew_reason FROM certificate ORDER BY generation DESC") == (
            "ari-held-back"
        )

    await plane.start()
    await until(asked)
    planned = await sql.fetchrow(
        "SELECT not_after - renew_at AS left, not_after - not_before AS life, renew_reason FROM certificate"
    )
    await server.want_renewals(now=True)
    await sql.execute("UPDATE renewal_info SET ask_at = now()")
    await until(renewed)
    await until(held_back)
    pems = await sql.fetch(
        "SELECT chain_pem FROM certificate_chain p JOIN certificate c ON c.id = p.cert_id ORDER BY generation"
    )
    first, second = (chains.parse(row["chain_pem"].encode()) for row in pems)
    first_days = planned["life"] / timedelta(days=1)

    assert LIFETIME_DAYS[SHORTLIVED] == round(first_days)
    assert planned["life"] / 4 == planned["left"], planned["renew_reason"]
    assert [SHORTLIVED, SHORTLIVED] == [visit.order["profile"] for visit in front.orders]
    assert [None, ari.certificate_id(first.leaf)] == [v.order.get("replaces") for v in front.orders]
    assert second.leaf.not_valid_before_utc <= datetime.now(UTC)


# A record that stands


@pytest.fixture
async def standing(server, bind, tmp_path, connect, sql):
    """A control plane that proves a name and its wildcard so, and the record that it wants."""
    plane = ControlPlane(tmp_path, database=dsn(connect), http01_port=server.http_port)
    (tmp_path / "tsig").write_text(KEY_SECRET)
    dns = {
        "provider": "rfc2136",
        "server": bind.address,
        "key_name": KEY_NAME,
        "key_secret": {"file": "tsig"},
        "nameservers": [bind.address],
    }
    plane.issuer(
        server.directory_url,
        server.ca_file,
        contact=["mailto:ops@example.test"],
        roots_file=str(server.roots_file),
        dns=dns,
        challenge="dns-persist-01",
    )
    plane.settings["secrets"] = {
        "www": {"domains": ["stands.example.test", "*.stands.example.test"], "issuer": "internal"}
    }
    yield plane
    if plane.child is not None:
        await plane.stop()


async def test_a_record_that_stands_proves_a_name_and_its_wildcard_and_nothing_is_written(
    standing, bind, sql
):
    """draft-ietf-acme-dns-persist: without it nothing is answered, and who asks is told what to write."""

    async def waits():
        return await sql.fetchval("SELECT last_error FROM certrotation WHERE attempts > 0") is not None

    async def issued():
        return await sql.fetchval("SELECT count(*) FROM certificate WHERE status = 'active'") == 1

    await standing.start()
    await until(waits)
    account = await sql.fetchval("SELECT account_url FROM acme_account")
    error = json.loads(await sql.fetchval("SELECT last_error FROM certrotation"))
    name = "_validation-persist.stands.example.test"
    text = persist_record_text(CA_IDENTITY, account, wildcard=True)
    await provider_of("rfc2136", bind.settings).add(name, text)
    await standing.command("rotate", "www")
    await until(issued)
    chain = await sql.fetchval("SELECT chain_pem FROM certificate_chain")

    assert f'{name}. IN TXT "{text}"' in error["hint"]
    assert {"stands.example.test", "*.stands.example.test"} == set(chains.parse(chain.encode()).names)
    assert {text} == await bind.txt(name)
    assert set() == await bind.txt("_acme-challenge.stands.example.test")
    assert 0 == await sql.fetchval("SELECT count(*) FROM challenge_value")
