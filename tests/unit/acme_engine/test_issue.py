"""An order from its names to its chain, at a CA that answers oddly (RFC 8555 section 7.4)."""

import asyncio
import json
import re
import ssl
from datetime import timedelta

import pytest

from acme_engine import (
    Actor,
    Http01Solver,
    KeyType,
    OrderFailed,
    Refused,
    Unfinished,
    errors,
    issue,
    keys,
    obtain,
)
from acme_engine.errors import BadIdentifier, BadReply, BadSigningRequest, ChainError, Unsolvable
from acme_engine.issue import MAX_FINALIZES
from acme_engine.looks import NEXT_S, SOONEST_S
from tests.support import pki
from tests.support.acme import Crash, MemoryJournal, Orderer, Tokens
from tests.support.fake_ca import problem

NAMES = ["www.example.com"]
KEY = keys.generate(KeyType.ECDSA_P256)
PEM_CSR = ssl.DER_cert_to_PEM_cert(keys.csr(KEY, NAMES)).encode()


@pytest.fixture
def orderer(client):
    return Orderer(client, NAMES, Tokens())


async def test_each_step_is_committed_before_the_next_is_taken(ca, orderer):
    """The journal sees what the CA has been told so far, and nothing more."""
    told = []

    class Watching(MemoryJournal):
        def _step(self, name):
            told.append((name, [r.path for r in ca.requests]))

    await orderer.obtain(Watching())

    (ordered, at_order), (finalizing, at_finalize), (issued, at_download) = told
    assert (ordered, at_order) == ("ordered", ["/new-order"])
    assert finalizing == "finalizing"
    assert "/challenge" in at_finalize
    assert "/finalize" not in at_finalize
    assert issued == "issued"
    assert at_download[-1] == "/finalize"


async def test_an_order_asks_for_nothing_twice_and_waits_for_nothing_that_is_done(ca, orderer, slept):
    """A CA that validates and issues within the request (Caddy does) is asked six times, and never again."""
    await orderer.obtain(MemoryJournal())

    assert [
        *("/new-order", "/authorization", "/challenge"),
        *("/authorization", "/finalize", "/certificate"),
    ] == [r.path for r in ca.requests]
    assert [] == slept


async def test_the_ca_is_told_to_look_once_the_answer_can_be_seen(ca, client):
    """A look too early is a failed validation, and CAs count those."""
    told = []

    class Slow(Http01Solver):
        async def ready(self, *_proof):
            for _ in range(20):  # whatever else would go on does
                await asyncio.sleep(0)
            told.append([r.path for r in ca.requests])

    tokens = Tokens()
    await Orderer(client, NAMES, tokens, solver=Slow(tokens)).obtain(MemoryJournal())

    assert [["/new-order", "/authorization"]] == told


@pytest.mark.parametrize("name", ["example.com", "*.example.com"])
async def test_who_looks_for_a_standing_record_is_told_of_whom_and_whether_of_a_wildcard(ca, client, name):
    told = []

    class Standing:
        challenge_type, patience_s = "dns-persist-01", 0.0

        async def present(self, *_proof):
            pass

        async def ready(self, _identifier, challenge, _key_authorization):
            told.append((challenge.account, challenge.wildcard))

        cleanup = present

    ca.challenge = {"type": "dns-persist-01", "issuer-domain-names": ["ca.example"], "token": None}
    is_wildcard = name.startswith("*.")
    ca.authorization = {"identifier": {"type": "dns", "value": "example.com"}, "wildcard": is_wildcard}
    await Orderer(client, [name], Tokens(), solver=Standing()).obtain(MemoryJournal())

    assert [(f"{ca.url}/account/1", is_wildcard)] == told


@pytest.mark.parametrize(("told", "pause_s"), [({}, SOONEST_S), ({"Retry_After": "3"}, 3.0)])
async def test_a_challenge_under_way_is_looked_at_after_a_pause(ca, orderer, slept, told, pause_s):
    """Right after the answer it is hardly ever decided. The answer may say when (RFC 8555 section 8.2)."""
    ca.next("/challenge", 200, json.dumps(ca._challenge()), **told)
    looks = []

    async def sleep(pause_s):
        slept.append(pause_s)
        looks.append(len(ca.posts("/authorization")))
        ca.authorization["status"] = "valid"

    orderer._client.sleep = sleep
    await orderer.obtain(MemoryJournal())

    assert [pause_s] == slept
    assert [1] == looks, "only for its challenges"
    assert 2 == len(ca.posts("/authorization"))


