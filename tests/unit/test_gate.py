"""The content gate: for each rule, a real pair that breaks it and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from acme_engine import keys
from sds_server.errors import GateRefused
from sds_server.gate import check_pair
from tests.support.pki import authority, cert_pem, new_key

NOW = datetime.now(UTC) + timedelta(hours=3)  # later than any pair of a slow run is made
NAMES = ("www.example.test", "example.test")
ROOT = authority("Root")
CA = ROOT.intermediate("Intermediate")


def passed(pair, **changed):
    """Ask the gate about a pair, as if it was what had been ordered."""
    key = load_pem_private_key(pair.key_pem, None)
    arguments = {
        "chain_pem": pair.chain_pem,
        "key_pkcs8": keys.pkcs8(key),
        "spki_sha256": keys.spki_sha256(key.public_key()),
        "names": NAMES,
        "now": NOW,
        "roots": [ROOT.certificate],
    }
    return check_pair(**{**arguments, **changed})


def refused(pair, **changed):
    """The rule by which the gate refuses, which says why in more than a word."""
    with pytest.raises(GateRefused) as error:
        passed(pair, **changed)
    assert " " in error.value.message
    return error.value.rule


@pytest.fixture
def pair():
    return CA.issue(NAMES)


def test_good_pair_passes_and_is_parsed(pair):
    chain = passed(pair)

    assert (pair.certificate, CA.certificate) == chain.certificates
    assert set(NAMES) == set(chain.names)


def test_order_of_the_names_does_not_matter(pair):
    passed(pair, names=NAMES[::-1])


def test_key_may_stay_sealed(pair):
    passed(pair, key_pkcs8=None)


def test_without_roots_any_root_will_do():
    passed(authority("Other").issue(NAMES), roots=())


@pytest.mark.parametrize(
    "pem", [b"", b"\n", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_pem(pair, pem):
    assert refused(pair, chain_pem=pem) == "pem"


def test_pem_that_brings_a_private_key_along(pair):
    assert refused(pair, chain_pem=pair.chain_pem + pair.key_pem) == "pem"


def test_size_in_bytes(pair):
    assert refused(pair, chain_pem=pair.chain_pem + b"\n" * 65536) == "size"


def test_size_in_certificates(pair):
    assert refused(pair, chain_pem=pair.chain_pem + CA.pem * 9) == "size"


def test_leaf_of_another_key(pair):
    assert refused(pair, spki_sha256=bytes(32)) == "key"


def test_private_key_of_another_leaf(pair):
    assert refused(pair, key_pkcs8=keys.pkcs8(new_key())) == "key"


def test_private_key_that_is_none(pair):
    assert refused(pair, key_pkcs8=b"no key") == "key"


def test_refusal_shows_nothing_of_the_key(pair):
    with pytest.raises(GateRefused) as error:
        passed(pair, key_pkcs8=b"hunter2")

    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "names",
    [NAMES[:1], (*NAMES, "more.example.test"), ("other.test",), ()],
    ids=["extra", "missing", "other", "none"],
)
def test_names(pair, names):
    """All that were ordered, and no more."""
    assert refused(pair, names=names) == "names"


def test_names_of_another_type():
    assert refused(CA.issue(NAMES, ips=["127.0.0.1"])) == "names"


def test_not_valid_yet():
    assert refused(CA.issue(NAMES, not_before=NOW + timedelta(hours=1))) == "dates"


def test_clock_of_the_ca_may_be_a_little_ahead():
    passed(CA.issue(NAMES, not_before=NOW + timedelta(minutes=1)))


def test_expired():
    assert (
        refused(CA.issue(NAMES, not_before=NOW - timedelta(days=2), not_after=NOW - timedelta(days=1)))
        == "dates"
    )


def test_ending_before_the_one_it_replaces(pair):
    end = pair.certificate.not_valid_after_utc

    assert refused(pair, previous_not_after=end + timedelta(seconds=1)) == "dates"
    passed(pair, previous_not_after=end)


def test_ca_as_leaf():
    assert refused(CA.issue(NAMES, ca=True)) == "usage"


def test_usage_without_server_authentication():
    assert refused(CA.issue(NAMES, usages=[x509.ExtendedKeyUsageOID.CLIENT_AUTH])) == "usage"


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa-1024", "p-521", "secp256k1"],
)
def test_strength(key):
    assert refused(CA.issue(NAMES, key=key)) == "strength"


def test_order_without_the_link(pair):
    stranger = authority("Stranger").intermediate("Intermediate")

    assert refused(pair, chain_pem=cert_pem(pair.certificate) + stranger.pem) == "order"


def test_order_of_two_intermediates():
    below = CA.intermediate("Below")
    pair = below.issue(NAMES)
    passed(pair)

    assert refused(pair, chain_pem=cert_pem(pair.certificate) + CA.pem + below.pem) == "order"


def test_root_inside_the_chain(pair):
    assert refused(pair, chain_pem=pair.chain_pem + ROOT.pem) == "root"


def test_chain_to_another_root(pair):
    assert refused(pair, roots=[authority("Other").certificate]) == "root"


def test_chain_to_a_root_of_the_same_name(pair):
    """A name is not a signature."""
    assert refused(pair, roots=[authority("Root").certificate]) == "root"


def test_intermediate_of_the_same_name_is_not_its_signature(pair):
    forged = replace(authority("Root").intermediate("Intermediate"), parents=())

    assert refused(pair, chain_pem=cert_pem(pair.certificate) + forged.pem, roots=()) == "order"
