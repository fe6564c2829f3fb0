"""The engine against Pebble: strict, refusing every second nonce, sleeping, wanting an EAB."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import (
    Actor,
    Client,
    Eab,
    KeyType,
    OrderFailed,
    Refused,
    RevocationReason,
    TlsAlpn01Responder,
    TlsAlpn01Solver,
    chain,
    errors,
    keys,
)
from acme_engine.hidden import Hidden
from acme_engine.ordering import Terms
from acme_engine.relinquish import relinquish
from tests.support import pki
from tests.support.acme import Crash, MemoryJournal, Orderer, Tokens, responding
from tests.support.pebble import Pebble, start

pytestmark = pytest.mark.debian

EAB = Eab("kid-1", Hidden("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"))


@pytest.fixture(scope="module")
def pebble(tmp_path_factory):
    running = start(tmp_path_factory.mktemp("pebble"), eab=EAB)
    yield running
    asyncio.run(running.stop())


@asynccontextmanager
async def account(pebble):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        await client.register(terms_agreed=True, eab=pebble.eab)
        yield client


async def test_a_certificate_is_obtained_over_http_01(pebble):
    tokens = Tokens()
    journal = MemoryJournal()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["www.example.com", "example.com"], tokens)
        got = await orderer.obtain(journal)

    assert set(got.names) == {"www.example.com", "example.com"}
    assert got.spki_sha256 == keys.spki_sha256(orderer.key.public_key())
    assert timedelta(days=89) < got.not_after - got.not_before < timedelta(days=91)
    assert journal.steps == ["ordered", "finalizing", "issued"]
    assert tokens == {}, "every token is taken away"


async def test_a_certificate_begins_and_ends_when_the_order_says(pebble):
    """RFC 8555 section 7.4, notBefore and notAfter: it issues by them, to the second."""
    tokens = Tokens()
    terms = Terms(lifetime=timedelta(days=7), backdate=timedelta(hours=2))
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["dated.example.com"], tokens, terms=terms)
        before = datetime.now(UTC)
        got = await orderer.obtain(MemoryJournal())

    assert terms.lifetime + terms.backdate == got.not_after - got.not_before
    assert timedelta(seconds=-1) <= got.not_before + terms.backdate - before <= timedelta(seconds=5)
    assert "order.dates_ignored" not in [name for name, _ in orderer.steps]


async def test_the_chain_builds_to_the_ca_s_root(pebble):
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["root.example.com"], tokens)
        got = await orderer.obtain(MemoryJournal())

    chain.check(
        got,
        spki_sha256=keys.spki_sha256(orderer.key.public_key()),
        names=orderer.names,
        now=datetime.now(UTC),
        roots=[await pebble.root()],
    )


@pytest.mark.parametrize("step", ["ordered", "finalizing", "issued"])
async def test_an_order_that_a_crash_left_is_resumed_and_issued_once(pebble, step):
    """Whatever the step, the second process gets one certificate from the first one's order."""
    tokens = Tokens()
    orders, issued = pebble.orders(), pebble.issued()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, [f"{step}.example.com"], tokens)
        crashed = MemoryJournal(crash_after=step)
        with pytest.raises(Crash):
            await orderer.obtain(crashed)
        got = await orderer.obtain(MemoryJournal(), order_url=crashed.order_url)
        again = await orderer.obtain(MemoryJournal(), order_url=crashed.order_url)

    assert got.fingerprint == again.fingerprint
    assert pebble.orders() - orders == 1
    assert pebble.issued() - issued == 1


async def test_what_nobody_wants_any_more_needs_not_be_proved(pebble):
    """Names that are proved stay so (RFC 8555 section 7.5.2); those that are not are given up, once."""
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        await Orderer(client, ["proved.example.com"], tokens).obtain(MemoryJournal())
        order = await client.new_order(["proved.example.com", "given-up.example.com"])
        before = [(await client.authorization(url)).status for url in order.authorizations]
        given_up = await relinquish(client, order.url), await relinquish(client, order.url)
        after = [(await client.authorization(url)).status for url in order.authorizations]

    kept = ["valid" if status == "valid" else "deactivated" for status in before]
    assert (kept, (before.count("pending"), 0)) == (after, given_up)
    assert "pending" in before