async def test_a_challenge_that_is_decided_needs_not_be_answered(ca, orderer):
    """A first answer may have been heard, and what the CA said to it lost."""
    ca.next("/challenge", 400, problem("malformed"))
    ca.validates = False

    class Slow(Tokens):
        async def put(self, token, key_authorization, *, ttl_s):
            await super().put(token, key_authorization, ttl_s=ttl_s)
            ca.authorization["status"] = ca.challenge["status"] = "valid"
            ca.order["status"] = "ready"

    orderer.tokens = Slow()
    got = await orderer.obtain(MemoryJournal())

    assert tuple(NAMES) == got.names
    assert 1 == len(ca.posts("/challenge"))


async def test_an_answer_that_is_refused_while_it_is_awaited_is_told(ca, orderer):
    ca.next("/challenge", 403, problem("unauthorized"))
    with pytest.raises(Refused, match="unauthorized"):
        await orderer.obtain(MemoryJournal())

    assert 1 == len(ca.posts("/challenge"))


async def test_what_the_solver_presents_is_the_token_with_our_key_s_thumbprint(ca, client, orderer):
    seen = {}

    class Keeping(Tokens):
        async def put(self, token, key_authorization, *, ttl_s):
            seen[token] = key_authorization

    orderer.tokens = Keeping()
    await orderer.obtain(MemoryJournal())

    token, _, thumbprint = seen[ca.token].partition(".")
    assert token == ca.token
    assert len(thumbprint) == 43
    assert ca.posts("/challenge")[0].payload == {}


@pytest.mark.parametrize(
    "token", ["../x", "../" * 12, "t" * 21, "t" * 257, "t" * 42 + "\n", "t" * 42 + "é", None, 7]
)
async def test_a_token_that_is_not_base64url_is_never_used(ca, orderer, token):
    ca.token = token
    with pytest.raises(Unsolvable, match="no http-01 challenge"):
        await orderer.obtain(MemoryJournal())

    assert orderer.tokens == {}


@pytest.mark.parametrize("names", [["evil.example.com"], ["www.example.com", "evil.example.com"], []])
async def test_an_order_for_other_names_than_asked_is_abandoned(ca, orderer, names):
    ca.order["identifiers"] = [{"type": "dns", "value": name} for name in names]
    with pytest.raises(OrderFailed, match=r"not for www\.example\.com"):
        await orderer.obtain(MemoryJournal())

    assert ca.posts("/challenge") == []


async def test_an_order_for_an_address_beside_the_names_is_abandoned(ca, orderer):
    ca.order["identifiers"] = [{"type": "dns", "value": NAMES[0]}, {"type": "ip", "value": "127.0.0.1"}]
    with pytest.raises(OrderFailed):
        await orderer.obtain(MemoryJournal())


async def test_a_name_that_the_ca_still_believes_is_not_proved_again(ca, orderer):
    """An order may come back ready, its authorizations reused."""
    ca.order["status"] = "ready"
    got = await orderer.obtain(MemoryJournal())

    assert got.names == tuple(NAMES)
    assert ca.posts("/authorization") == ca.posts("/challenge") == []


@pytest.mark.parametrize("status", ["expired", "revoked", "deactivated", "invalid"])
async def test_a_dead_authorization_fails_the_order_with_its_name(ca, orderer, status):
    ca.authorization["status"] = status
    with pytest.raises(OrderFailed, match=f"www.example.com: the authorization is {status}"):
        await orderer.obtain(MemoryJournal())


async def test_a_challenge_left_pending_with_an_error_is_answered_three_times(ca, orderer):
    ca.validates = False
    ca.challenge["error"] = {"type": "urn:ietf:params:acme:error:connection", "detail": "refused"}
    with pytest.raises(OrderFailed, match=r"www\.example\.com: refused") as failure:
        await orderer.obtain(MemoryJournal())

    assert len(ca.posts("/challenge")) == 3
    assert failure.value.actor is Actor.OWNER
    assert orderer.tokens == {}


async def test_it_is_answered_again_when_the_ca_says(ca, orderer, slept):
    ca.validates = False
    ca.challenge["error"] = {"type": "urn:ietf:params:acme:error:connection", "detail": "refused"}
    ca.names = NAMES
    shown = json.dumps(ca._authorization())
    ca.next("/authorization", 200, shown)
    ca.next("/authorization", 200, shown, Retry_After="7")
    with pytest.raises(OrderFailed):
        await orderer.obtain(MemoryJournal())

    assert 7 == slept[0]


