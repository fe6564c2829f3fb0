"""RFC 8555's error types, as a CA sends them: what is read of each, and what is done. Row by row.

A real Pebble behind a door that answers newOrder in its place; the pauses that follow are in
tests/lifecycle/test_retry.py.
"""

import json

import pytest

from acme_engine import Client, KeyType, keys
from acme_engine.errors import PREFIX, RULES, Action, Refused

pytestmark = pytest.mark.debian

STATUSES = {"badNonce": 400, "rateLimited": 429, "serverInternal": 500, "alreadyReplaced": 409}
NAME = "www.example.com"


@pytest.fixture
async def client(front):
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(front.directory_url, account_key=key, ca_file=front.ca_file, patience_s=0.0) as client:
        await client.register(terms_agreed=True)
        yield client


def problem(code, **more):
    return json.dumps({"type": PREFIX + code, "detail": f"it is {code}", **more})


@pytest.mark.parametrize("code", sorted(set(RULES) - {"badNonce"}))
async def test_each_type_is_told_with_its_rule_and_the_next_order_is_taken(front, client, code):
    front.answer("/order-plz", STATUSES.get(code, 403), problem(code))
    with pytest.raises(Refused) as refused:
        await client.new_order([NAME])
    after = await client.new_order([NAME])

    assert (code, RULES[code]) == (refused.value.problem.code, refused.value.problem.rule)
    # Of a request "unauthorized" is the account's fault, and not that of a name that is not proved.
    account = "the CA does not let this account do it"
    assert refused.value.hint.startswith(account if code == "unauthorized" else RULES[code].hint)
    assert ("pending", 2) == (after.status, len(front.orders))


async def test_a_refused_nonce_is_signed_anew_and_not_told(front, client):
    front.answer("/order-plz", 400, problem("badNonce"))

    assert "pending" == (await client.new_order([NAME])).status
    assert 2 == len(front.orders)


@pytest.mark.parametrize(
    ("status", "action"), [(400, Action.RETRY), (418, Action.RETRY), (429, Action.WAIT), (503, Action.WAIT)]
)
async def test_a_type_that_nobody_knows_goes_by_its_status(front, client, status, action):
    front.answer("/order-plz", status, problem("tomorrow"))
    with pytest.raises(Refused) as refused:
        await client.new_order([NAME])

    assert action is refused.value.problem.rule.action


async def test_a_problem_is_kept_whole(front, client):
    subs = [{"type": PREFIX + "caa", "detail": "no", "identifier": {"type": "dns", "value": NAME}}]
    body = problem("compound", title="T", instance="https://ca.example.test/1", subproblems=subs)
    link = '<https://ca.example.test/terms>;rel="terms-of-service"'
    front.answer("/order-plz", 403, body, Retry_After="3600", Link=link)
    with pytest.raises(Refused) as refused:
        await client.new_order([NAME])
    told = refused.value.problem

    assert ("T", "https://ca.example.test/1", 403, 3600) == (
        told.title,
        told.instance,
        told.status,
        told.retry_after.total_seconds(),
    )
    assert [(NAME, "caa")] == [(sub.identifier, sub.code) for sub in told.subproblems]
    assert (("terms-of-service", "https://ca.example.test/terms"),) == told.links
