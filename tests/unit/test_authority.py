"""What the control plane's own CA signs, and what it does not let itself be told."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from sds_server import authority
from sds_server.authority import BACKDATED, Ca
from sds_server.errors import CallerError
from sds_server.identity import Trust
from tests.support import pki

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
EDGE = "spiffe://certvoy/proxy/edge-1"


def new_ca(name="own", now=NOW):
    key = pki.new_key()
    return Ca(authority.new_ca(key, name=name, now=now), key)


OWN = new_ca()


def credential(ca=OWN, identity=EDGE, enrolment=7, lifetime=DAY):
    key = pki.new_key()
    return authority.credential(
        ca, key.public_key(), identity=identity, enrolment=enrolment, now=NOW, lifetime=lifetime
    )


def believing(*authorities, enrolled=None):
    return Trust("certvoy", authorities=authorities or [OWN.certificate], enrolled=enrolled or {EDGE: 7})


def request(key, names=("evil.example.test",), algorithm=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(pki._common_name("evil"))
    alternatives = [x509.DNSName(name) for name in names]
    alternatives.append(x509.UniformResourceIdentifier("spiffe://certvoy/proxy/other"))
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def test_a_credential_names_its_holder_its_enrolment_and_nothing_else():
    made = credential()
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert [x509.UniformResourceIdentifier(EDGE)] == list(names)
    assert [ExtendedKeyUsageOID.CLIENT_AUTH] == list(usage)
    assert 7 == authority.enrolment_of(made)
    assert (NOW - BACKDATED, NOW + DAY) == (made.not_valid_before_utc, made.not_valid_after_utc)


def test_a_credential_does_not_outlive_its_ca():
    assert OWN.certificate.not_valid_after_utc == credential(lifetime=20 * 365 * DAY).not_valid_after_utc


def test_the_servers_own_certificate_is_no_clients():
    made = authority.server_certificate(
        OWN, pki.new_key().public_key(), names=["localhost", "127.0.0.1", "::1"], now=NOW, lifetime=DAY
    )
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert ["localhost"] == names.get_values_for_type(x509.DNSName)
    assert ["127.0.0.1", "::1"] == [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]
    assert [ExtendedKeyUsageOID.SERVER_AUTH] == list(usage)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), pki.new_key()],
)
def test_names_in_a_request_are_not_looked_at(key):
    assert key.public_key() == authority.public_key_of(request(key, algorithm=hashes.SHA256()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("\ud800", "cannot be read"),
        (pki.authority().pem.decode(), "cannot be read"),
        (request(ed25519.Ed25519PrivateKey.generate()), "neither ECDSA"),
        (request(rsa.generate_private_key(65537, 1024), algorithm=hashes.SHA256()), "neither ECDSA"),
        (request(ec.generate_private_key(ec.SECP521R1()), algorithm=hashes.SHA256()), "neither ECDSA"),
    ],
    ids=["empty", "garbage", "surrogate", "certificate", "ed25519", "rsa-1024", "p521"],
)
def test_a_request_that_is_worth_nothing_is_refused(text, message):
    with pytest.raises(CallerError, match=message):
        authority.public_key_of(text)


def test_a_request_for_somebody_elses_key_is_refused():
    """Who cannot sign with the key does not get a certificate for it."""
    csr = x509.load_pem_x509_csr(request(pki.new_key(), algorithm=hashes.SHA256()).encode())
    der = bytearray(csr.public_bytes(serialization.Encoding.DER))
    other = pki.new_key().public_key()
    plain = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = bytes(der).replace(csr.public_key().public_bytes(*plain), other.public_bytes(*plain))
    text = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()

    with pytest.raises(CallerError, match="not signed by its own key"):
        authority.public_key_of(text)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ä", "x" * 201, "a%2fb", "a\n"])
def test_a_proxys_name_that_does_not_fit_into_an_identity_is_refused(name):
    with pytest.raises(CallerError, match="cannot be its name"):
        authority.proxy_identity("certvoy", name)


def test_a_proxys_identity_is_below_the_trust_domain():
    assert "spiffe://td.test/proxy/edge-1.eu_west" == authority.proxy_identity("td.test", "edge-1.eu_west")


@pytest.mark.parametrize(
    ("share", "hours"), [(0.0, 16.0), (1.0, 24 * (2 / 3 - 0.1)), (0.5, 24 * (2 / 3 - 0.05))]
)
def test_a_credential_is_renewed_before_two_thirds_of_its_life(share, hours):
    due = authority.renew_at(NOW - BACKDATED, NOW + DAY, share=share)

    assert abs(due - NOW - timedelta(hours=hours)) < timedelta(seconds=1)


def test_a_token_names_the_ca_that_it_was_made_under():
    token = authority.token_of("A" * 43, OWN.certificate)

    assert OWN.certificate.fingerprint(hashes.SHA256()).hex() == authority.ca_digest_of(token)
    assert token.startswith("certvoy_enrol_")
    assert [None] * 3 == [authority.ca_digest_of(text) for text in ("", "certvoy_" + "A" * 43, token + "0")]


@dataclass(frozen=True)
class Generation:
    created_at: datetime


def test_the_newest_ca_signs_once_every_proxy_has_heard_of_it():
    old, new = Generation(NOW - 400 * DAY), Generation(NOW - DAY / 2)
    later = NOW + DAY / 2

    assert old == authority.signer([old, new], now=NOW, known_after=DAY)
    assert new == authority.signer([old, new], now=later, known_after=DAY)
    assert new == authority.signer([new], now=NOW, known_after=DAY)
    assert None is authority.signer([], now=NOW, known_after=DAY)


# Trust: whom the control plane believes


def pem(certificate):
    return pki.cert_pem(certificate)


def test_an_enrolled_proxy_is_believed():
    holder = believing().holder(pem(credential()))

    assert (EDGE, 7) == (holder.identity, holder.enrolment)
    assert believing().admits(holder)


def test_a_successor_of_the_ca_is_believed_beside_it():
    successor = new_ca("own")
    trust = believing(OWN.certificate, successor.certificate)

    assert {EDGE} == {trust.holder(pem(credential(ca))).identity for ca in (OWN, successor)}


def test_another_ca_may_name_nobody_of_our_trust_domain():
    """Whatever it is called, and whatever its certificates say of their issuer."""
    twin = new_ca("own")
    foreign = pki.authority("external")
    intermediate = foreign.intermediate("between")
    for certificate in (
        credential(twin),
        foreign.issue(uris=[EDGE]).certificate,
        intermediate.issue(uris=[EDGE]).certificate,
        foreign.issue(uris=["spiffe://certvoy/anything"]).certificate,
    ):
        with pytest.raises(CallerError, match="not of the control plane's own CA"):
            believing().holder(pem(certificate))


def test_our_ca_names_nobody_of_another_trust_domain():
    with pytest.raises(CallerError, match="of the control plane's own CA"):
        believing().holder(pem(credential(identity="spiffe://cluster.local/ns/a/sa/b")))


def test_a_proxy_that_was_removed_is_not_believed():
    removed = Trust("certvoy", authorities=[OWN.certificate])

    with pytest.raises(CallerError, match="not enrolled, or was removed"):
        removed.holder(pem(credential()))
    assert not removed.admits(believing().holder(pem(credential())))


def test_a_proxy_that_was_removed_and_enrolled_anew_needs_its_new_credential():
    anew = believing(enrolled={EDGE: 8})

    with pytest.raises(CallerError, match="not enrolled, or was removed"):
        anew.holder(pem(credential(enrolment=7)))
    assert 8 == anew.holder(pem(credential(enrolment=8))).enrolment


def test_identities_of_other_trust_domains_need_no_enrolment():
    mesh = pki.authority("mesh").intermediate("istiod")
    trust = believing()
    holders = [
        trust.holder(mesh.issue(uris=[uri]).chain_pem)
        for uri in ("spiffe://cluster.local/ns/a/sa/b", "spiffe://certvoy.example/proxy/edge-1")
    ]

    assert ["spiffe://cluster.local/ns/a/sa/b", "spiffe://certvoy.example/proxy/edge-1"] == [
        holder.identity for holder in holders
    ]
    assert all(trust.admits(holder) for holder in holders)