async def test_an_error_while_processing_is_the_ca_s_own_retry(ca, orderer):
    """Section 8.2: the server may try again by itself, and tells what went wrong so far."""
    ca.validates = False
    ca.challenge |= {"status": "processing", "error": {"detail": "not yet"}}
    steps = orderer.steps

    async def mend():
        while len(ca.posts("/authorization")) < 4:
            await asyncio.sleep(0)
        ca.authorization["status"] = "valid"
        ca.order["status"] = "ready"

    async with asyncio.TaskGroup() as group:
        group.create_task(mend())
        await orderer.obtain(MemoryJournal())

    assert [name for name, _ in steps].count("challenge.answered") == 1


async def test_an_order_not_ready_after_all_is_read_again_and_finalized_once_more(ca, orderer):
    ca.next("/finalize", 403, problem("orderNotReady"))
    got = await orderer.obtain(MemoryJournal())

    paths = [r.path for r in ca.requests]
    first = paths.index("/finalize")
    assert paths[first + 1 : first + 3] == ["/order", "/finalize"]
    assert got.names == tuple(NAMES)


@pytest.mark.parametrize(("status", "code"), [(403, "orderNotReady"), (500, "serverInternal")])
async def test_an_order_that_is_ready_and_never_finalized_is_left_for_later(ca, orderer, status, code):
    for _ in range(9):
        ca.next("/finalize", status, problem(code))
    with pytest.raises(Refused) as refusal:
        await orderer.obtain(MemoryJournal())

    assert 3 == len(ca.posts("/finalize"))
    assert refusal.value.retryable


async def test_a_finalize_whose_outcome_is_unknown_is_not_repeated_unless_the_order_says_ready(ca, orderer):
    """A 500, and the CA had issued all the same: the order says "valid"."""

    class Issuing(MemoryJournal):
        async def finalizing(self):
            await super().finalizing()
            ca.next("/finalize", 500)
            ca._issue(keys.csr(orderer.key, NAMES))
            ca.order["status"] = "valid"

    journal = Issuing()
    got = await orderer.obtain(journal)

    assert len(ca.posts("/finalize")) == 1
    assert journal.steps == ["ordered", "finalizing", "issued"]
    assert got.names == tuple(NAMES)


async def test_a_refused_signing_request_is_final(ca, orderer):
    ca.next("/finalize", 403, problem("badCSR"))
    with pytest.raises(Refused) as refusal:
        await orderer.obtain(MemoryJournal())

    assert not refusal.value.retryable


@pytest.mark.parametrize("step", ["ordered", "finalizing", "issued"])
async def test_a_crash_after_any_step_is_resumed_without_a_second_order(ca, orderer, step):
    crashed = MemoryJournal(crash_after=step)
    with pytest.raises(Crash):
        await orderer.obtain(crashed)
    await orderer.obtain(MemoryJournal(), order_url=crashed.order_url)

    assert ca.orders == 1
    assert len(ca.posts("/finalize")) == 1


async def test_a_processing_order_is_waited_for(ca, orderer, slept):
    ca.names, ca.order = NAMES, {"status": "processing"}
    ca._issue(keys.csr(orderer.key, NAMES))

    async def finish():
        while len(ca.posts("/order")) < 3:
            await asyncio.sleep(0)
        ca.order["status"] = "valid"

    async with asyncio.TaskGroup() as group:
        group.create_task(finish())
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert slept[:3] == [SOONEST_S, *NEXT_S[:2]]
    assert ca.posts("/finalize") == []


async def test_an_order_that_takes_longer_than_we_have_is_parked_at_once(ca, orderer, slept):
    """Processing may last days: nothing sits and waits for it, and the error says when to come back."""
    ca.names, ca.order = NAMES, {"status": "processing"}
    ca.next("/order", 200, json.dumps(ca._order()), Retry_After="86400")
    with pytest.raises(Unfinished) as parked:
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert parked.value.order_url == ca.order_url
    assert parked.value.retry_after == timedelta(days=1)
    assert parked.value.retryable
    assert slept == []


async def test_the_deadline_ends_a_wait_and_keeps_the_order(ca, client):
    client.sleep = asyncio.sleep
    orderer = Orderer(client, NAMES, Tokens())
    ca.validates = False
    journal = MemoryJournal()
    with pytest.raises(Unfinished, match="is pending") as parked:
        await orderer.obtain(journal, deadline_s=0.4)

    assert parked.value.order_url == journal.order_url
    assert orderer.tokens == {}, "and takes its tokens away"


