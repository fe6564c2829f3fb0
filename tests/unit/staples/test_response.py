"""Which OCSP responses may be stapled, and when the next one is fetched."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from acme_engine import chain as chains
from sds_server.staples import response
from sds_server.staples.response import (
    Finding,
    Staple,
    judge,
    must_staple,
    refresh_in,
    responder_of,
    retry_in,
)
from tests.support.pki import authority, staple

CA = authority("Sites").intermediate("Sites 1")
OTHER = authority("Other").intermediate("Sites 1")
URL = "http://ocsp.example.test/"
PAIR = CA.issue(["www.example.test"], responder=URL)
NEIGHBOUR = CA.issue(["www.example.test"])
DELEGATE = CA.issue(["ocsp.example.test"], usages=[ExtendedKeyUsageOID.OCSP_SIGNING])
NO_DELEGATE = CA.issue(["ocsp.example.test"])
PAST_DELEGATE = CA.issue(
    ["ocsp.example.test"],
    usages=[ExtendedKeyUsageOID.OCSP_SIGNING],
    not_before=datetime.now(UTC) - timedelta(days=9),
    days=2,
)
STRANGER = OTHER.issue(["ocsp.example.test"], usages=[ExtendedKeyUsageOID.OCSP_SIGNING])
NOW = datetime.now(UTC) + timedelta(hours=3)  # later than any staple of a slow run is made
LEAF = PAIR.certificate


def judged(der, *, leaf=LEAF, now=NOW):
    return judge(der, leaf=leaf, issuer=CA.certificate, now=now)


def test_a_good_answer_of_the_issuer_may_be_stapled():
    der = staple(CA, LEAF)
    found = judged(der)

    assert Finding.GOOD is found.finding
    assert der == found.staple.response
    assert timedelta(days=4) == found.staple.next_update - found.staple.this_update


def test_so_may_one_of_whom_the_issuer_delegated():
    assert Finding.GOOD is judged(staple(CA, LEAF, signer=DELEGATE, delegate=DELEGATE.certificate)).finding


def test_and_one_that_an_rsa_key_signed():
    pair = CA.issue(
        ["o.test"], usages=[ExtendedKeyUsageOID.OCSP_SIGNING], key=rsa.generate_private_key(65537, 2048)
    )

    assert Finding.GOOD is judged(staple(CA, LEAF, signer=pair, delegate=pair.certificate)).finding


BAD = {
    "garbage": (b"\x30\x03\x0a\x01", "no OCSP response"),
    "empty": (b"", "no OCSP response"),
    "too long": (b"\x30" * 20_001, "at most 20000"),
    "an error": (
        ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
            serialization.Encoding.DER
        ),
        "says try_later",
    ),
    "of another certificate": (staple(CA, NEIGHBOUR.certificate), "is about serial number"),
    "of another issuer": (staple(CA, LEAF, issuer=OTHER.certificate), "of another issuer"),
    "signed by a stranger": (
        staple(CA, LEAF, signer=STRANGER, delegate=STRANGER.certificate),
        "not delegated by the issuer",
    ),
    "signed by who is unknown": (staple(CA, LEAF, signer=DELEGATE), "comes without a certificate"),
    "signed by another leaf": (
        staple(CA, LEAF, signer=NO_DELEGATE, delegate=NO_DELEGATE.certificate),
        "no certificate for signing OCSP",
    ),
    "signed by who is over": (
        staple(CA, LEAF, signer=PAST_DELEGATE, delegate=PAST_DELEGATE.certificate),
        "outside of its dates",
    ),
    "changed": (staple(CA, LEAF)[:-3] + b"\1\2\3", "signature is false"),
    "of the future": (staple(CA, LEAF, begins=NOW + timedelta(hours=1)), "of the future"),
    "over": (staple(CA, LEAF, begins=NOW - timedelta(days=5)), "it ended at"),
    "without an end": (staple(CA, LEAF, lasts=None), "when the next one comes"),
    "unknown": (staple(CA, LEAF, status=ocsp.OCSPCertStatus.UNKNOWN), "does not know"),
}


@pytest.mark.parametrize(("der", "why"), BAD.values(), ids=BAD)
def test_an_answer_that_says_nothing_of_the_leaf_now_is_not_stapled(der, why):
    found = judged(der)

    assert (Finding.UNUSABLE, None) == (found.finding, found.staple)
    assert why in found.reason


def test_an_answer_about_several_certificates_is_none_that_envoy_takes():
    both = [staple(CA, LEAF), staple(CA, NEIGHBOUR.certificate)]
    singles = [one for der in both for one in ocsp.load_der_ocsp_response(der).responses]

    assert "about 2 certificates" in response._foreign(singles, LEAF, CA.certificate)


def test_revoked_is_said_and_never_stapled():
    der = staple(CA, LEAF, status=ocsp.OCSPCertStatus.REVOKED, reason=x509.ReasonFlags.key_compromise)
    found = judged(der)

    assert (Finding.REVOKED, None, "keyCompromise") == (found.finding, found.staple, found.code)
    assert "revoked at" in found.reason


def test_revoked_by_who_may_not_say_so_revokes_nothing():
    revoked = ocsp.OCSPCertStatus.REVOKED
    der = staple(CA, LEAF, status=revoked, signer=STRANGER, delegate=STRANGER.certificate)

    assert Finding.UNUSABLE is judged(der).finding


def test_an_old_word_that_it_was_revoked_is_none_either():
    """It could be played again: who is asked says so anew."""
    der = staple(CA, LEAF, status=ocsp.OCSPCertStatus.REVOKED, begins=NOW - timedelta(days=5))

    assert Finding.UNUSABLE is judged(der).finding


def test_a_clock_that_is_a_little_ahead_does_no_harm():
    assert Finding.GOOD is judged(staple(CA, LEAF, begins=NOW + timedelta(minutes=4))).finding


def test_the_responder_is_whom_the_leaf_names():
    found = responder_of(chains.parse(PAIR.chain_pem))

    assert URL == found.url
    assert CA.certificate == x509.load_der_x509_certificate(found.issuer)


def test_a_leaf_of_a_root_is_asked_about_by_the_roots_that_are_known():
    root = authority()
    chain = chains.parse(root.issue(["www.example.test"], responder=URL).chain_pem)

    assert responder_of(chain) is None
    assert responder_of(chain, [OTHER.certificate, root.certificate]) is not None


@pytest.mark.parametrize("url", [None, "ldap://directory/", "file:///etc/passwd", "http://a\n.test/"])
def test_nobody_is_asked_where_the_leaf_names_nobody_on_the_web(url):
    assert responder_of(chains.parse(CA.issue(["a.test"], responder=url).chain_pem)) is None


def test_a_leaf_says_whether_it_must_be_stapled():
    assert must_staple(CA.issue(["a.test"], must_staple=True).certificate)
    assert not must_staple(LEAF)


def test_openssl_reads_what_is_asked(tmp_path):
    """The reference: another implementation names the same certificate."""
    asked = tmp_path / "request.der"
    asked.write_bytes(response.request(LEAF, CA.certificate))
    said = subprocess.run(
        [shutil.which("openssl"), "ocsp", "-reqin", asked, "-req_text"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout

    assert LEAF.serial_number == int(re.search("Serial Number: ([0-9A-F]+)", said)[1], 16)
    assert "Nonce" not in said


@pytest.mark.parametrize(("jitter", "hours"), [(0.0, 43.2), (0.5, 48), (0.999, 52.8)])
def test_it_is_refreshed_at_about_half_of_its_life(jitter, hours):
    held = Staple(b"", NOW, NOW + timedelta(hours=96))

    assert hours == pytest.approx(refresh_in(held, now=NOW, jitter=jitter).total_seconds() / 3600, rel=0.01)


def test_one_that_came_late_is_refreshed_at_half_of_what_is_left():
    held = Staple(b"", NOW - timedelta(hours=80), NOW + timedelta(hours=20))

    assert timedelta(hours=10) == refresh_in(held, now=NOW, jitter=0)


@pytest.mark.parametrize(("hours", "early_s"), [(96, 60), (1, 36)])
def test_it_is_taken_off_a_little_before_it_ends(hours, early_s):
    """A proxy that is strict fails handshakes with one that has ended."""
    held = Staple(b"", NOW, NOW + timedelta(hours=hours))

    assert timedelta(seconds=early_s) == held.next_update - held.sent_until


@pytest.mark.parametrize(
    ("attempts", "left", "minutes"),
    [
        (1, None, 1),
        (2, None, 2),
        (5, None, 16),
        (20, None, 60),
        (20, 60, 15),
        (20, -60, 60),
        (20, 0.1, 1 / 12),
    ],
)
def test_a_responder_that_gave_nothing_is_asked_again_less_and_less_often(attempts, left, minutes):
    ends = None if left is None else NOW + timedelta(minutes=left)

    assert timedelta(minutes=minutes) == retry_in(attempts=attempts, next_update=ends, now=NOW)


def test_of_two_answers_the_one_that_was_said_last_is_stapled_while_it_lasts():
    before = Staple(b"before", NOW - timedelta(days=1), NOW + timedelta(days=1))
    older = Staple(b"older", NOW - timedelta(days=2), NOW + timedelta(days=9))

    assert before == response.newer(older, before, now=NOW)
    assert before == response.newer(before, older, now=NOW)
    assert older == response.newer(older, before, now=NOW + timedelta(days=1))
    assert older == response.newer(older, None, now=NOW)


@pytest.mark.parametrize("delegate", [None, OTHER.certificate, STRANGER.certificate])
def test_nobody_but_the_issuer_revokes(delegate):
    """``OTHER`` has the issuer's name, and another key."""
    signer = STRANGER if delegate == STRANGER.certificate else OTHER
    forged = staple(CA, LEAF, signer=signer, delegate=delegate, status=ocsp.OCSPCertStatus.REVOKED)

    assert Finding.UNUSABLE is judged(forged).finding
