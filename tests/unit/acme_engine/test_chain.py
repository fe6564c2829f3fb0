from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from acme_engine import chain, keys
from acme_engine.errors import ChainError
from tests.support import pki

NOW = datetime.now(UTC) + timedelta(hours=3)  # later than any pair of a slow run is made
ROOT = pki.authority("Root")
INTERMEDIATE = ROOT.intermediate("Intermediate")
NAMES = ["www.example.com", "example.com"]


def verdict(pair, *, names=NAMES, now=NOW, roots=(), key=None, pem=None):
    """Return the rule that the chain breaks, None for a good one."""
    spki = keys.spki_sha256((key or pair.key).public_key())
    try:
        chain.check(
            chain.parse(pem or pair.chain_pem),
            spki_sha256=spki,
            names=names,
            now=now,
            roots=[r.certificate for r in roots],
        )
    except ChainError as e:
        return e.rule
    return None


def test_a_chain_tells_its_leaf_s_properties():
    pair = INTERMEDIATE.issue(["B.example.com", "a.example.com"])
    got = chain.parse(pair.chain_pem)

    assert got.names == ("b.example.com", "a.example.com")
    assert got.fingerprint == pair.certificate.fingerprint(pki.hashes.SHA256()).hex()
    assert got.serial_number == format(pair.certificate.serial_number, "x")
    assert got.not_after.tzinfo is not None
    assert got.not_before < NOW < got.not_after
    assert got.spki_sha256 == keys.spki_sha256(pair.key.public_key())
    assert [c.subject for c in got.certificates] == [
        pair.certificate.subject,
        INTERMEDIATE.certificate.subject,
    ]


def test_only_the_certificates_are_kept_of_what_the_ca_sent():
    pair = INTERMEDIATE.issue(NAMES)
    padded = b"subject=/CN=x\n" + pair.chain_pem.replace(b"\n", b"\r\n") + b"\n\n"

    assert chain.parse(padded).pem == pair.chain_pem


@pytest.mark.parametrize(
    ("pem", "rule"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<html>", "pem"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "pem"),
        (b"#" * (chain.MAX_BYTES + 1), "size"),
    ],
)
def test_what_is_no_chain_is_refused(pem, rule):
    with pytest.raises(ChainError) as refusal:
        chain.parse(pem)

    assert refusal.value.rule == rule


def test_what_stands_above_many_leaves_is_read_and_kept_once():
    one, another = (chain.parse(INTERMEDIATE.issue([name]).chain_pem) for name in ("a.test", "b.test"))

    assert one.leaf != another.leaf
    assert one.certificates[1] is another.certificates[1]


def test_a_private_key_in_the_chain_is_refused():
    pair = INTERMEDIATE.issue(NAMES)
    with pytest.raises(ChainError, match="PRIVATE KEY"):
        chain.parse(pair.chain_pem + pair.key_pem)


def test_more_than_ten_certificates_are_refused():
    pair = ROOT.issue(NAMES)
    with pytest.raises(ChainError, match="11 certificates"):
        chain.parse(pair.chain_pem * 11)


def test_a_good_chain_passes_every_rule():
    assert verdict(INTERMEDIATE.issue(NAMES), roots=[ROOT]) is None
    assert verdict(ROOT.issue(NAMES), roots=[pki.authority("Other"), ROOT]) is None


def test_the_order_of_names_does_not_matter_but_their_set_does():
    pair = INTERMEDIATE.issue(NAMES)

    assert verdict(pair, names=NAMES[::-1]) is None
    assert verdict(pair, names=NAMES[:1]) == "names"
    assert verdict(pair, names=[*NAMES, "more.example.com"]) == "names"
    assert verdict(INTERMEDIATE.issue(NAMES, ips=["127.0.0.1"])) == "names"
    assert verdict(INTERMEDIATE.issue()) == "names"


def test_a_leaf_for_another_key_is_refused():
    assert verdict(INTERMEDIATE.issue(NAMES), key=pki.new_key()) == "key"


def test_dates_count_with_five_minutes_of_skew_at_the_beginning_only():
    pair = INTERMEDIATE.issue(NAMES)
    begins, ends = pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc

    assert verdict(pair, now=begins - timedelta(minutes=5)) is None
    assert verdict(pair, now=begins - timedelta(minutes=5, seconds=1)) == "dates"
    assert verdict(pair, now=ends - timedelta(seconds=1)) is None
    assert verdict(pair, now=ends) == "dates"


def test_an_expired_intermediate_is_refused():
    long = INTERMEDIATE.issue(NAMES, days=20 * 365)

    assert verdict(long, now=INTERMEDIATE.certificate.not_valid_after_utc) == "dates"


def test_every_link_is_verified():
    pair = INTERMEDIATE.issue(NAMES)
    leaf, above = pki.cert_pem(pair.certificate), INTERMEDIATE.pem
    namesake = pki.authority("Root").intermediate("Intermediate")
    not_a_ca = ROOT.issue(["not-a-ca.example.com"])

    assert verdict(pair, pem=leaf + namesake.pem) == "order"
    assert verdict(pair, pem=leaf + above + namesake.pem) == "order"
    assert verdict(pair, pem=leaf + not_a_ca.chain_pem) == "order"
    assert verdict(pair, pem=above + leaf) == "key", "the leaf comes first"


def test_the_root_is_wanted_by_its_signature_and_stays_out_of_the_chain():
    pair = INTERMEDIATE.issue(NAMES)

    assert verdict(pair, roots=[pki.authority("Root")]) == "root", "a namesake is no root"
    assert verdict(pair, pem=pair.chain_pem + ROOT.pem, roots=[ROOT]) == "root"
    assert verdict(pair, pem=pki.cert_pem(pair.certificate), roots=[ROOT]) == "root", (
        "the intermediate is missing"
    )


def test_an_expired_root_is_no_root():
    pair = ROOT.issue(NAMES, days=20 * 365)

    assert verdict(pair, roots=[ROOT], now=ROOT.certificate.not_valid_after_utc) == "root"


def test_a_leaf_must_be_a_server_s():
    client_only = INTERMEDIATE.issue(NAMES, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])

    assert verdict(client_only) == "usage"
    assert verdict(INTERMEDIATE.issue(NAMES, ca=True)) == "usage"
    assert verdict(INTERMEDIATE.issue(NAMES, usages=None)) is None


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (rsa.generate_private_key(65537, 1024), "strength"),
        (ec.generate_private_key(ec.SECP521R1()), "strength"),
        (ec.generate_private_key(ec.SECP256K1()), "strength"),
        (ec.generate_private_key(ec.SECP384R1()), None),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ],
    ids=["rsa-1024", "p-521", "k-256", "p-384", "ed25519"],
)
def test_a_key_must_be_one_that_envoy_loads(key, rule):
    assert verdict(INTERMEDIATE.issue(NAMES, key=key)) == rule
