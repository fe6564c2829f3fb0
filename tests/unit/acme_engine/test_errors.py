"""What a CA's words mean: who must act, and whether to come back (RFC 8555 section 6.7)."""

from datetime import timedelta

import pytest

from acme_engine import errors
from acme_engine.errors import RULES, AcmeError, Action, Actor, OrderFailed, Problem, Refused

# RFC 8555 section 6.7, RFC 9773 and the profiles draft.
REGISTERED = [
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
    "alreadyReplaced",
    "invalidProfile",
]


def of(code, **more):
    return Problem.of({"type": errors.PREFIX + code, "detail": f"it is {code}", **more})


def classes(root=AcmeError):
    return [root, *(c for sub in root.__subclasses__() for c in classes(sub))]


def test_every_registered_type_has_its_rule():
    assert set(RULES) == set(REGISTERED)


@pytest.mark.parametrize("code", [code for code in REGISTERED if code != "unauthorized"])
def test_each_type_says_what_to_do_and_who_does_it(code):
    refusal = Refused("newOrder", of(code, status=403))

    assert refusal.hint == RULES[code].hint
    assert refusal.actor is RULES[code].actor
    assert refusal.retryable is (RULES[code].action not in {Action.HOLD, Action.DONE})
    assert f"it is {code} ({code})" in str(refusal)


@pytest.mark.parametrize("code", ["userActionRequired", "rejectedIdentifier", "externalAccountRequired"])
def test_what_needs_a_person_is_never_tried_again_by_itself(code):
    assert not of(code).rule.retryable


@pytest.mark.parametrize(
    ("document", "status", "action"),
    [
        ({"type": "urn:ietf:params:acme:error:tomorrow"}, 403, Action.RETRY),
        ({"type": "urn:ietf:params:acme:error:tomorrow"}, 500, Action.WAIT),
        ({}, 429, Action.WAIT),
        (None, 503, Action.WAIT),
        ("text", 418, Action.RETRY),
        ({"type": "https://example.com/badNonce"}, 400, Action.RETRY),
    ],
)
def test_an_unknown_type_is_judged_by_its_http_status(document, status, action):
    assert Problem.of(document, status=status).rule.action is action


def test_subproblems_name_the_guilty_and_have_none_of_their_own():
    got = of(
        "compound",
        subproblems=[
            {
                "type": errors.PREFIX + "caa",
                "detail": "no",
                "identifier": {"type": "dns", "value": "a.example"},
                "subproblems": [{"detail": "deeper"}],
            },
            "nonsense",
            {"detail": 5, "identifier": "b.example"},
        ],
    )

    assert [(s.identifier, s.code, s.subproblems) for s in got.subproblems] == [
        ("a.example", "caa", ()),
        (None, None, ()),
    ]
    assert "a.example: no (caa)" in str(got)


def test_a_compound_waits_for_a_person_if_one_of_its_subproblems_does():
    passing = {"type": errors.PREFIX + "dns"}
    rejected = {"type": errors.PREFIX + "rejectedIdentifier"}

    assert of("compound", subproblems=[passing]).rule is RULES["compound"]
    assert of("compound", subproblems=[passing, rejected]).rule is RULES["rejectedIdentifier"]


def test_a_ca_s_text_cannot_fill_or_forge_a_log():
    got = Problem.of({"type": "x" * 9000, "detail": "line\r\nlevel=error \x1b[31m" + "y" * 9000})

    assert len(got.type) == len(got.detail) == errors.MAX_DETAIL
    assert got.detail.isprintable()


def test_an_order_waits_for_its_longest_limit_and_names_its_first_problem():
    first = Problem(detail="a", retry_after=timedelta(minutes=1))
    failure = OrderFailed("dead", order_url="u", problems=[first, Problem(retry_after=timedelta(hours=1))])

    assert failure.problem is first
    assert failure.retry_after == timedelta(hours=1)


def test_one_name_that_needs_a_person_holds_the_order_back():
    assert not OrderFailed("dead", order_url="u", problems=[of("dns"), of("rejectedIdentifier")]).retryable
    assert OrderFailed("dead", order_url="u").retryable


@pytest.mark.parametrize("kind", classes(), ids=lambda c: c.__name__)
def test_every_error_says_the_next_step_and_who_takes_it(kind):
    assert isinstance(kind.hint, str)
    assert len(kind.hint) > 10
    assert isinstance(kind.actor, Actor)
    assert isinstance(kind.retryable, bool)


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = {line.split("─ ")[-1].split()[0] for line in errors.__doc__.splitlines() if "─ " in line}

    assert drawn | {"AcmeError"} == {c.__name__ for c in classes()}


def test_a_request_that_is_unauthorized_is_the_account_s_and_no_name_s():
    """A wrong EAB key says so: only in an authorization is it a name that was not proved."""
    problem = of("unauthorized", status=403)
    refusal = Refused("newAccount", problem)
    failure = OrderFailed("a name could not be proved", order_url="https://ca.example/1", problems=[problem])

    assert Actor.OPERATOR is refusal.actor
    assert "EAB" in refusal.hint
    assert Actor.OWNER is failure.actor
    assert "HTTP-01" in failure.hint
