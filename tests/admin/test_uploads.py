"""Uploads over the API: what is answered to which pair, in both forms in which one may come."""

import ssl
import time

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.pki import authority, key_pem, new_key

PATH = "/v1/secrets/www/certificate"
NAMES = ["www.example.test"]
CA = authority("Bought root").intermediate("Bought intermediate")


def body(pair):
    return {"chain": pair.chain_pem.decode(), "private_key": pair.key_pem.decode()}


async def test_a_pair_is_created_then_unchanged_then_accepted(api):
    first, second = CA.issue(NAMES), CA.issue(NAMES)

    created = await api.local("PUT", PATH, json=body(first))
    unchanged = await api.local("PUT", PATH, json=body(first))
    accepted = await api.local("PUT", PATH, json=body(second))

    assert (201, 200, 202) == (created.status, unchanged.status, accepted.status)
    assert ("upload", NAMES) == (created.json["issuer"], created.json["domains"])
    assert [1, 1, 2] == [reply.json["certificate"]["generation"] for reply in (created, unchanged, accepted)]
    assert created.json["rotation"]["id"] == unchanged.json["rotation"]["id"]
    assert "uploaded" == accepted.json["rotation"]["reason"]
    assert b"PRIVATE" not in created.raw + unchanged.raw + accepted.raw


@pytest.mark.parametrize("key_first", [True, False])
async def test_one_pem_file_may_hold_both(api, key_first):
    pair = CA.issue(NAMES)
    parts = [pair.key_pem, pair.chain_pem] if key_first else [pair.chain_pem, pair.key_pem]
    reply = await api.local(
        "PUT",
        PATH,
        data=b"# from the CA\n" + b"".join(parts),
        headers={"Content-Type": "application/x-pem-file"},
    )

    assert 201 == reply.status
    chain = await api.local("GET", f"/v1/certificates/{reply.json['certificate']['id']}/chain")
    assert pair.chain_pem == chain.raw


async def test_a_pair_that_the_gate_refuses_is_a_problem_with_the_next_step(api):
    reply = await api.local(
        "PUT", PATH, json=body(CA.issue(NAMES)) | {"private_key": key_pem(new_key()).decode()}
    )

    assert 422 == reply.status
    assert "urn:certvoy:problem:gate-refused" == reply.json["type"]
    assert "the private key is of none of the chain's certificates" == reply.json["detail"]
    assert "send the private key that the leaf was issued for" == reply.json["hint"]
    assert 404 == (await api.local("GET", "/v1/secrets/www")).status


@pytest.mark.parametrize("kind", ["text/plain", "application/pkcs12"])
async def test_another_form_is_refused_with_those_that_are_taken(api, kind):
    reply = await api.local("PUT", PATH, data=b"x", headers={"Content-Type": kind})

    assert 400 == reply.status
    assert "expected application/json or application/x-pem-file" in reply.json["detail"]


async def test_a_name_that_no_secret_can_have_is_refused(api):
    reply = await api.local("PUT", "/v1/secrets/%2A/certificate", json=body(CA.issue(NAMES)))

    assert 422 == reply.status


async def test_the_same_certificate_under_another_name_is_a_conflict(api):
    pair = CA.issue(NAMES)
    await api.local("PUT", PATH, json=body(pair))

    reply = await api.local("PUT", "/v1/secrets/other/certificate", json=body(pair))

    assert 409 == reply.status
    assert "generation 1 of www" in reply.json["detail"]


async def test_the_same_certificate_with_another_chain_is_not_called_served_already(api):
    """Its leaf alone came first, say, and nobody would learn that the intermediate was dropped."""
    pair = CA.issue(NAMES)
    leaf = pair.chain_pem.split(b"-----END", 1)[0] + b"-----END CERTIFICATE-----\n"
    await api.local("PUT", PATH, json=body(pair) | {"chain": leaf.decode()})

    reply = await api.local("PUT", PATH, json=body(pair))

    assert (409, True) == (reply.status, "with another chain" in reply.json["detail"])


async def test_its_renewal_is_a_person_s_and_it_cannot_be_declared_or_rotated(api):
    uploaded = await api.local("PUT", PATH, json=body(CA.issue(NAMES)))
    rotated = await api.local("POST", "/v1/secrets/www/rotations", json={})
    declared = await api.local("PUT", "/v1/secrets/new", json={"domains": NAMES, "issuer": "upload"})

    overdue = next(item for item in uploaded.json["conditions"] if item["type"] == "RenewalOverdue")
    assert not overdue["status"]
    assert "upload the next pair" in overdue["message"]
    assert (409, 422) == (rotated.status, declared.status)
    assert "certvoy upload" in declared.json["hint"]


async def test_a_secret_that_is_uploaded_can_go_over_to_a_ca(api, issuances):
    await api.local("PUT", PATH, json=body(CA.issue(NAMES)))
    changed = await api.local("PUT", "/v1/secrets/www", json={"domains": NAMES, "issuer": "internal"})
    claim = await issuances.claim()

    assert 200 == changed.status
    assert "www" == claim.lease.secret


@pytest.mark.parametrize("beginning", ["-----BEGIN A-----", "-----BEGIN PRIVATE KEY-----\n"])
async def test_a_file_of_beginnings_without_an_end_holds_nobody_up(api, beginning):
    begun = time.process_time()
    reply = await api.local(
        "PUT",
        PATH,
        data=(beginning * 40_000)[:1_000_000].encode(),
        headers={"Content-Type": "application/x-pem-file"},
    )

    assert 422 == reply.status
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0603551d25", "0603551d11"),  # two extensions of one kind
        ("8210" + b"www.example.test".hex(), "a310" + b"www.example.test".hex()),  # an X.400 name
        ("06082a8648ce3d030107", "06082a8648ce3d030109"),  # a curve that nobody knows
    ],
)
async def test_a_certificate_that_cannot_be_read_to_its_end_is_refused(api, old, new):
    pair = CA.issue(NAMES)
    leaf = pair.certificate.public_bytes(serialization.Encoding.DER)
    odd = leaf.replace(bytes.fromhex(old), bytes.fromhex(new))
    assert odd != leaf
    reply = await api.local(
        "PUT", PATH, json={"chain": ssl.DER_cert_to_PEM_cert(odd), "private_key": pair.key_pem.decode()}
    )

    assert 422 == reply.status
    assert "urn:certvoy:problem:gate-refused" == reply.json["type"]


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
async def test_a_serial_number_below_zero_is_refused(api):
    pair = CA.issue(NAMES)
    leaf = bytearray(pair.certificate.public_bytes(serialization.Encoding.DER))
    serial = leaf.index(b"\xa0\x03\x02\x01\x02") + 7  # behind the version, tag and length
    leaf[serial] |= 0x80
    reply = await api.local(
        "PUT",
        PATH,
        json={"chain": ssl.DER_cert_to_PEM_cert(bytes(leaf)), "private_key": pair.key_pem.decode()},
    )

    assert 422 == reply.status
