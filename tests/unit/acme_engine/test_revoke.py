"""Revocation (RFC 8555 section 7.6): who signs, what is sent, and what counts as done."""

from base64 import urlsafe_b64decode

import pytest

from acme_engine import KeyType, Refused, RevocationReason, errors, keys
from tests.support.fake_ca import problem

DER = b"\x30\x03\x02\x01\x05"


async def test_the_account_revokes_with_the_reason_s_code(ca, client):
    await client.revoke(DER, reason=RevocationReason.KEY_COMPROMISE)

    (asked,) = ca.posts("/revoke")
    assert {"certificate", "reason"} == asked.payload.keys()
    assert DER == urlsafe_b64decode(asked.payload["certificate"] + "=" * 3)
    assert 1 == asked.payload["reason"]
    assert f"{ca.url}/account/1" == asked.protected["kid"]


async def test_the_certificate_s_key_signs_with_its_public_half_instead_of_an_account(ca, client):
    key = keys.generate(KeyType.ECDSA_P384)
    await client.revoke(DER, reason=RevocationReason.SUPERSEDED, certificate_key=key)

    (asked,) = ca.posts("/revoke")
    assert "kid" not in asked.protected
    assert "ES384" == asked.protected["alg"]
    numbers = key.public_key().public_numbers()
    assert numbers.x == int.from_bytes(urlsafe_b64decode(asked.protected["jwk"]["x"] + "=" * 3))


async def test_what_is_revoked_already_is_done(ca, client):
    """An answer that was lost is asked for again, and a CA may say 400 or 409."""
    ca.next("/revoke", 409, problem("alreadyRevoked"))

    await client.revoke(DER, reason=RevocationReason.UNSPECIFIED)

    assert 1 == len(ca.posts("/revoke"))


@pytest.mark.parametrize("code", ["unauthorized", "badRevocationReason"])
async def test_a_refusal_is_told_in_the_ca_s_words(ca, client, code):
    ca.next("/revoke", 403, problem(code))

    with pytest.raises(Refused) as refusal:
        await client.revoke(DER, reason=RevocationReason.CESSATION_OF_OPERATION)

    assert code == refusal.value.problem.code


async def test_a_ca_without_revocation_says_so_before_anything_is_sent(ca, client):
    ca.directory = {"revokeCert": None}

    with pytest.raises(errors.Misconfigured, match="no revokeCert"):
        await client.revoke(DER, reason=RevocationReason.UNSPECIFIED)

    assert [] == ca.posts("/revoke")
