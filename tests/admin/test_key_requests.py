"""Signing requests over the API: of the one target that keeps a secret's keys, and of nobody else."""

import base64
import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from acme_engine import chain as chains
from acme_engine import keys
from sds_server.inventory import declarations, freezes, key_requests, orders, proxies, rotations, secrets
from sds_server.inventory import issuances as stored
from sds_server.inventory.key_requests import KeyRequest
from sds_server.inventory.proxies import GrantedName
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    Identity,
    KeyHolder,
    KeyId,
    KeyType,
    Peer,
    Scope,
)
from tests.admin.test_bundles import EDGE, opened
from tests.support.issuances import LEASE, secret

CSR = "/v1/secrets/www/csr"


def request(names=("www.example.test",), key=None):
    csr = keys.csr(key or keys.generate(keys.KeyType.ECDSA_P256), list(names))
    return x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()


def built(*, common=None, extension=None):
    """A request whose names are right, with more in it."""
    subject = [] if common is None else [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    names = x509.SubjectAlternativeName([x509.DNSName("www.example.test")])
    builder = builder.add_extension(names, critical=False)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return (
        builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )


def spoilt(extension, old, new):
    """A request in which some bytes are others."""
    der = x509.load_pem_x509_csr(built(extension=extension).encode()).public_bytes(Encoding.DER)
    changed = base64.encodebytes(der.replace(bytes.fromhex(old), bytes.fromhex(new), 1)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{changed}-----END CERTIFICATE REQUEST-----\n"


def spki(pem):
    return keys.spki_sha256(x509.load_pem_x509_csr(pem.encode()).public_key()).hex()


@pytest.fixture
async def door(database, issuances, tmp_path):
    await declarations.put(database, replace(secret(), key_holder=KeyHolder.TARGET), actor="person:test")
    async with opened(database, issuances, tmp_path) as running:
        yield running


async def put(door, csr, *, pair=None, **more):
    return await door.api.remote("PUT", CSR, pair=pair or door.edge, json={"csr": csr} | more)


async def test_a_target_asks_what_is_wanted_and_brings_it(door, sql):
    wanted = await door.get(CSR)
    csr = request(wanted.json["domains"])
    brought = await put(door, csr)
    again = await put(door, csr)

    nothing = {"domains": ["www.example.test"], "key_type": "ecdsa-p256", "spki_sha256": None, "held": []}
    assert nothing == wanted.json
    assert (200, spki(csr)) == (brought.status, brought.json["spki_sha256"])
    assert again.json == brought.json == (await door.get(CSR)).json
    assert ["key.requested"] == [
        row["action"] for row in await sql.fetch("SELECT action FROM certaudit WHERE action LIKE 'key.%'")
    ]


async def test_a_newer_request_takes_the_place_of_one_that_was_not_ordered(door):
    await put(door, request())
    newer = request()
    await put(door, newer)

    assert spki(newer) == (await door.get(CSR)).json["spki_sha256"]


@pytest.mark.parametrize(
    ("csr", "what"),
    [
        ("-----BEGIN PRIVATE KEY-----", "cannot be used"),
        (request(["other.example.test"]), "is for other.example.test, not www.example.test"),
        (request(["www.example.test", "more.example.test"]), "not www.example.test"),
        (request(key=ec.generate_private_key(ec.SECP384R1())), "its key is ecdsa-p384, not ecdsa-p256"),
        (request(key=ec.generate_private_key(ec.SECP521R1())), "of a type that we do not take"),
        (built(common="other.example.test"), "its common name is none of www.example.test"),
        (spoilt(x509.BasicConstraints(ca=False, path_length=None), "0603551d13", "0603551d11"), "Duplicate"),
        (spoilt(None, "020100", "020103"), "cannot be used"),
    ],
    ids=[
        "no-request",
        "another-name",
        "one-name-more",
        "another-type",
        "unknown-type",
        "another-common-name",
        "an-extension-twice",
        "unknown-version",
    ],
)
async def test_a_request_for_something_else_is_refused(door, csr, what):
    refused = await put(door, csr)

    assert 400 == refused.status
    assert what in refused.json["detail"]
    assert (await door.get(CSR)).json["spki_sha256"] is None


async def test_a_request_that_its_own_key_did_not_sign_is_refused(door):
    good = x509.load_pem_x509_csr(request().encode()).public_bytes(Encoding.DER)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    refused = await put(door, x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM).decode())

    assert 400 == refused.status


async def test_another_target_does_not_get_the_keys(door):
    await put(door, request(), target="web-1")
    refused = await put(door, request(), target="web-2")

    assert 409 == refused.status
    assert f"web-1 ({EDGE}) has its keys" in refused.json["detail"]


async def test_when_that_target_is_removed_another_may(door, database):
    await put(door, request(), target="web-1")
    await door.get("/v1/secrets/www/bundle?target=web-1&kind=nginx")
    await door.recorder.step()
    removed = await door.api.local("DELETE", "/v1/targets/web-1")
    taken = await put(door, request(), target="web-2")

    assert (204, 200) == (removed.status, taken.status)


async def test_one_that_was_never_seen_can_be_removed_too(door, sql):
    await put(door, request(), target="web-1")
    removed = await door.api.local("DELETE", "/v1/targets/web-1")
    again = await door.api.local("DELETE", "/v1/targets/web-1")
    taken = await put(door, request(), target="web-2")
    payload = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'target.removed'")

    assert (204, 404, 200) == (removed.status, again.status, taken.status)
    assert ["www"] == json.loads(payload)["keys_of"]


async def test_nothing_is_ordered_for_a_proxy_that_was_removed(door, database, sql):
    """A request that waits would be signed at the next renewal, for who may see nothing any more."""
    identity = Identity("spiffe://certvoy/proxy/web-9")
    await proxies.invite(
        database,
        "web-9",
        identity=identity,
        granted=[GrantedName("www")],
        token="t",
        lasts=timedelta(hours=1),
        actor="p",
    )
    csr = x509.load_pem_x509_csr(request().encode())
    brought = KeyRequest(csr.public_bytes(Encoding.DER), keys.spki_sha256(csr.public_key()))
    declared = replace(secret(), key_holder=KeyHolder.TARGET)
    await key_requests.bring(database, declared, Peer(identity, "web-9"), brought, actor="p")
    await door.api.local("DELETE", "/v1/proxies/web-9")
    payload = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'proxy.removed'")

    assert (await door.get(CSR)).json["spki_sha256"] is None
    assert ["www"] == json.loads(payload)["keys_of"]
    assert 200 == (await put(door, request())).status


async def test_without_a_grant_the_name_is_not_there(door):
    hidden = await put(door, request(), pair=door.other)
    token = await door.api.token(Scope.ADMIN)
    by_token = await door.api.remote("GET", CSR, token=token)

    assert 404 == hidden.status
    assert 403 == by_token.status


async def test_a_secret_whose_keys_certvoy_makes_takes_no_request(door, database):
    await declarations.put(database, secret(), actor="person:test")
    refused = await put(door, request())

    assert 409 == refused.status
    assert "key_holder: target" in refused.json["hint"]


async def test_what_was_brought_for_other_names_or_another_type_is_not_wanted_any_more(door, database):
    await put(door, request())
    changed = replace(secret(), key_holder=KeyHolder.TARGET, key_type=KeyType.ECDSA_P384)
    await declarations.put(database, changed, actor="person:test")
    wanted = (await door.get(CSR)).json

    assert ("ecdsa-p384", None) == (wanted["key_type"], wanted["spki_sha256"])


async def test_the_same_request_again_after_it_was_ordered_is_no_new_one(door, database, sql):
    """Its answer was lost, and whoever stood between sent it again."""
    csr = request()
    await put(door, csr)
    await order(database)
    again = await put(door, csr)

    assert (200, None) == (again.status, again.json["spki_sha256"])


async def order(database):
    """Take the request that waits into an order."""
    claim = await rotations.claim(database, replica="a", lease_for=LEASE)
    declared = await secrets.get(database, "www")
    return claim, await orders.plan_for_target(
        database,
        claim.lease,
        declared,
        key_id=KeyId(uuid4()),
        purpose="leaf",
        actor="replica:a",
        allowed=lambda _identity: True,
    )


@pytest.fixture
async def issued(door, database, issuances):
    """Generation 1, of a key that the target has."""
    key = keys.generate(keys.KeyType.ECDSA_P256)
    await put(door, request(key=key))
    claim, planned = await order(database)
    pair = issuances.ca.issue(dns=["www.example.test"], public_key=key.public_key())
    chain = chains.parse(pair.chain_pem)
    certificate = Certificate(
        id=CertificateId(uuid4()),
        secret="www",
        generation=0,
        status=CertificateStatus.ISSUED,
        domains=("www.example.test",),
        issuer="internal",
        serial_number=chain.serial_number,
        not_before=chain.not_before,
        not_after=chain.not_after,
        fingerprint=chain.fingerprint,
        key_id=planned.key_id,
        key_ref=f"external:{chain.spki_sha256.hex()}",
        chain_pem=chain.pem,
        renew_at=chain.not_after,
    )
    await stored.store(
        database,
        claim.lease,
        certificate,
        spki_sha256=chain.spki_sha256,
        order_url="https://ca.example.test/1",
        renew_reason="test",
        actor="replica:a",
    )


async def test_which_keys_the_target_must_have_is_said_newest_first(door, issued, sql):
    before = await door.api.remote("GET", CSR, pair=door.edge)
    await sql.execute("UPDATE certificate SET status = 'rejected'")
    after = await door.api.remote("GET", CSR, pair=door.edge)
    spki = await sql.fetchval("SELECT spki_sha256 FROM certificate")

    assert [{"generation": 1, "spki_sha256": spki.hex()}] == before.json["held"]
    assert [] == after.json["held"], "what is served to nobody needs no key"


async def rotations_of(sql):
    return [row[0] for row in await sql.fetch("SELECT reason FROM certrotation ORDER BY id")]


async def test_a_key_that_is_gone_gets_a_successor_once(door, issued, sql):
    csr = request()
    for _ in range(3):
        assert 200 == (await put(door, csr, lost=1)).status

    assert ["initial", "changed"] == await rotations_of(sql)
    assert 1 == await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'key.lost'")


@pytest.mark.parametrize("lost", [None, 2])
async def test_a_key_that_is_not_gone_or_of_another_generation_gets_none(door, issued, sql, lost):
    await put(door, request(), **({} if lost is None else {"lost": lost}))

    assert ["initial"] == await rotations_of(sql)


async def test_a_frozen_secret_gets_no_successor(door, issued, database, sql):
    await freezes.freeze(database, "www", reason="test", actor="person:test")
    taken = await put(door, request(), lost=1)

    assert 200 == taken.status
    assert ["initial"] == await rotations_of(sql)


async def test_a_target_that_loses_every_key_does_not_spend_the_limits_of_the_ca(door, issued, sql):
    await sql.execute(
        "INSERT INTO certrotation (secret, reason, completed_at, outcome)"
        " SELECT 'www', 'changed', certvoy_now(), 'superseded' FROM generate_series(1, $1::int)",
        key_requests.LOST_MAX,
    )
    taken = await put(door, request(), lost=1)

    assert 200 == taken.status
    assert 0 == await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'key.lost'")


async def test_who_has_the_keys_is_said_with_the_secret(door, database):
    async def told():
        shown = (await door.api.local("GET", "/v1/secrets/www")).json
        issuing = next(item for item in shown["conditions"] if item["type"] == "Issuing")
        return shown["key_custody"], issuing["reason"]

    nobody, awaited = await told()
    await put(door, request(), target="web-1")
    waits, under_way = await told()
    await order(database)
    ordered, _ = await told()

    assert (None, False, "KeyAwaited") == (nobody["target"], nobody["waits"], awaited)
    assert ("web-1", EDGE, True, "UnderWay") == (
        waits["target"],
        waits["identity"],
        waits["waits"],
        under_way,
    )
    assert waits["message"].startswith(f"web-1 ({EDGE}) has its keys, and its request of ")
    assert f"nothing has come since its request of {ordered['brought_at'][:16]}" in ordered["message"]


async def test_of_keys_that_certvoy_makes_no_target_is_named(door, database):
    await declarations.put(database, secret(), actor="person:test")

    assert (await door.api.local("GET", "/v1/secrets/www")).json["key_custody"] is None
