"""Requests to a CA come no faster than it wants them."""

import asyncio

from acme_engine import Client, KeyType, keys
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
