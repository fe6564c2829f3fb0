"""Signing requests over the API: of the one target that keeps a secret's keys, and of nobody else."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import keys
from sds_server.inventory import declarations
from sds_server.model import KeyHolder, KeyType, Scope
from tests.admin.test_bundles import EDGE, opened
from tests.support.issuances import secret

CSR = "/v1/secrets/www/csr"


def request(names=("www.example.test",), key=None):
    csr = keys.csr(key or keys.generate(keys.KeyType.ECDSA_P256), list(names))
    return x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()


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

    assert {"domains": ["www.example.test"], "key_type": "ecdsa-p256", "spki_sha256": None} == wanted.json
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
    ],
    ids=["no-request", "another-name", "one-name-more", "another-type", "unknown-type"],
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