class StuckOnce(Tokens):
    """Keeps the first token and does not return: the CA has not been told to look yet."""

    stuck = True

    async def put(self, token, key_authorization, *, ttl_s):
        await super().put(token, key_authorization, ttl_s=ttl_s)
        if self.stuck:
            self.stuck = False
            await asyncio.Event().wait()


async def test_a_cancelled_order_takes_its_tokens_away_and_is_resumed(pebble):
    tokens = StuckOnce()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["cancelled.example.com"], tokens)
        journal = MemoryJournal()
        task = asyncio.create_task(orderer.obtain(journal))
        while not tokens:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert tokens == {}
        got = await orderer.obtain(MemoryJournal(), order_url=journal.order_url)

    assert got.names == ("cancelled.example.com",)


async def test_a_name_that_cannot_be_proved_fails_in_the_ca_s_words(pebble):
    """Nobody answers on the port: the error names the guilty name, and who must act."""
    async with account(pebble) as client:
        orderer = Orderer(client, ["dark.example.com"], Tokens())
        journal = MemoryJournal()
        with pytest.raises(OrderFailed) as failure:
            await orderer.obtain(journal)
        with pytest.raises(OrderFailed) as resumed:
            await orderer.obtain(MemoryJournal(), order_url=journal.order_url)

    assert failure.value.problem.code == "connection"
    assert failure.value.problem.identifier == "dark.example.com"
    assert failure.value.actor is Actor.OWNER
    assert failure.value.retryable
    assert "127.0.0.1" in str(failure.value), "the CA's own words"
    assert resumed.value.problem.code == "connection", "a dead order says why again"


async def test_an_order_that_the_ca_does_not_know_has_failed(pebble):
    """A CA that was reset: the answer is a new order, not a retry of the old one."""
    async with account(pebble) as client:
        orderer = Orderer(client, ["gone.example.com"], Tokens())
        gone = pebble.directory_url.replace("/dir", "/my-order/unknown")
        with pytest.raises(OrderFailed, match="does not have the order"):
            await orderer.obtain(MemoryJournal(), order_url=gone)


async def test_registering_twice_finds_the_same_account(pebble):
    key = keys.generate(KeyType.ECDSA_P384)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        with pytest.raises(Refused) as unknown:
            await client.find_account()
        first = await client.register(terms_agreed=True, contact=["mailto:ops@example.com"], eab=EAB)
        second = await client.register(terms_agreed=True, eab=EAB)
        found = await client.find_account()

    assert unknown.value.problem.code == "accountDoesNotExist"
    assert first.created
    assert not second.created
    assert first.url == second.url == found.url


async def test_what_the_ca_will_want_is_said_before_it_is_asked(pebble):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        with pytest.raises(errors.TermsNotAgreed, match="terms of service: "):
            await client.register(terms_agreed=False)
        with pytest.raises(errors.BindingRequired):
            await client.register(terms_agreed=True)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_a_binding_by_each_algorithm_is_believed_by_the_ca(pebble, algorithm):
    eab = Eab("kid-1", EAB.hmac_key, algorithm)
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        assert (await client.register(terms_agreed=True, eab=eab)).created


async def test_a_false_binding_is_refused_by_the_ca(pebble):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        with pytest.raises(Refused) as refusal:
            await client.register(terms_agreed=True, eab=Eab("kid-1", Hidden("bm90IHRoZSBrZXk")))

    assert refusal.value.problem.status in {401, 403}


async def test_an_rsa_account_signs_too(pebble):
    key = await asyncio.to_thread(keys.generate, KeyType.RSA_2048)
    async with Client(pebble.directory_url, account_key=key, ca_file=pebble.ca_file) as client:
        assert (await client.register(terms_agreed=True, eab=EAB)).status == "valid"


async def test_a_ca_file_of_another_ca_is_a_clear_error(pebble, tmp_path):
    other = pki.authority("Another").write(tmp_path / "other.pem")
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(pebble.directory_url, account_key=key, ca_file=other) as client:
        with pytest.raises(errors.Untrusted) as refusal:
            await client.directory()

    assert refusal.value.actor is Actor.OPERATOR
    assert "CA file" in refusal.value.hint


