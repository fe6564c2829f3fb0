"""How often the same names are ordered: what a CA counts is data, and an internal one counts nothing."""

from datetime import timedelta

import pytest

from sds_server import spacing
from sds_server.spacing import Spacing, Wait

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LE = spacing.preset("acme-v02.api.letsencrypt.org")


def wait(*issued, failed=()):
    return spacing.wait(LE, issued=issued, failed={"a.example": failed})


def test_let_s_encrypt_is_known_and_an_internal_ca_is_not():
    assert Spacing(least=HOUR, certificates=4, per=7 * DAY, failures=4) == LE
    assert spacing.preset("ca.internal") is None


def test_two_certificates_for_the_same_names_are_an_hour_apart():
    assert timedelta(minutes=20) == wait(timedelta(minutes=40)).lasts
    assert wait(HOUR) is None


def test_the_fifth_in_a_week_waits_until_the_first_has_left_it():
    assert wait(DAY, 2 * DAY, 3 * DAY) is None
    assert Wait(2 * DAY, "4 certificates for these names were issued within 7 days") == wait(
        DAY, 2 * DAY, 3 * DAY, 5 * DAY
    )
    assert wait(DAY, 2 * DAY, 3 * DAY, 7 * DAY) is None


def test_a_name_fails_four_times_an_hour_at_most_whichever_secret_it_is_in():
    minutes = [timedelta(minutes=n) for n in (1, 2, 3, 50)]

    assert wait(failed=minutes[:3]) is None
    assert Wait(timedelta(minutes=10), "a.example: 4 validations of it failed within an hour") == wait(
        failed=minutes
    )


@pytest.mark.parametrize("issued", [(), (8 * DAY,)])
def test_what_is_long_ago_counts_nothing(issued):
    assert wait(*issued) is None
