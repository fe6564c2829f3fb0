"""The content gate, asked once more on the host: what a bundle must be before anything is written."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from acme_engine.keys import spki_sha256
from sds_server.agent.pair import Bundle, KeyMissing, judge
from sds_server.errors import GateRefused, Unavailable
from tests.support import pki

NAMES = ("www.example.test", "*.example.test")


def body(pair, **other):
    return {
        "name": "www",
        "generation": 2,
        "version": "v2",
        "fingerprint_sha256": pair.certificate.fingerprint(pki.hashes.SHA256()).hex(),
        "not_after": "2030-01-01T00:00:00Z",
        "chain": pair.chain_pem.decode(),
        "private_key": pair.key_pem.decode(),
        **other,
    }


@pytest.fixture
def issued():
    return pki.authority().issue(dns=NAMES)


def judged(body, **wanted):
    return judge(Bundle.of(body, etag='"v2.json"'), secret="www", now=datetime.now(UTC), **wanted)


def test_a_good_one_is_a_pair(issued):
    pair = judged(body(issued), wanted=["www.example.test", "other.example.test"])

    assert (2, "v2", '"v2.json"', NAMES) == (pair.generation, pair.version, pair.etag, pair.names)
    assert pair.combined_pem == issued.chain_pem + issued.key_pem


def test_neither_a_bundle_nor_a_pair_shows_its_key(issued):
    bundle = Bundle.of(body(issued), etag="")

    assert "PRIVATE" not in repr(bundle) + repr(judged(body(issued))) + str(judged(body(issued)).about)


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"name": "mail"}, "names"),
        ({"chain": ""}, "pem"),
        ({"chain": "garbage"}, "pem"),
        ({"private_key": "garbage"}, "key"),
        ({"private_key": pki.key_pem(pki.new_key()).decode()}, "key"),
        ({"fingerprint_sha256": "0" * 64}, "pem"),
    ],
)
def test_what_does_not_belong_together_is_refused(issued, other, rule):
    with pytest.raises(GateRefused) as refused:
        judged(body(issued, **other))

    assert rule == refused.value.rule
    assert "PRIVATE" not in str(refused.value)


@pytest.mark.parametrize("curve", ["secp160k1", "SM2"])
def test_a_key_of_a_curve_that_is_not_known_here_is_refused(issued, curve):
    command = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout"]
    key = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with pytest.raises(GateRefused, match="cannot be read"):
        judged(body(issued, private_key=key))


@pytest.mark.parametrize(
    "other",
    [{"chain": "\ud800"}, {"version": "v2\r\nHost: elsewhere"}, {"name": "\ud800"}, {"generation": True}],
)
def test_what_could_not_be_written_is_not_read(issued, other):
    with pytest.raises(Unavailable, match=next(iter(other))):
        judged(body(issued, **other))


@pytest.mark.parametrize("days", [-2, 2])
def test_one_that_is_outside_of_its_dates_is_refused(days):
    begins = datetime.now(UTC) + timedelta(days=days)
    issued = pki.authority().issue(dns=NAMES, not_before=begins, not_after=begins + timedelta(days=1))
    with pytest.raises(GateRefused) as refused:
        judged(body(issued))

    assert "dates" == refused.value.rule


@pytest.mark.parametrize("name", ["example.test", "a.b.example.test", "www.example.org"])
def test_one_that_does_not_cover_what_the_host_serves_is_refused(issued, name):
    with pytest.raises(GateRefused, match=f"does not cover {name}"):
        judged(body(issued), wanted=[name])


class Own:
    """A host with these keys."""

    def __init__(self, *held):
        self._held = {spki_sha256(key.public_key()): key for key in held}

    def find(self, spki):
        return self._held.get(spki)


def test_a_chain_finds_the_key_that_this_host_has_made(issued):
    pair = judged(body(issued, private_key=None), own=Own(pki.new_key(), issued.key))

    assert issued.chain_pem + issued.key_pem == pair.combined_pem
    assert spki_sha256(issued.key.public_key()) == pair.spki_sha256


def test_a_chain_of_a_key_that_is_not_here_is_refused_by_that_name(issued):
    with pytest.raises(KeyMissing, match="is not on this host") as refused:
        judged(body(issued, private_key=None), own=Own(pki.new_key()))

    assert spki_sha256(issued.key.public_key()).hex() in refused.value.message


def test_a_delivered_key_is_refused_where_the_host_makes_them(issued):
    with pytest.raises(GateRefused, match="declare the secret with `key_holder: target`") as refused:
        judged(body(issued), own=Own(issued.key))

    assert not isinstance(refused.value, KeyMissing)


def test_a_missing_key_is_refused_where_it_should_be_delivered(issued):
    with pytest.raises(GateRefused, match="write `key: local`"):
        judged(body(issued, private_key=None))


@pytest.mark.parametrize("missing", ["name", "generation", "version", "chain", "private_key"])
def test_what_is_no_bundle_is_not_read_as_one(issued, missing):
    content = body(issued)
    del content[missing]
    with pytest.raises(Unavailable, match=missing) as refused:
        Bundle.of(content, etag="")

    assert "BEGIN" not in str(refused.value)