async def test_a_timeout_of_the_journal_s_own_is_not_taken_for_ours(orderer):
    class Slow(MemoryJournal):
        async def ordered(self, order_url):
            raise TimeoutError("the database")

    with pytest.raises(TimeoutError, match="the database"):
        await orderer.obtain(Slow())


async def test_an_unknown_state_is_waited_for(ca, orderer):
    ca.names, ca.order = NAMES, {"status": "pondering"}
    ca._issue(keys.csr(orderer.key, NAMES))
    with pytest.raises(Unfinished, match="pondering"):
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url, deadline_s=0.2)


async def test_an_invalid_order_says_why_in_every_name_s_words(ca, orderer):
    ca.names = NAMES
    ca.order = {
        "status": "invalid",
        "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids"},
    }
    ca.authorization["status"] = "invalid"
    ca.challenge["error"] = {"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN"}
    with pytest.raises(OrderFailed) as failure:
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert str(failure.value) == "the order is invalid: www.example.com: NXDOMAIN (dns); CAA forbids (caa)"
    assert failure.value.order_url == ca.order_url


@pytest.mark.parametrize("status", [404, 403, 410])
async def test_an_order_that_is_gone_has_failed(ca, orderer, status):
    ca.next("/order", status, problem("malformed"))
    with pytest.raises(OrderFailed, match="does not have the order"):
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)


@pytest.mark.parametrize("url", ["https://former.example/order/1", "", "order/1", "https://[", "{ca}x/order"])
async def test_an_order_of_another_ca_has_failed_and_nobody_is_asked_for_it(ca, orderer, url):
    with pytest.raises(OrderFailed, match="is not an order of this CA") as failure:
        await orderer.obtain(MemoryJournal(), order_url=url.format(ca=ca.url))

    assert failure.value.retryable
    assert [] == ca.requests


@pytest.mark.parametrize("code", ["accountDoesNotExist", "userActionRequired"])
async def test_what_is_wrong_with_the_account_does_not_kill_the_order(ca, orderer, code):
    ca.next("/order", 400, problem(code))
    with pytest.raises(Refused) as refusal:
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert refusal.value.problem.code == code


async def test_a_certificate_for_another_key_is_refused(ca, orderer):
    ca.chain = pki.authority().issue(NAMES).chain_pem
    with pytest.raises(ChainError) as refusal:
        await orderer.obtain(MemoryJournal())

    assert refusal.value.rule == "key"


async def test_a_valid_order_without_a_certificate_is_a_bad_reply(ca, orderer):
    ca.names, ca.order = NAMES, {"status": "valid", "certificate": None}
    with pytest.raises(BadReply, match="names no certificate"):
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)


async def test_a_wildcard_is_refused_before_anything_is_sent(ca, client):
    with pytest.raises(Unsolvable, match="wildcard"):
        await Orderer(client, ["*.example.com"], Tokens()).obtain(MemoryJournal())

    assert ca.requests == []


@pytest.mark.parametrize("names", [[], ["fe80::1%eth0"], ["a_b.example"]])
async def test_names_that_no_ca_could_certify_are_refused_before_anything_is_sent(ca, client, names):
    with pytest.raises(BadIdentifier):
        await obtain(client, names=names, csr=b"", solver=None, journal=MemoryJournal())

    assert ca.requests == []


@pytest.mark.parametrize(
    ("csr", "why"),
    [
        (b"", "cannot be read as DER"),
        (PEM_CSR, "cannot be read as DER"),
        (keys.csr(KEY, ["other.example.com"]), "is for other.example.com, the order for www.example.com"),
        (
            keys.csr(KEY, [*NAMES, "other.example.com"]),
            "is for other.example.com, www.example.com, the order",
        ),
        (keys.csr(KEY, []), "is for no name, the order for www.example.com"),
    ],
)
async def test_a_signing_request_that_would_be_refused_in_the_end_is_so_before_anything_is_sent(
    ca, client, csr, why
):
    solver = Http01Solver(Tokens())
    with pytest.raises(BadSigningRequest, match=re.escape(why)):
        await obtain(client, names=NAMES, csr=csr, solver=solver, journal=MemoryJournal())

    assert ca.requests == []


async def test_more_names_than_a_certificate_has_are_refused_before_anything_is_sent(ca, client):
    """Some CAs take any number of them, and then the order could not be read."""
    names = [f"{n}.example.com" for n in range(101)]
    with pytest.raises(BadIdentifier, match="one of 101 names"):
        await Orderer(client, names, Tokens()).obtain(MemoryJournal())

    assert ca.requests == []


