"""Accounts and the directory (RFC 8555 sections 7.1.1 and 7.3)."""

import asyncio
import json

import pytest

from acme_engine import Client, Eab, KeyType, errors, keys
from acme_engine.hidden import Hidden
from tests.support.fake_ca import problem


async def test_the_directory_is_read_once_whoever_asks(ca, client):
    ca.next("/directory", 503, Retry_After="1")
    first, second = await asyncio.gather(client.directory(), client.directory())

    assert first is second


async def test_who_waits_for_a_directory_that_does_not_come_is_told_so_too(ca, client):
    """Eight orders that begin while a CA is away would ask it one after the other, each for minutes."""
    ca.next("/directory", 404, problem("notFound"))
    told = await asyncio.gather(*(client.directory() for _ in range(8)), return_exceptions=True)
    later = await client.directory()

    assert [errors.Refused] * 8 == [type(error) for error in told]
    assert later.new_order


async def test_who_gives_up_reading_the_directory_leaves_it_to_the_next(ca, client):
    first, second = (asyncio.ensure_future(client.directory()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()

    assert (await second).new_order


async def test_a_directory_that_is_not_where_its_url_says_is_told_as_that(ca, client):
    """The CA's words are about a resource; what has to be mended is a line of a configuration."""
    ca.next("/directory", 404, problem("notFound"))

    with pytest.raises(errors.Refused, match="it is notFound") as refused:
        await client.directory()
    assert "correct the path of the directory's URL" in refused.value.hint


async def test_a_client_that_lives_long_reads_the_directory_again(ca, client, monkeypatch):
    old = await client.directory()
    ca.directory = {"renewalInfo": f"{ca.url}/ari"}
    kept = await client.directory()
    monkeypatch.setattr("acme_engine.client.DIRECTORY_S", 0.0)
    new = await client.directory()

    assert old is kept
    assert (None, f"{ca.url}/ari") == (old.renewal_info, new.renewal_info)


@pytest.mark.parametrize("moved", ["newOrder", "newNonce"])
async def test_a_ca_that_has_moved_is_found_at_the_next_try(ca, client, moved):
    """Set up anew, it may have everything elsewhere: for five minutes all orders would fail."""
    ca.directory = {moved: f"{ca.url}/moved-away"}
    await client.directory()
    client._transport._nonces.clear()
    ca.directory = {}
    with pytest.raises(errors.Refused):
        await client.new_order(["www.example.com"])
    client._transport._nonces.clear()
    order = await client.new_order(["www.example.com"])

    assert "pending" == order.status


async def test_who_has_done_with_a_shared_client_cuts_off_nobody_else(ca, client):
    async with client:
        waiting = asyncio.ensure_future(client.new_order(["www.example.com"]))
        async with client:
            await client.directory()
        order = await waiting

    assert "pending" == order.status


async def test_a_client_is_used_again_after_its_end_and_remembers(ca):
    client = Client(ca.directory_url, account_key=keys.generate(KeyType.ECDSA_P256), allow_http=True)
    async with client:
        await client.register(terms_agreed=True)
    async with client:
        await client.new_order(["www.example.com"])

    assert 0 == ca.heads
    with pytest.raises(RuntimeError, match="async with"):
        await client.new_order(["www.example.com"])


async def test_terms_and_binding_are_wanted_before_anything_is_sent(ca, client):
    ca.directory = {"meta": {"termsOfService": "https://ca.example/t", "externalAccountRequired": True}}
    with pytest.raises(errors.TermsNotAgreed, match=r"https://ca\.example/t"):
        await client.register(terms_agreed=False, eab=Eab("k", Hidden("YWJj")))
    with pytest.raises(errors.BindingRequired):
        await client.register(terms_agreed=True)

    assert ca.requests == []


async def test_a_contact_that_is_one_text_is_not_sent_letter_by_letter(ca, client):
    with pytest.raises(errors.Misconfigured, match=r"'mailto:ops@example\.com' is one text"):
        await client.register(terms_agreed=True, contact="mailto:ops@example.com")
    with pytest.raises(errors.Misconfigured, match="is one text"):
        await client.update_contact("mailto:ops@example.com")

    assert ca.requests == []


async def test_terms_are_agreed_to_only_where_somebody_did(ca, client):
    await client.register(terms_agreed=False)
    await client.register(terms_agreed=True, contact=["mailto:ops@example.com"])

    without, agreed = (r.payload for r in ca.posts("/account"))
    assert without == {}
    assert agreed == {"termsOfServiceAgreed": True, "contact": ["mailto:ops@example.com"]}


async def test_a_new_account_and_a_known_one_are_both_fine(ca, client):
    """Section 7.3.1: 200 with a Location is an account that exists."""
    created = await client.register(terms_agreed=True)
    ca.next("/account", 200, json.dumps({"status": "valid"}), Location=f"{ca.url}/account/9")
    known = await client.find_account()

    assert created.created
    assert created.url == f"{ca.url}/account/1", "a relative Location is resolved"
    assert not known.created
    assert client.account_url == f"{ca.url}/account/9"
    assert "jwk" in ca.requests[0].protected


async def test_an_account_that_was_deactivated_is_unusable(ca, client):
    ca.next("/account", 200, json.dumps({"status": "deactivated"}), Location=f"{ca.url}/account/9")
    with pytest.raises(errors.AccountUnusable, match="deactivated"):
        await client.register(terms_agreed=True)


async def test_an_account_without_a_url_is_a_bad_reply(ca, client):
    ca.next("/account", 201, json.dumps({"status": "valid"}))
    with pytest.raises(errors.BadReply, match="Location"):
        await client.register(terms_agreed=True)


async def test_an_account_that_the_ca_forgot_is_to_be_registered_again(ca, client):
    ca.next("/new-order", 400, problem("accountDoesNotExist"))
    with pytest.raises(errors.Refused) as refusal:
        await client.new_order(["www.example.com"])

    assert refusal.value.problem.rule.action is errors.Action.REREGISTER


async def test_reading_is_a_post_with_an_empty_payload(ca, client):
    """Section 6.3: "the payload of the JWS is a zero-length octet string"."""
    ca.names, ca.order = ["www.example.com"], {"status": "ready"}
    await client.order(ca.order_url)

    assert json.loads(ca.requests[-1].raw)["payload"] == ""
    assert ca.requests[-1].protected["kid"] == f"{ca.url}/account/1"


async def test_outside_its_context_a_client_says_how_it_is_used(ca):
    outside = Client(ca.directory_url, account_key=keys.generate(KeyType.ECDSA_P256), allow_http=True)
    with pytest.raises(RuntimeError, match="async with"):
        await outside.directory()
