"""A CA that means harm, or is broken: refused, named, audited; and neither a crash nor a loop.

A real Pebble behind a door that changes what it says.
"""

import json
from datetime import timedelta

import pytest

from acme_engine.errors import PREFIX
from sds_server.inventory import progress
from sds_server.lifecycle import worker as workers
from tests.support import pki
from tests.support.issuances import Issuances
from tests.support.one_replica import one_replica

pytestmark = pytest.mark.debian

MOST_REQUESTS = 40
"""Of one attempt: an order of one name takes a dozen."""


@pytest.fixture
async def replica(database, tmp_path, front, pebble):
    await (await Issuances.open(database, tmp_path)).declare()
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port) as replica:
        yield replica


def token(text):
    def change(document):
        for challenge in document.get("challenges", ()):
            challenge["token"] = text
        return document

    return change


def identifier(name):
    return lambda document: document | {"identifier": {"type": "dns", "value": name}}


OTHERS = [{"type": "dns", "value": "www.example.test"}, {"type": "dns", "value": "bank.example"}]

CHANGES = {
    # what the CA says: where, how it is changed, and what we say of it
    "plain HTTP": ("/dir", lambda d: {k: str(v).replace("https:", "http:") if isinstance(v, str) else v
                                      for k, v in d.items()}, "sent us elsewhere"),
    "another origin": ("/order-plz", lambda d: d | {"authorizations": ["https://127.0.0.1:1/x"]},
                       "sent us elsewhere: 'https://127.0.0.1:1/x'"),
    "our own metadata": ("/order-plz", lambda d: d | {"authorizations": ["http://169.254.169.254/latest"]},
                         "sent us elsewhere"),
    "a path for a token": ("/authZ", token("../../../../etc/passwd"), "can be answered"),
    "a short token": ("/authZ", token("short"), "can be answered"),
    "other names": ("/order-plz", lambda d: d | {"identifiers": OTHERS}, "bank.example"),
    "another name to prove": ("/authZ", identifier("bank.example"), "wants bank.example proved"),
    "no JSON object": ("/order-plz", lambda _d: ["order"], "is not a JSON object"),
    "thousands of names": ("/order-plz", lambda d: d | {"authorizations": ["x"] * 5000}, "at most 100"),
}  # fmt: skip


async def failed(database, sql):
    """What the Rotation says, and the audit."""
    rotation = await progress.latest(database, "www")
    audited = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'rotation.failed'")
    assert rotation.new_cert_id is None
    assert rotation.last_error["what"] in audited.encode().decode("unicode_escape")
    return rotation.last_error["what"]


@pytest.mark.parametrize("what", CHANGES)
async def test_what_a_ca_may_not_say_is_refused_named_and_audited(replica, front, database, sql, what):
    path, change, said = CHANGES[what]
    front.change(path, change)
    await replica.worker.step()

    assert said in await failed(database, sql)
    assert len(front.visits) < MOST_REQUESTS


async def test_a_body_without_an_end_is_not_read(replica, front, database, sql):
    front.replace("/certZ", b"x" * (2 * 1024 * 1024))
    await replica.worker.step()

    assert "more than 1048576 bytes" in await failed(database, sql)


async def test_a_chain_for_another_key_is_never_stored(replica, front, database, sql):
    other = pki.authority().issue(["www.example.test"])
    front.replace("/certZ", other.chain_pem)
    await replica.worker.step()

    assert "for another key than the one requested" in await failed(database, sql)
    assert 0 == await sql.fetchval("SELECT count(*) FROM certificate")


async def test_a_private_key_in_a_chain_is_refused_and_told_nowhere(replica, front, database, sql):
    other = pki.authority().issue(["www.example.test"])
    front.replace("/certZ", other.chain_pem + other.key_pem)
    await replica.worker.step()
    what = await failed(database, sql)

    assert "PRIVATE KEY" in what
    assert other.key_pem.decode().splitlines()[1] not in what


async def test_an_order_that_is_processed_for_ever_is_parked_and_resumed(
    replica, front, database, sql, monkeypatch
):
    """The CA may take days (RFC 8555 section 7.4): the same order is looked at again, and no other made."""
    monkeypatch.setattr(workers, "ORDER_DEADLINE_S", 2.0)
    front.change("/finalize-order", lambda d: d | {"status": "processing"})
    front.change("/my-order", lambda d: d | {"status": "processing"})
    await replica.worker.step()
    what = await failed(database, sql)
    first = len(front.visits)
    await sql.execute("UPDATE certrotation SET next_attempt_at = certvoy_now()")
    await replica.worker.step()

    assert "is processing" in what
    assert 1 == len(front.orders)
    assert max(first, len(front.visits) - first) < MOST_REQUESTS


async def test_an_order_that_is_to_take_a_year_is_looked_at_within_the_hour(replica, front, sql):
    """And is the one that the certificate comes of."""
    order = {"status": "processing", "identifiers": [], "authorizations": [], "finalize": "/"}
    front.answer("/finalize-order", 200, json.dumps(order), Retry_After="31536000")
    await replica.worker.step()
    waits = await sql.fetchval("SELECT next_attempt_at - certvoy_now() FROM certrotation")
    await sql.execute("UPDATE certrotation SET next_attempt_at = certvoy_now()")
    await replica.worker.step()

    assert timedelta(minutes=30) < waits <= timedelta(hours=1)
    assert (1, 1) == (len(front.orders), await sql.fetchval("SELECT count(*) FROM certificate"))


async def test_an_order_that_is_ready_and_never_finalized_is_no_loop(replica, front, database, sql):
    """RFC 8555 section 7.4: orderNotReady to an order that is shown as ready, again and again."""
    for _ in range(100):
        front.answer("/finalize-order", 403, json.dumps({"type": f"{PREFIX}orderNotReady"}))
    await replica.worker.step()

    assert "orderNotReady" in await failed(database, sql)
    assert 1 == len(front.orders)
    assert len(front.visits) < MOST_REQUESTS
