"""What a CA certifies at all, and how often it is asked, as its preset says."""

import math

import pytest

from sds_server.limits import PRESETS, refusal

LETS_ENCRYPT = PRESETS["letsencrypt"]
NAMES = [f"n{n}.example.com" for n in range(26)]
ADDRESS = ["www.example.com", "2001:db8::7"]


def refused(names, profile=None, *, preset=LETS_ENCRYPT, required=True):
    return refusal(names, preset, profile=profile, required=required)


@pytest.mark.parametrize("profile", ["tlsserver", "shortlived"])
def test_profiles_of_fewer_names_take_no_more(profile):
    wrong = refused(NAMES, profile)

    assert f"has 26 names; the CA takes 25 in a certificate of the profile {profile}" == wrong.said
    assert refused(NAMES[1:], profile) is None


@pytest.mark.parametrize(("profile", "required"), [(None, True), ("classic", True), ("tlsserver", False)])
def test_the_default_takes_as_many_as_any_and_is_what_a_mere_preference_ends_in(profile, required):
    assert refused(NAMES, profile, required=required) is None


@pytest.mark.parametrize("profile", [None, "classic", "tlsserver"])
def test_an_address_is_certified_in_one_profile_alone(profile):
    wrong = refused(ADDRESS, profile)

    assert "2001:db8::7: the CA certifies addresses in the profile shortlived alone" == wrong.said


@pytest.mark.parametrize("required", [True, False])
def test_in_that_profile_it_is_ordered(required):
    assert refused(ADDRESS, "shortlived", required=required) is None


@pytest.mark.parametrize("names", [NAMES, ADDRESS])
def test_a_ca_that_nobody_knows_decides_by_itself(names):
    assert refused(names, preset=PRESETS["off"]) is None


@pytest.mark.parametrize(
    ("name", "resource", "takes"),
    [
        ("letsencrypt", "newNonce", 20),
        ("letsencrypt", "newAccount", 5),
        ("letsencrypt", "revokeCert", 10),
        ("letsencrypt", "newOrder", 250),
        ("letsencrypt-staging", "newNonce", 20),
        ("letsencrypt-staging", "newOrder", 20),
        ("zerossl", "newOrder", 8),
    ],
)
def test_one_replica_asks_less_often_in_a_second_than_the_ca_takes(name, resource, takes):
    """As its page says, of one address; ZeroSSL has none, and known clients keep to 7."""
    preset = PRESETS[name]

    assert min(preset.requests_per_s, preset.requests_of_per_s.get(resource, math.inf)) < takes
