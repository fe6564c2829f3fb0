"""Requests to a CA come no faster than it wants them."""

import asyncio
from contextlib import suppress

from acme_engine import Client, KeyType, keys
from acme_engine.errors import AcmeError
from acme_engine.messages import RevocationReason
from acme_engine.pace import Pace


async def test_turns_are_given_in_order_and_apart():
    slept = []

    async def sleep(seconds):
        slept.append(round(seconds, 3))

    pace = Pace(4, clock=lambda: 100.0, sleep=sleep)
    await asyncio.gather(*(pace.turn() for _ in range(3)))

    assert [0.25, 0.5] == slept


async def test_what_was_not_used_is_not_saved_up():
    now, slept = [100.0], []

    async def sleep(seconds):
        slept.append(seconds)

    pace = Pace(4, clock=lambda: now[0], sleep=sleep)
    await pace.turn()
    now[0] += 60
    await pace.turn()
    await pace.turn()

    assert [0.25] == slept


async def test_a_resource_of_its_own_rate_holds_up_nobody_else():
    slept = []

    async def sleep(seconds):
        slept.append(round(seconds, 3))

    pace = Pace(4, of={"revokeCert": 1}, clock=lambda: 100.0, sleep=sleep)
    for resource in ("revokeCert", "revokeCert", "newOrder", None):
        await pace.turn(resource)

    assert [1.0, 0.5, 0.75] == slept


async def test_a_client_says_which_resource_it_asks(ca):
    asked = []

    class Listening(Pace):
        async def turn(self, resource=None):
            asked.append(resource)

    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(ca.directory_url, account_key=key, allow_http=True, pace=Listening(4)) as client:
        await client.register(terms_agreed=True)
        await client.new_order(["www.example.test"])
        client._transport._nonces.clear()
        with suppress(AcmeError):
            await client.revoke(b"", reason=RevocationReason.UNSPECIFIED)

    assert [None, "newAccount", "newOrder", "newNonce", "revokeCert"] == asked


async def test_each_sending_of_a_client_waits_for_its_turn(ca):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    pace = Pace(4, clock=lambda: 100.0, sleep=sleep)
    key = keys.generate(KeyType.ECDSA_P256)
    async with Client(
        ca.directory_url,
        account_key=key,
        account_url=f"{ca.url}/account/1",
        allow_http=True,
        pace=pace,
    ) as client:
        await client.new_order(["www.example.test"])

    assert [0.25] == slept  # the order, after the directory