async def test_a_solver_that_fails_loses_no_token(ca, orderer):
    """What was presented is taken away, whatever happened in between, and the error is the solver's own."""

    class Broken(Tokens):
        async def put(self, token, key_authorization, *, ttl_s):
            await super().put(token, key_authorization, ttl_s=ttl_s)
            raise OSError("no store")

    orderer.tokens = Broken()
    with pytest.raises(OSError, match="no store"):
        await orderer.obtain(MemoryJournal())

    assert orderer.tokens == {}


async def test_a_failing_cleanup_is_told_and_decides_nothing(orderer):
    class Sticky(Tokens):
        async def delete(self, token):
            raise OSError("no store")

    orderer.tokens = Sticky()
    await orderer.obtain(MemoryJournal())

    assert ("challenge.left", {"identifier": "www.example.com", "error": "no store"}) in orderer.steps


@pytest.mark.parametrize("names", [NAMES, [*NAMES, "b.example.com"]])
async def test_who_is_stopped_while_answers_are_taken_away_takes_them_away_first(ca, client, names):
    """A slow DNS provider's record would stay: the order that goes on has nothing more to prove."""
    asked, gone = asyncio.Event(), asyncio.Event()

    class Slow(Tokens):
        async def delete(self, token):
            asked.set()
            await gone.wait()
            await super().delete(token)

    orderer = Orderer(client, names, Slow())
    order = asyncio.create_task(orderer.obtain(MemoryJournal()))
    await asked.wait()
    order.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    gone.set()
    with pytest.raises(asyncio.CancelledError):
        await order

    assert orderer.tokens == {}


async def test_who_is_stopped_while_answers_are_taken_away_does_not_wait_for_what_hangs(
    ca, client, monkeypatch
):
    monkeypatch.setattr(issue, "STOPPED_CLEANUP_S", 0.01)
    asked = asyncio.Event()

    class Hanging(Tokens):
        async def delete(self, _token):
            asked.set()
            await asyncio.Event().wait()

    orderer = Orderer(client, NAMES, Hanging())
    order = asyncio.create_task(orderer.obtain(MemoryJournal()))
    await asked.wait()
    order.cancel()
    with pytest.raises(asyncio.CancelledError):
        await order

    assert ("challenge.left", {"identifier": NAMES[0], "error": "no time was left"}) == orderer.steps[-1]


async def test_without_an_account_nothing_is_ordered(ca, client, orderer):
    client.account_url = None
    with pytest.raises(errors.Misconfigured, match="no account"):
        await orderer.obtain(MemoryJournal())


async def test_an_rsa_key_is_certified_too(ca, client):
    orderer = Orderer(client, NAMES, Tokens())
    orderer.key = keys.generate(KeyType.RSA_2048)
    got = await orderer.obtain(MemoryJournal())

    assert got.spki_sha256 == keys.spki_sha256(orderer.key.public_key())


@pytest.mark.parametrize(
    "states", [["processing", "pondering"], ["processing", "musing", "pending", "p", "q"]]
)
async def test_a_ca_that_changes_its_mind_is_not_asked_more_often_for_it(ca, orderer, slept, states):
    """Each state is new only once: going to and fro would have us ask at full speed until the time is up."""
    ca.names, ca.order, ca.authorization = NAMES, {"status": "processing"}, {"status": "valid"}
    ca._issue(keys.csr(orderer.key, NAMES))
    for n in range(20):
        ca.next("/order", 200, json.dumps(ca._order() | {"status": states[n % len(states)]}))
    ca.order["status"] = "valid"
    await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert 20 == len(slept)
    assert [5.0] * 10 == slept[10:]


@pytest.mark.parametrize("status", ["ready", "pending"])
async def test_a_ca_that_finalizes_and_says_it_has_not_is_not_asked_at_full_speed(ca, orderer, slept, status):
    ca.names, ca.order, ca.authorization = NAMES, {"status": "ready"}, {"status": "valid"}
    for _ in range(MAX_FINALIZES):
        ca.next("/finalize", 200, json.dumps(ca._order() | {"status": status}))
    with pytest.raises(Unfinished) as parked:
        await orderer.obtain(MemoryJournal(), order_url=ca.order_url)

    assert ca.order_url == parked.value.order_url
    assert MAX_FINALIZES == len(ca.posts("/finalize"))
    assert [SOONEST_S, NEXT_S[0]] == slept
