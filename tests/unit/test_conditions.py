"""Conditions: what is said of a secret that is uploaded, revoked, frozen, or at its canaries."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from sds_server import conditions
from sds_server.conditions import DeliveryState, RevocationState
from sds_server.model import Certificate, CertificateStatus, Freeze, Revocation, RevocationReason

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def certificate(renew_at):
    return Certificate(
        id=uuid4(),
        secret="www",
        generation=1,
        status=CertificateStatus.ACTIVE,
        domains=("www.example.test",),
        issuer="upload:00",
        serial_number="1",
        not_before=NOW,
        not_after=NOW + timedelta(days=30),
        fingerprint="f" * 64,
        key_id=uuid4(),
        key_ref="cv1:local:x:y",
        chain_pem=b"",
        renew_at=renew_at,
    )


def revocation(**changed):
    fields = {
        "cert_id": uuid4(),
        "secret": "www",
        "generation": 1,
        "status": CertificateStatus.ACTIVE,
        "reason": RevocationReason.SUPERSEDED,
        "at_once": False,
        "ready": False,
        "wanted_at": NOW,
        "attempts": 0,
        "next_attempt_at": NOW,
        "error": None,
        "done_at": None,
    }
    return Revocation(**fields | changed)


@pytest.mark.parametrize("uploaded", [True, False])
def test_who_is_late_with_an_uploaded_pair_is_told_to_upload(uploaded):
    found = conditions.of_secret(
        certificate=certificate(NOW - timedelta(days=1)),
        rotation=None,
        deliveries=[],
        now=NOW,
        uploaded=uploaded,
    )
    overdue = next(condition for condition in found if condition.type == "RenewalOverdue")

    assert (True, "Late") == (overdue.status, overdue.reason)
    assert uploaded == ("certvoy upload" in overdue.message)


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, RevocationState.WAITING),
        ({"ready": True}, RevocationState.ASKING),
        ({"ready": True, "error": {"what": "no"}}, RevocationState.FAILING),
        ({"error": {"what": "no"}}, RevocationState.WAITING),
        ({"done_at": NOW, "status": CertificateStatus.REVOKED}, RevocationState.REVOKED),
        ({"status": CertificateStatus.EXPIRED}, RevocationState.LAPSED),
    ],
)
def test_each_state_of_a_revocation_has_its_words(changed, state):
    found, words = conditions.revocation_state(revocation(**changed))

    assert state == found
    assert words


def state(**marks):
    fields = dict.fromkeys(("sent", "accepted", "refused", "proved", "refusal", "probe_error"))
    return conditions.delivery_state(**{"current": 1} | fields | marks)


def test_who_is_no_canary_waits_for_them_and_is_not_behind():
    assert (DeliveryState.WAITING, "it serves generation 1 until the canaries are proved") == state(
        proved=1, waits=True
    )


@pytest.mark.parametrize("marks", [{}, {"sent": 1}, {"accepted": 1, "current": 2}])
def test_who_cannot_be_pushed_to_is_told_with_that_reason(marks):
    assert (
        "push: nobody there" == state(push_error="push: nobody there", probe_error="no address", **marks)[1]
    )


def test_who_waits_for_the_canaries_and_does_not_serve_the_one_before_is_told_apart():
    assert DeliveryState.ACCEPTED is state(accepted=1, waits=True)[0]


@pytest.mark.parametrize(
    "marks", [{"proved": 1}, {"refused": 1}, {"accepted": 1}, {"proved": 1, "waits": True}]
)
def test_who_was_seen_to_serve_another_leaf_is_stale_whatever_else_is_recorded(marks):
    found = state(stale_for=timedelta(minutes=90), served="ab" * 32, **marks)

    assert (DeliveryState.STALE, "for 1 h it serves abababababababab..., not generation 1") == found


def test_where_another_leaf_is_served_is_told_for_as_long_as_that_is_the_last_look():
    """One of several places, or one of TCP and QUIC: all others are well."""
    seen = "edge:443 over QUIC serves abababababababab... for www.example.test, not cdcdcdcdcdcdcdcd..."
    marks = {"stale_for": timedelta(minutes=90), "served": "ab" * 32}

    assert f"for 1 h: {seen}" == state(probe_error=seen, **marks)[1]
    assert "it serves abababababababab..." in state(probe_error="edge:443: Connection refused", **marks)[1]


def test_who_states_that_it_has_lost_it_is_told_by_what_it_states():
    lost = "10.0.0.1:9901/certs: generation 1 is not loaded"
    found = state(stale_for=timedelta(minutes=90), probe_error=lost)

    assert (DeliveryState.STALE, f"for 1 h: {lost}") == found


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ({"probe_error": "no answer"}, "it is not seen any more: no answer"),
        ({"probe_error": "no answer", "said_ago": timedelta(hours=4)}, "it is not seen any more: no answer"),
        ({"said_ago": timedelta(hours=4)}, "its agent said it 4 h ago, and nothing since"),
    ],
)
def test_what_was_proved_and_cannot_be_seen_since_is_told_apart_and_is_not_served_for_certain(marks, reason):
    unseen = state(proved=1, unseen=True, **marks)
    said = conditions.of_secret(
        certificate=certificate(NOW),
        rotation=None,
        deliveries=[DeliveryState.PROVED, unseen[0]],
        now=NOW,
    )
    served = next(condition for condition in said if condition.type == "Served")

    assert (DeliveryState.UNSEEN, f"it was proved; {reason}") == unseen
    assert (False, "NotSeen") == (served.status, served.reason)
    assert "1 of 2 proved to serve generation 1, 1 was and cannot be seen any more" == served.message
    assert unseen == state(proved=1, unseen=True, waits=True, **marks), "nor while it waits for the canaries"


def test_a_trust_bundle_that_cannot_be_seen_any_more_is_taken_still():
    said = conditions.of_payload(
        generation=1,
        not_after=None,
        rolling_out=False,
        error=None,
        deliveries=[DeliveryState.PROVED, DeliveryState.UNSEEN],
        now=NOW,
    )
    taken = next(condition for condition in said if condition.type == "Served")

    assert (True, "2 of 2 targets have taken generation 1, 1 of them proved") == (taken.status, taken.message)


TWINS = "2 proxies call themselves edge-1: give each its own node.id"


@pytest.mark.parametrize(
    ("marks", "found"),
    [
        ({"sent": 1}, (DeliveryState.SENT, "{}; not all of them have accepted generation 1")),
        (
            {"sent": 1, "refused": 1, "refusal": "no"},
            (DeliveryState.REFUSED, "no; {}; not all of them have accepted generation 1"),
        ),
        ({"accepted": 1, "agreed": 1, "probe_error": "no answer"}, (DeliveryState.ACCEPTED, "no answer")),
        ({"proved": 1, "agreed": 1}, (DeliveryState.PROVED, None)),
        (
            {"proved": 1, "agreed": 1, "probe_error": "no answer", "unseen": True},
            (DeliveryState.UNSEEN, "it was proved; it is not seen any more: no answer"),
        ),
    ],
)
def test_proxies_that_call_themselves_alike_are_named_while_one_has_not_accepted(marks, found):
    expected, reason = found

    assert (expected, reason and reason.format(TWINS)) == state(instances=2, node_id="edge-1", **marks)


def test_a_frozen_secret_is_not_being_issued():
    found = conditions.of_secret(
        certificate=None,
        rotation=None,
        deliveries=[],
        now=NOW,
        frozen=Freeze(NOW, "person:alice", "a launch"),
    )
    issuing = next(condition for condition in found if condition.type == "Issuing")

    assert (False, "Frozen") == (issuing.status, issuing.reason)
    assert "frozen since 2026-03-01T00:00:00Z by person:alice: a launch" == issuing.message


def test_what_is_no_certificate_waits_by_its_word_and_is_not_counted_as_taken():
    taken = state(accepted=1, by_word=True)[0]
    waits = state(accepted=1, by_word=True, waits=True)
    said = conditions.of_payload(
        generation=2,
        not_after=None,
        rolling_out=True,
        error=None,
        deliveries=[taken, waits[0]],
        now=NOW,
    )

    assert (DeliveryState.WAITING, "it serves generation 1 until the canaries are proved") == waits
    assert DeliveryState.ACCEPTED is state(accepted=1, waits=True)[0], "of a certificate no word counts"
    (served,) = [condition for condition in said if condition.type == "Served"]
    assert (False, "1 of 2 targets have taken generation 2, 0 of them proved, 1 waits for the canaries") == (
        served.status,
        served.message,
    )


def test_a_bundle_that_was_lost_is_said_by_what_its_envoy_states_and_not_by_a_leaf():
    found, reason = state(
        accepted=1, by_word=True, stale_for=timedelta(minutes=3), probe_error="its /certs: it is not loaded"
    )

    assert (DeliveryState.STALE, "for 3 min: its /certs: it is not loaded") == (found, reason)
