"""Trust bundles: what Envoy would take wrongly passes no gate."""

import base64
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from sds_server.errors import GateRefused
from sds_server.payloads import trust
from sds_server.payloads.trust import Match, SanMatcher, SanType, TrustBundle, fingerprint_of
from tests.support.pki import authority, crl

NOW = datetime.now(UTC) + timedelta(hours=1)  # later than all that the tests make
OLD, NEW = authority("Old root"), authority("New root")


def refusal(bundle, *, now=NOW):
    with pytest.raises(GateRefused) as refused:
        trust.check(bundle, now=now)
    assert refused.value.next_step
    return refused.value.rule


def bundle(*cas, crls=(), **more):
    return TrustBundle.read("".join(ca.pem.decode() for ca in cas), "".join(crls), **more)


def test_cas_of_any_number_pass_and_come_back_from_their_text():
    both = bundle(
        OLD,
        NEW,
        crls=[crl(OLD), crl(NEW)],
        sans=(SanMatcher(SanType.URI, Match.PREFIX, "spiffe://mesh/"),),
        spki_pins=(base64.b64encode(bytes(32)).decode(),),
        fingerprints=("ab" * 32,),
        max_depth=3,
    )
    trust.check(both, now=NOW)

    assert both == TrustBundle.from_text(both.text)
    assert [OLD.certificate, NEW.certificate] == list(both.authorities)


@pytest.mark.parametrize("text", ["", "\n", "no PEM at all"])
def test_a_bundle_without_a_ca_is_refused_as_it_would_switch_verification_off(text):
    assert "empty" == refusal(TrustBundle.read(text))


def test_one_ca_sent_twice_counts_once():
    assert bundle(OLD) == bundle(OLD, OLD)


def test_garbage_between_the_borders_of_a_block_is_refused():
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

    with pytest.raises(GateRefused, match="certificate 1 cannot be read"):
        TrustBundle.read(pem)


def test_a_private_key_in_the_file_is_refused_and_not_quoted():
    pair = OLD.issue(dns=["a.test"])

    with pytest.raises(GateRefused) as refused:
        TrustBundle.read(OLD.pem.decode() + pair.key_pem.decode())

    assert "block 2 is a PRIVATE KEY" in refused.value.message
    assert not re.search(r"[A-Za-z0-9+/]{30}", refused.value.message)


def test_a_leaf_is_no_ca():
    assert "ca" == refusal(TrustBundle.read(OLD.issue(dns=["a.test"]).chain_pem.decode()))


def test_a_ca_that_is_over_is_refused_but_served_on_where_dates_are_not_asked():
    later = OLD.certificate.not_valid_after_utc + timedelta(seconds=1)

    assert "dates" == refusal(bundle(OLD), now=later)
    trust.check(bundle(OLD), now=None)


def test_the_bundle_ends_with_what_ends_first_of_it():
    listed = crl(OLD, days=7)
    ends = x509.load_pem_x509_crl(listed.encode()).next_update_utc

    assert ends == bundle(OLD, crls=[listed]).not_after
    assert OLD.certificate.not_valid_after_utc == bundle(OLD).not_after


def test_a_crl_that_is_over_or_of_tomorrow_is_refused_as_it_would_fail_every_handshake():
    listed = bundle(OLD, crls=[crl(OLD, days=7)])

    assert "crl" == refusal(listed, now=NOW + timedelta(days=8))
    assert "crl" == refusal(listed, now=NOW - timedelta(days=1))


def test_a_crl_that_another_ca_of_the_same_name_signed_is_refused():
    assert "crl" == refusal(bundle(OLD, crls=[crl(authority("Old root"))]))


def test_two_crls_of_one_ca_are_refused():
    assert "crl" == refusal(bundle(OLD, crls=[crl(OLD), crl(OLD)]))


def test_crls_are_of_each_ca_or_of_the_leafs_issuer_alone():
    assert "crl" == refusal(bundle(OLD, NEW, crls=[crl(OLD)]))
    trust.check(bundle(OLD, NEW, crls=[crl(OLD)], leaf_crl_only=True), now=NOW)


@pytest.mark.parametrize("text", ["garbage", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_a_crl_that_cannot_be_read_is_refused(text):
    with pytest.raises(GateRefused) as refused:
        TrustBundle.read(OLD.pem.decode(), text)

    assert "crl" == refused.value.rule


@pytest.mark.parametrize("pin", ["", "!!", base64.b64encode(bytes(31)).decode()])
def test_a_pin_is_the_base64_of_32_bytes(pin):
    assert "pin" == refusal(bundle(OLD, spki_pins=(pin,)))


@pytest.mark.parametrize("fingerprint", ["ab" * 31, "AB" * 32, "ab:" * 32])
def test_a_fingerprint_is_64_lower_case_hex_digits(fingerprint):
    assert "pin" == refusal(bundle(OLD, fingerprints=(fingerprint,)))


@pytest.mark.parametrize("value", ["", "(?=a)b", "(", r"(a)\1"])
def test_a_pattern_is_one_that_envoy_reads(value):
    assert "san" == refusal(bundle(OLD, sans=(SanMatcher(SanType.DNS, Match.REGEX, value),)))


def test_the_union_has_the_new_ca_first_and_the_rest_is_without_the_old_one_and_its_crl():
    union = bundle(OLD, crls=[crl(OLD)], leaf_crl_only=True).with_cas(NEW.pem.decode())
    rest = union.without_ca(fingerprint_of(OLD.certificate))

    assert [NEW.certificate, OLD.certificate] == list(union.authorities)
    assert ([NEW.certificate], ()) == (list(rest.authorities), rest.crls)
    assert union == union.without_ca("00" * 32)
    assert "empty" == refusal(rest.without_ca(fingerprint_of(NEW.certificate)))
