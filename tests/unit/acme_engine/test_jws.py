"""Signatures, checked by the acme library that did not make them (RFC 8555 section 6.2)."""

import json

import josepy
import pytest
from acme import challenges, messages
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from acme_engine import Eab, KeyType, keys
from acme_engine.errors import Misconfigured
from acme_engine.hidden import Hidden
from acme_engine.jws import Signer

URL = "https://ca.example/order"


def public(key):
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return josepy.JWKEC(key=key.public_key())
    return josepy.JWKRSA(key=key.public_key())


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [(KeyType.ECDSA_P256, "ES256"), (KeyType.ECDSA_P384, "ES384"), (KeyType.RSA_2048, "RS256")],
)
def test_the_algorithm_follows_the_key_and_the_signature_verifies(key_type, algorithm):
    key = keys.generate(key_type)
    signed = Signer(key).sign(b'{"a":1}', url=URL, nonce="AB", account_url="https://ca.example/account/1")

    jws = josepy.JWS.from_json(json.loads(signed))
    header = json.loads(jws.signature.protected)
    assert jws.verify(public(key))
    assert jws.payload == b'{"a":1}'
    assert header == {"alg": algorithm, "nonce": "AB", "url": URL, "kid": "https://ca.example/account/1"}


def test_without_an_account_the_public_key_goes_along_and_no_kid():
    key = keys.generate(KeyType.ECDSA_P256)
    signed = json.loads(Signer(key).sign(b"", url=URL, nonce="n", account_url=None))
    header = json.loads(josepy.decode_b64jose(signed["protected"]))

    assert signed["payload"] == ""
    assert header["jwk"] == public(key).to_json()
    assert "kid" not in header
    assert "d" not in header["jwk"], "the private half stays here"


@pytest.mark.parametrize("padding", ["", "="])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_binding_is_what_the_acme_library_makes(padding, algorithm):
    key = keys.generate(KeyType.ECDSA_P256)
    mac_key = "c2VjcmV0LW9mLXRoZS1jYS1hbmQtbWU"
    expected = messages.ExternalAccountBinding.from_data(
        public(key), "kid-1", mac_key, messages.Directory({"newAccount": URL}), hmac_alg=algorithm
    )

    got = Signer(key).bind(Eab("kid-1", Hidden(mac_key + padding), algorithm), url=URL)
    assert got["payload"] == expected["payload"]
    assert got["protected"] == expected["protected"]
    assert got["signature"] == expected["signature"]


def test_a_binding_by_an_algorithm_that_is_none_is_refused():
    with pytest.raises(Misconfigured, match="'none' is none of HS256, HS384, HS512"):
        Signer(keys.generate(KeyType.ECDSA_P256)).bind(Eab("kid-1", Hidden("AAAA"), "none"), url=URL)


@pytest.mark.parametrize("text", ["söcret", "se+ret/a", "secret a", "secre", "=", b"AAAA"])
def test_a_mac_key_that_is_not_base64url_is_said_by_its_id_only(text):
    with pytest.raises(Misconfigured, match=r"'kid-1': its HMAC key is not base64url$") as failure:
        Signer(keys.generate(KeyType.ECDSA_P256)).bind(Eab("kid-1", Hidden(text)), url=URL)

    assert failure.value.__cause__ is failure.value.__context__ is None


@pytest.mark.parametrize("text", ["hunter2", b"hunter2", None])
def test_a_mac_key_that_is_not_hidden_text_is_refused_at_once_and_not_shown(text):
    with pytest.raises(Misconfigured, match="kid-1") as failure:
        Eab("kid-1", text)

    assert "hunter2" not in str(failure.value)


def test_the_binding_s_key_is_not_shown():
    assert "hunter2" not in repr(Eab("kid-1", Hidden("hunter2")))


def test_the_key_authorization_is_what_the_acme_library_computes():
    key = keys.generate(KeyType.ECDSA_P256)
    challenge = challenges.HTTP01(token=b"\x01" * 32)

    token = challenge.encode("token")
    assert Signer(key).key_authorization(token) == challenge.key_authorization(public(key))


def test_an_account_key_on_another_curve_is_refused():
    with pytest.raises(Misconfigured, match="secp521r1"):
        Signer(ec.generate_private_key(ec.SECP521R1()))


@pytest.mark.parametrize(
    "key", [None, b"-----BEGIN PRIVATE KEY-----", x25519.X25519PrivateKey.generate(), ec.SECP256R1()]
)
def test_what_cannot_be_an_account_key_is_said_by_its_type(key):
    with pytest.raises(Misconfigured, match=f"cannot be a {type(key).__name__}: use P-256") as failure:
        Signer(key)

    assert "BEGIN" not in str(failure.value)
