"""What is sent again, and what is not: a real Pebble behind a door that fails, is busy, or loses answers.

RFC 8555 section 6.5, and 7.4 for what a client does that does not know what became of its finalize.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from acme_engine import Client, KeyType, keys
from acme_engine.errors import PREFIX, Unreachable
from sds_server.inventory import progress
from sds_server.limits import PRESETS
from tests.support.acme import MemoryJournal, Orderer, Tokens, responding
from tests.support.issuances import Issuances
from tests.support.one_replica import one_replica

pytestmark = pytest.mark.debian

BUSY = json.dumps({"type": PREFIX + "rateLimited", "detail": "Service busy; retry later."})
"""Let's Encrypt's load balancer, with 503."""


@pytest.fixture
def slept():
    return []


@pytest.fixture
def ordering(front, pebble, slept):
    """Order a certificate; the pauses that are wanted are kept, and cut short."""

    async def sleep(pause_s):
        slept.append(pause_s)
        await asyncio.sleep(min(pause_s, 0.05))

    @asynccontextmanager
    async def ordering(name):
        tokens, key = Tokens(), keys.generate(KeyType.ECDSA_P256)
        async with (
            Client(front.directory_url, account_key=key, ca_file=front.ca_file, sleep=sleep) as client,
            responding(tokens, port=pebble.http_port),
        ):
            await client.register(terms_agreed=True)
            front.visits.clear()
            yield Orderer(client, [name], tokens)

    return ordering


def posts(front, path=""):
    return [v.body for v in front.visits if v.method == "POST" and v.path.startswith(path)]


@pytest.mark.parametrize("body", ["<html>", BUSY], ids=["page", "problem"])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_ca_that_is_busy_or_fails_is_asked_again_in_place(front, ordering, slept, status, body):
    """After Retry-After, or pauses that grow."""
    async with ordering("busy.example.com") as orderer:
        front.answer("/order-plz", status, body, Retry_After="7")
        front.answer("/order-plz", status, body)
        await orderer.obtain(MemoryJournal())

    assert 7 == slept[0]
    assert 1 <= slept[1] <= 3


async def test_no_signed_body_is_sent_twice_whatever_went_wrong(front, ordering):
    """Each has a nonce of its own, after a refusal, a failure, and where no answer came."""
    async with ordering("twice.example.com") as orderer:
        front.answer("/order-plz", 400, json.dumps({"type": PREFIX + "badNonce"}))
        front.answer("/order-plz", 503, BUSY)
        front.answer("/authZ", 502, "<html>")
        front.cut("/authZ")
        front.answer("/chalZ", 500)
        front.answer("/finalize-order", 504)
        front.cut("/my-order")
        front.cut("/certZ")
        front.answer("/certZ", 429, BUSY, Retry_After="1")
        got = await orderer.obtain(MemoryJournal())
    sent = posts(front)

    assert ("twice.example.com",) == got.names
    assert len(sent) == len({*sent})
    nonces = [json.loads(body)["protected"] for body in sent]
    assert len(nonces) == len({*nonces})
    assert len(sent) > 12


@pytest.mark.parametrize("path", ["/authZ", "/chalZ", "/finalize-order", "/certZ"])
async def test_an_answer_that_is_lost_costs_no_second_certificate(front, ordering, pebble, path):
    """Reading is repeated. What a finalize did is read from its order, and the order is finalized once.

    Pebble will not be told a second time to look, where it has looked already.
    """
    issued = pebble.issued()
    name = f"lost{path.lower().replace('/', '-')}.example.com"
    async with ordering(name) as orderer:
        front.cut(path)
        got = await orderer.obtain(MemoryJournal())

    assert ((name,), 1, 1) == (got.names, len(front.orders), pebble.issued() - issued)
    paths = [f"/{visit.path.split('/')[1]}" for visit in front.visits if visit.method == "POST"]
    assert ("/my-order" if path == "/finalize-order" else path) == paths[paths.index(path) + 1]


async def test_an_order_whose_answer_is_lost_is_not_asked_for_again_in_place(front, ordering):
    """Orders are counted, and nobody knows whether this one was: whoever schedules comes back later."""
    async with ordering("order.example.com") as orderer:
        front.cut("/order-plz")
        with pytest.raises(Unreachable) as lost:
            await orderer.obtain(MemoryJournal())

    assert lost.value.retryable
    assert 1 == len(front.orders)


async def test_a_limit_of_one_domain_keeps_that_domain_alone_waiting(database, tmp_path, front, pebble):
    """Let's Encrypt's words, with its 429; what it says of one domain says nothing of another."""
    said = 'too many certificates (50) already issued for "example.com" in the last 168h0m0s'
    problem = json.dumps({"type": PREFIX + "rateLimited", "detail": said})
    front.answer("/order-plz", 429, problem, Retry_After="93600")
    issuances = await Issuances.open(database, tmp_path)
    limits = PRESETS["letsencrypt"]
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port, limits=limits) as replica:
        await issuances.declare("a", ["a.example.com"])
        await replica.worker.step()
        await issuances.declare("b", ["b.example.com"])
        await issuances.declare("c", ["c.example.org"])
        await replica.worker.step()
    a, b, c = [await progress.latest(database, name) for name in ("a", "b", "c")]

    assert [["a.example.com"], ["c.example.org"]] == [visit.names for visit in front.orders]
    assert (None, None) == (a.new_cert_id, b.new_cert_id)
    assert c.new_cert_id is not None
    assert said in a.last_error["what"]
    assert "certificates of example.com in 168 h is spent, as it says itself" in b.last_error["what"]


async def test_names_that_a_ca_does_not_certify_so_are_not_ordered(database, tmp_path, front, pebble):
    """Declared before the configuration named this CA, say: what is declared now is refused at once."""
    await (await Issuances.open(database, tmp_path)).declare("a", ["192.0.2.7"])
    limits = PRESETS["letsencrypt"]
    async with one_replica(database, tmp_path, front, http_port=pebble.http_port, limits=limits) as replica:
        await replica.worker.step()
    error = (await progress.latest(database, "a")).last_error

    assert [] == front.orders
    assert "192.0.2.7: the CA certifies addresses in the profile shortlived alone" in error["what"]
