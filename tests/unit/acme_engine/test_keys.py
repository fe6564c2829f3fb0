import timeit
from ipaddress import IPv6Address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448

from acme_engine import KeyType, keys
from acme_engine.errors import Misconfigured
from sds_server.model import KeyType as StoredKeyType


@pytest.mark.parametrize(
    "key_type", [KeyType.ECDSA_P256, KeyType.ECDSA_P384, KeyType.RSA_2048, KeyType.ED25519]
)
def test_a_key_comes_back_as_it_was_sealed(key_type):
    key = keys.generate(key_type)

    assert keys.spki_sha256(keys.load_pkcs8(keys.pkcs8(key)).public_key()) == keys.spki_sha256(
        key.public_key()
    )


def test_an_rsa_key_that_we_sealed_is_not_checked_again():
    """The check takes 43 ms of the loop that serves, each time; reading alone takes a hundredth of one."""
    sealed = keys.pkcs8(keys.generate(KeyType.RSA_2048))

    assert min(timeit.repeat(lambda: keys.load_pkcs8(sealed), number=1, repeat=10)) < 0.005


def test_each_type_makes_the_key_that_it_names():
    curves = [keys.generate(t).curve.name for t in (KeyType.ECDSA_P256, KeyType.ECDSA_P384)]

    assert curves == ["secp256r1", "secp384r1"]
    assert keys.generate(KeyType.RSA_3072).key_size == 3072


@pytest.mark.parametrize("key_type", [t for t in KeyType if not t.startswith("rsa-4")])
def test_each_type_is_known_by_its_public_key_and_signs_its_request(key_type):
    key = keys.generate(key_type)
    request = x509.load_der_x509_csr(keys.csr(key, ["a.example"]))

    assert keys.type_of(request.public_key()) is key_type
    assert request.is_signature_valid


def test_both_packages_spell_the_types_alike():
    """The engine stands alone, so it cannot import the other's list."""
    assert [t.value for t in KeyType] == [t.value for t in StoredKeyType]


def request_of(common_name, *sans):
    """A CSR as OpenSSL and others make it: with a common name, and a name or two as it was typed."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    )
    if sans:
        names = [x509.DNSName("a.example"), x509.RFC822Name("ops@a.example"), *sans]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    key = keys.generate(KeyType.ECDSA_P256)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("csr", "names"),
    [
        (request_of("a.example"), ["a.example"]),
        (request_of("b.example", x509.DNSName("C.example")), ["b.example", "c.example", "a.example"]),
        (request_of("My server", x509.IPAddress(IPv6Address("2001:db8::1"))), ["a.example", "2001:db8::1"]),
    ],
)
def test_a_signing_request_of_another_s_making_is_for_its_common_name_and_its_sans(csr, names):
    keys.check_csr(csr, names)


def test_a_signing_request_holds_the_names_as_sans_and_no_subject():
    key = keys.generate(KeyType.ECDSA_P256)
    request = x509.load_der_x509_csr(keys.csr(key, ["b.example", "*.a.example"]))
    san = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert san.get_values_for_type(x509.DNSName) == ["b.example", "*.a.example"]
    assert list(request.subject) == []
    assert request.is_signature_valid
    assert len(request.extensions) == 1


def test_pem_is_pkcs8():
    key = keys.generate(KeyType.ECDSA_P256)

    assert keys.pem(key).startswith(b"-----BEGIN PRIVATE KEY-----")
    assert isinstance(serialization.load_pem_private_key(keys.pem(key), None), ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
@pytest.mark.parametrize("key_type", [KeyType.ECDSA_P256, KeyType.RSA_2048])
def test_a_key_of_another_client_is_read(key_type, form):
    key = keys.generate(key_type)
    form = getattr(serialization.PrivateFormat, form)
    text = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    assert keys.pkcs8(key) == keys.pkcs8(keys.load_pem(text))


@pytest.mark.parametrize("text", [b"", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_said_without_its_content(text):
    with pytest.raises(Misconfigured, match="no private key"):
        keys.load_pem(text)


def test_a_key_under_a_password_is_refused():
    key = keys.generate(KeyType.ECDSA_P256)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    with pytest.raises(Misconfigured, match="password"):
        keys.load_pem(locked)


def test_a_key_of_a_type_that_we_do_not_make_is_refused():
    der = ed448.Ed448PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(Misconfigured, match="Ed448"):
        keys.load_pkcs8(der)


def test_a_key_that_was_kept_as_text_comes_back():
    key = keys.generate(KeyType.ECDSA_P256)

    assert keys.pkcs8(key) == keys.pkcs8(keys.load_pem(keys.pem(key).decode()))


@pytest.mark.parametrize("key_type", [t for t in KeyType if not t.startswith("rsa")])
def test_a_type_may_be_named_by_a_text_and_another_text_is_none(key_type):
    assert key_type is keys.type_of(keys.generate(str(key_type)).public_key())
    with pytest.raises(ValueError, match="'rsa' is not a valid KeyType"):
        keys.generate("rsa")