async def test_the_account_that_ordered_a_certificate_revokes_it_and_twice_is_as_once(pebble):
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        got = await Orderer(client, ["revoked.example.com"], tokens).obtain(MemoryJournal())
        before = await pebble.revocation(got.serial_number)
        der = got.leaf.public_bytes(Encoding.DER)
        await client.revoke(der, reason=RevocationReason.SUPERSEDED)
        await client.revoke(der, reason=RevocationReason.SUPERSEDED)

    assert ("Valid", None) == before
    assert ("Revoked", 4) == await pebble.revocation(got.serial_number)


@pytest.mark.parametrize("by_certificate_key", [False, True], ids=["account", "certificate"])
@pytest.mark.parametrize(
    ("reason", "code"), [(RevocationReason.UNSPECIFIED, 0), (RevocationReason.CESSATION_OF_OPERATION, 5)]
)
async def test_each_reason_reaches_the_ca_by_either_key(pebble, reason, code, by_certificate_key):
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["ended.example.com"], tokens)
        got = await orderer.obtain(MemoryJournal())
        key = orderer.key if by_certificate_key else None
        await client.revoke(got.leaf.public_bytes(Encoding.DER), reason=reason, certificate_key=key)

    assert ("Revoked", code) == await pebble.revocation(got.serial_number)


async def test_another_account_may_not_revoke_and_the_certificate_s_key_may(pebble):
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderer = Orderer(client, ["stolen.example.com"], tokens)
        got = await orderer.obtain(MemoryJournal())
    der = got.leaf.public_bytes(Encoding.DER)
    async with account(pebble) as stranger:
        with pytest.raises(Refused) as refusal:
            await stranger.revoke(der, reason=RevocationReason.KEY_COMPROMISE)
        refused = await pebble.revocation(got.serial_number)
        await stranger.revoke(der, reason=RevocationReason.KEY_COMPROMISE, certificate_key=orderer.key)

    assert "unauthorized" == refusal.value.problem.code
    assert ("Valid", None) == refused
    assert ("Revoked", 1) == await pebble.revocation(got.serial_number)


async def test_names_are_proved_in_the_tls_handshake_itself(pebble):
    """TLS-ALPN-01 (RFC 8737): nothing listens on port 80."""
    tokens = Tokens()
    responder = TlsAlpn01Responder(tokens, host="127.0.0.1", port=pebble.tls_port)
    names = ["alpn.example.com", "other.alpn.example.com"]
    async with account(pebble) as client:
        orderer = Orderer(client, names, tokens, solver=TlsAlpn01Solver(tokens))
        with pytest.raises(OrderFailed) as failure:
            await orderer.obtain(MemoryJournal())
        await responder.start()
        try:
            got = await orderer.obtain(MemoryJournal())
        finally:
            await responder.stop()

    assert {*names} >= {failure.value.problem.identifier}
    assert names == sorted(got.names)
    assert {} == tokens


@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
async def test_an_address_is_certified_as_one(pebble, kind):
    """RFC 8738: an identifier of type ip, an iPAddress in CSR and leaf, and a reverse name as SNI."""
    tokens = Tokens()
    by_tls = TlsAlpn01Responder(tokens, host="127.0.0.1", port=pebble.tls_port)
    solver = TlsAlpn01Solver(tokens) if kind == "tls-alpn-01" else None
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        await by_tls.start()
        try:
            got = await Orderer(client, ["127.0.0.1"], tokens, solver=solver).obtain(MemoryJournal())
        finally:
            await by_tls.stop()

    assert ("127.0.0.1",) == got.names


async def test_a_name_that_was_proved_before_is_not_proved_again(tmp_path):
    """RFC 8555 section 7.1.3: an order may be ready at once, its authorizations being valid already."""
    pebble = Pebble(tmp_path, kind=True, authz_reuse_percent=100)
    await pebble.ready()
    tokens = Tokens()
    async with account(pebble) as client, responding(tokens, port=pebble.http_port):
        orderers = [Orderer(client, ["again.example.com"], tokens) for _ in range(2)]
        got = [await orderer.obtain(MemoryJournal()) for orderer in orderers]
    await pebble.stop()
    answered = ["challenge.answered" in [name for name, _ in orderer.steps] for orderer in orderers]

    assert [True, False] == answered
    assert got[0].fingerprint != got[1].fingerprint
