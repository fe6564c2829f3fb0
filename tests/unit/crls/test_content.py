"""What a revocation list says of a certificate, and when nothing of it is believed."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import chain as chains
from sds_server.crls import content
from sds_server.crls.content import Listed, Point, judge, next_in, point_of
from tests.support.pki import authority, crl, point, scope

URL, OTHER = "http://ca.example.test/7.crl", "http://ca.example.test/8.crl"
ROOT = authority("Sites")
CA = ROOT.intermediate("Sites 1")
MALLORY = authority("Sites 1")
LEAF = CA.issue(["www.example.test"], crl=URL)
POINT = Point(URL, CA.certificate.public_bytes(Encoding.DER))


@pytest.fixture
def now():
    return datetime.now(UTC)


def said(listed, *, now, at=POINT, of=LEAF):
    """What is believed of the leaf: its entry, None, or why the list is not believed."""
    raw = listed if isinstance(listed, bytes) else listed.encode()
    found = judge(raw, at, wanted={of.certificate.serial_number}, now=now)
    return found.revoked.get(of.certificate.serial_number) if isinstance(found, Listed) else found


def test_who_is_listed_is_revoked_with_the_ca_s_reason(now):
    entry = said(crl(CA, [LEAF.certificate], reason=x509.ReasonFlags.key_compromise, now=now), now=now)

    assert "keyCompromise" == entry.code
    assert "(keyCompromise), says its CA's CRL" in entry.said


def test_who_is_not_listed_is_not(now):
    other = CA.issue(["other.example.test"]).certificate

    assert said(crl(CA, [other], now=now), now=now) is None
    assert said(crl(CA, now=now), now=now) is None


def test_der_is_read_as_well_as_pem(now):
    pem = crl(CA, [LEAF.certificate], now=now)
    der = x509.load_pem_x509_crl(pem.encode()).public_bytes(Encoding.DER)

    assert said(pem, now=now) == said(der, now=now)


def test_only_its_own_ca_is_believed(now):
    """One of the same name is another, and so is one above."""
    assert "its signature is not the issuer's" == said(crl(MALLORY, [LEAF.certificate], now=now), now=now)
    assert "not of the issuer" in said(crl(ROOT, [LEAF.certificate], now=now), now=now)


@pytest.mark.parametrize(
    ("extension", "why"),
    [
        (scope(OTHER), f"it is for {OTHER}"),
        (scope(indirect_crl=True), "indirect"),
        (scope(only_contains_ca_certs=True), "not tell of all"),
        (scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), "not tell of all"),
        (x509.DeltaCRLIndicator(1), "only what has changed"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), "1.2.3.4"),
    ],
    ids=["another part", "indirect", "of CAs", "of some reasons", "delta", "unknown"],
)
def test_a_list_of_another_part_of_what_a_ca_revokes_is_not_believed(extension, why, now):
    """Its CA has signed it, and it does not list what another part does: a revocation could be hidden so."""
    assert why in said(crl(CA, extensions=[extension], now=now), now=now)


def test_a_list_of_the_part_that_the_certificate_names_is(now):
    listed = crl(CA, [LEAF.certificate], extensions=[scope(URL, only_contains_user_certs=True)], now=now)

    assert said(listed, now=now).code is None


def test_a_list_counts_within_its_dates_with_five_minutes_of_skew_at_the_beginning(now):
    listed = crl(CA, days=7, now=now)

    assert "it ended at" in said(listed, now=now + timedelta(days=7))
    assert "of the future" in said(listed, now=now - timedelta(minutes=11))
    assert said(listed, now=now - timedelta(minutes=9)) is None


@pytest.mark.parametrize("raw", [b"", b"<html>", b"-----BEGIN X509 CRL-----\n", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_list_is_said(raw, now):
    assert "it is no CRL that can be read" == said(raw, now=now)


def test_a_ca_that_may_not_sign_lists_is_not_believed(now):
    """RFC 5280 section 6.3.3 (f): where there is a key usage, it has cRLSign."""
    mute = CA.issue(ca=True)  # without a key usage of its own: may
    point_of_mute = Point(URL, mute.certificate.public_bytes(Encoding.DER))
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)  # all but cRLSign
    builder = (
        x509.CertificateBuilder()
        .subject_name(CA.certificate.subject)
        .issuer_name(ROOT.certificate.subject)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .public_key(CA.key.public_key())
        .add_extension(usage, critical=True)
    )
    der = builder.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.DER)

    assert "its signature is not the issuer's" == said(crl(CA, now=now), now=now, at=Point(URL, der))
    assert isinstance(said(crl(CA, now=now), now=now, at=point_of_mute), str)


# Which list


def named(*points, crl=None):
    pair = CA.issue(["www.example.test"], points=points, crl=crl)
    return point_of(chains.parse(pair.chain_pem))


def test_the_list_is_the_one_that_the_leaf_names_and_its_issuer_signs():
    assert POINT == named(crl=URL)
    assert named() is None


def test_a_list_that_others_sign_or_that_knows_some_reasons_only_is_passed_over():
    other = [x509.DirectoryName(MALLORY.certificate.subject)]
    some = frozenset({x509.ReasonFlags.key_compromise})

    assert POINT == named(point(OTHER, crl_issuer=other), point(OTHER, reasons=some), crl=URL)


@pytest.mark.parametrize(
    "url", ["ldap://ca.example.test/cn=x", "file:///etc/passwd", "http://x/" + "y" * 1000]
)
def test_a_list_that_is_not_in_the_web_is_passed_over(url):
    assert named(point(url)) is None


def test_a_leaf_that_a_root_has_signed_has_that_as_its_issuer():
    chain = chains.parse(ROOT.issue(["www.example.test"], crl=URL).chain_pem)

    assert point_of(chain) is None
    assert Point(URL, ROOT.certificate.public_bytes(Encoding.DER)) == point_of(chain, [ROOT.certificate])


# When next


@pytest.mark.parametrize(
    ("ends_in", "jitter", "pause"),
    [
        (timedelta(days=7), 0.0, timedelta(hours=6)),
        (timedelta(days=7), 1.0, timedelta(hours=5, minutes=24)),
        (timedelta(hours=2), 0.0, timedelta(hours=2)),
        (timedelta(seconds=1), 0.0, timedelta(minutes=1)),
        (None, 0.0, timedelta(hours=6)),
    ],
)
def test_it_is_looked_at_every_six_hours_and_when_it_ends(ends_in, jitter, pause, now):
    listed = Listed(now, None if ends_in is None else now + ends_in, {})

    assert pause == next_in(listed, now=now, jitter=jitter)


# A real CA's


@pytest.fixture
def openssl_ca(tmp_path):
    """What ``openssl ca`` makes: a CA of three commands, as many a company has."""
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={tmp_path}/index.txt\nserial={tmp_path}/serial\n"
        f"new_certs_dir={tmp_path}\ncertificate={tmp_path}/ca.pem\nprivate_key={tmp_path}/ca.key\n"
        f"default_md=sha256\ndefault_days=30\ndefault_crl_days=7\ncrlnumber={tmp_path}/crlnumber\n"
        "policy=any\nunique_subject=no\ncrl_extensions=crl_ext\nx509_extensions=leaf\n"
        "[any]\ncommonName=optional\n[crl_ext]\nauthorityKeyIdentifier=keyid\n"
        f"[leaf]\nsubjectAltName=DNS:www.example.test\ncrlDistributionPoints=URI:{URL}\n"
        "[req]\ndistinguished_name=dn\nx509_extensions=ca_ext\n[dn]\n"
        "[ca_ext]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=hash\n"
    )
    (tmp_path / "index.txt").touch()
    for name in ("serial", "crlnumber"):
        (tmp_path / name).write_text("1001\n")

    def run(*arguments):
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "ca.cnf"]
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Company CA")
    run("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=www.example.test")
    run("ca", "-batch", "-config", "ca.cnf", "-in", "leaf.csr", "-out", "leaf.pem", "-notext")
    return tmp_path, run


def test_a_list_of_openssl_s_ca_is_read(openssl_ca, now):
    directory, run = openssl_ca
    leaf = x509.load_pem_x509_certificate((directory / "leaf.pem").read_bytes())
    root = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    at = point_of(chains.parse((directory / "leaf.pem").read_bytes()), [root])

    def listed():
        run("ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl")
        raw = (directory / "ca.crl").read_bytes()
        return content.judge(raw, at, wanted={leaf.serial_number}, now=now + timedelta(seconds=5))

    before = listed()
    run("ca", "-config", "ca.cnf", "-revoke", "leaf.pem", "-crl_reason", "superseded")
    after = listed()

    assert URL == at.url
    assert {} == before.revoked
    assert "superseded" == after.revoked[leaf.serial_number].code
    assert timedelta(days=7) == after.next_update - after.this_update
