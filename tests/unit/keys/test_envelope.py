"""The envelope, suite 1: each thing it is bound to, and each rule by which it refuses."""

import hashlib
import re
import timeit
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sds_server.errors import CustodyError
from sds_server.keys.envelope import OVERHEAD, Binding, check_dek, length_prefixed, seal, unseal
from sds_server.model import KeyId
from tests.support.pki import new_key

DEK = bytes(range(32))


def private_key(key=None):
    """PKCS#8 DER and the SHA-256 of its public half."""
    key = key or new_key()
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der, hashlib.sha256(spki).digest()


KEY, SPKI = private_key()
BINDING = Binding(UUID(int=1), KeyId(UUID(int=2)), "tls", SPKI)


def test_opened_is_what_was_sealed():
    assert unseal(seal(KEY, dek=DEK, binding=BINDING), dek=DEK, binding=BINDING) == KEY


def test_an_rsa_key_is_not_checked_again_when_it_is_opened():
    """The check takes 43 ms; the tag vouches for the bytes."""
    key, spki = private_key(rsa.generate_private_key(65537, 2048))
    binding = replace(BINDING, spki_sha256=spki)
    blob = seal(key, dek=DEK, binding=binding)

    assert min(timeit.repeat(lambda: unseal(blob, dek=DEK, binding=binding), number=1, repeat=10)) < 0.005


def test_overhead_is_suite_salt_commitment_and_tag():
    assert 81 == OVERHEAD == len(seal(KEY, dek=DEK, binding=BINDING)) - len(KEY)


def test_blob_is_the_documented_construction():
    """Written out from the module's docstring, so that another program could open what we sealed."""
    blob = seal(KEY, dek=DEK, binding=BINDING)

    aad = (
        b"\0\0\0\4cv/1"
         b"\0\0\0\x10" + bytes(15) + b"\1"
        + b"\0\0\0\x10" + bytes(15) + b"\2"
        + b"\0\0\0\3tls"
        + b"\0\0\0\x20" + SPKI
        + b"\0\0\0\1\1"
    )  # fmt: skip
    okm = HKDF(SHA256(), 64, salt=blob[1:33], info=b"cv/suite1" + aad).derive(DEK)
    assert blob[0] == 1
    assert okm[32:] == blob[33:65]
    assert AESGCM(okm[:32]).decrypt(bytes(12), blob[65:], aad) == KEY


def test_same_key_sealed_twice_gives_different_blobs():
    assert seal(KEY, dek=DEK, binding=BINDING) != seal(KEY, dek=DEK, binding=BINDING)


@pytest.mark.parametrize(
    "other",
    [
        replace(BINDING, deployment=UUID(int=9)),
        replace(BINDING, key_id=KeyId(UUID(int=9))),
        replace(BINDING, purpose="account"),
        replace(BINDING, spki_sha256=bytes(32)),
    ],
)
def test_envelope_of_another_row_is_refused_by_its_commitment(other):
    blob = seal(KEY, dek=DEK, binding=BINDING)

    with pytest.raises(CustodyError, match="commitment"):
        unseal(blob, dek=DEK, binding=other)


def test_wrong_dek_is_refused_by_its_commitment():
    blob = seal(KEY, dek=DEK, binding=BINDING)

    with pytest.raises(CustodyError, match="commitment"):
        unseal(blob, dek=bytes(32), binding=BINDING)


@pytest.mark.parametrize(
    ("position", "rule"),
    [(0, "suite"), (1, "commitment"), (33, "commitment"), (64, "commitment"), (65, "tag"), (-1, "tag")],
)
def test_flipped_bit_is_refused(position, rule):
    blob = bytearray(seal(KEY, dek=DEK, binding=BINDING))
    blob[position] ^= 1

    with pytest.raises(CustodyError, match=rule):
        unseal(bytes(blob), dek=DEK, binding=BINDING)


@pytest.mark.parametrize("length", [0, 1, OVERHEAD - 1])
def test_stump_is_refused(length):
    blob = seal(KEY, dek=DEK, binding=BINDING)[:length]

    with pytest.raises(CustodyError, match="suite"):
        unseal(blob, dek=DEK, binding=BINDING)


def test_unknown_suite_of_the_row_is_refused():
    blob = seal(KEY, dek=DEK, binding=BINDING)

    with pytest.raises(CustodyError, match="suite"):
        unseal(blob, dek=DEK, binding=replace(BINDING, suite=2))


def test_key_of_another_public_key_is_not_sealed():
    other, _ = private_key()

    with pytest.raises(CustodyError, match="spki"):
        seal(other, dek=DEK, binding=BINDING)


def test_what_is_no_private_key_is_not_sealed():
    with pytest.raises(CustodyError, match="spki"):
        seal(b"not a key", dek=DEK, binding=BINDING)


def test_key_of_another_public_key_is_not_given_out(monkeypatch):
    """Whoever knows the DEK can seal anything; the public key's hash is checked after opening."""
    other, _ = private_key()
    with monkeypatch.context() as patch:
        patch.setattr("sds_server.keys.envelope._check_spki", lambda *_: None)
        blob = seal(other, dek=DEK, binding=BINDING)

    with pytest.raises(CustodyError, match="spki"):
        unseal(blob, dek=DEK, binding=BINDING)


def test_refusal_names_the_key_and_shows_no_bytes():
    with pytest.raises(CustodyError) as refused:
        unseal(b"", dek=DEK, binding=BINDING)

    assert str(BINDING.key_id) in refused.value.message
    assert not re.search(r"\\x|b'", refused.value.message)


def test_length_prefix_keeps_neighbours_apart():
    assert length_prefixed(b"ab", b"c") != length_prefixed(b"a", b"bc")


def test_dek_is_known_by_the_commitment_and_without_opening():
    """A key that was cut off behind its commitment opens nowhere, and its DEK is known all the same."""
    blob = seal(KEY, dek=DEK, binding=BINDING)
    check_dek(blob[:65] + bytes(len(blob) - 65), dek=DEK, binding=BINDING)

    with pytest.raises(CustodyError, match="commitment"):
        check_dek(blob, dek=bytes(32), binding=BINDING)
    with pytest.raises(CustodyError, match="suite"):
        check_dek(blob[: OVERHEAD - 1], dek=DEK, binding=BINDING)
