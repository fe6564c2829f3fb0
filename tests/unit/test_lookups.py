"""A resolver that hangs holds nobody up but who asks for that name."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest

from sds_server.lookups import Lookups, apart

UNTIL = 30.0
"""Generous: a machine may be busy."""


class Resolver:
    """As `socket.getaddrinfo`; what ends in ``.silent`` gets no answer until `speak`."""

    def __init__(self):
        self.asked = []
        self._spoken = threading.Event()

    def look(self, host, *rest):
        self.asked.append(host)
        if host.endswith(".silent"):
            self._spoken.wait(UNTIL)
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", rest[0]))]

    def speak(self):
        self._spoken.set()


@pytest.fixture
def resolver():
    resolver = Resolver()
    yield resolver
    resolver.speak()


@contextmanager
def looking(resolver, **more):
    with apart(Lookups(resolver.look, **more)):
        yield asyncio.get_running_loop()


async def test_other_names_and_other_work_go_on_while_a_resolver_hangs(resolver):
    """More questions than the loop's own executor has threads."""
    with looking(resolver) as loop:
        hanging = [asyncio.create_task(loop.getaddrinfo(f"{n}.silent", 443)) for n in range(40)]
        async with asyncio.timeout(UNTIL):
            while len(resolver.asked) < 40:
                await asyncio.sleep(0.01)
            found = await loop.getaddrinfo("www.example", 443)
            worked = await asyncio.to_thread(lambda: "worked")
        undecided = [task.done() for task in hanging]
        resolver.speak()
        await asyncio.gather(*hanging)

    assert ("192.0.2.1", 443) == found[0][4]
    assert "worked" == worked
    assert not any(undecided)


async def test_what_is_not_answered_in_time_is_an_error_that_says_so(resolver):
    with looking(resolver, within_s=0.05) as loop, pytest.raises(socket.gaierror, match="does not answer"):
        await loop.getaddrinfo("www.silent", 443)


async def test_the_same_question_is_asked_once(resolver):
    with looking(resolver) as loop:
        waiting = [asyncio.create_task(loop.getaddrinfo("www.silent", 443)) for _ in range(5)]
        await asyncio.sleep(0)
        resolver.speak()
        found = await asyncio.gather(*waiting)

    assert ["www.silent"] == resolver.asked
    assert 5 == len(found)


async def test_who_finds_no_thread_waits_for_one_and_no_longer_than_for_an_answer(resolver):
    with looking(resolver, within_s=0.05, at_once=1) as loop:
        for name in ("a.silent", "b.silent"):
            with pytest.raises(socket.gaierror, match="does not answer"):
                await loop.getaddrinfo(name, 443)
        asked = list(resolver.asked)
        resolver.speak()
        async with asyncio.timeout(UNTIL):
            while not await _answered(loop):
                await asyncio.sleep(0.01)

    assert ["a.silent"] == asked


async def _answered(loop):
    try:
        await loop.getaddrinfo("www.example", 443)
    except socket.gaierror:
        return False
    return True


async def test_an_address_is_no_question(resolver):
    resolver.speak()
    with looking(resolver, at_once=0) as loop:
        assert ("192.0.2.1", 443) == (await loop.getaddrinfo("192.0.2.7", 443))[0][4]


async def test_a_name_that_there_is_not_is_told_as_ever(resolver):
    with looking(resolver) as loop, pytest.raises(socket.gaierror) as told:
        await loop.getaddrinfo("unknown.example", 443)

    assert socket.EAI_NONAME == told.value.errno


async def test_a_connection_by_name_asks_so_and_the_loop_is_given_back(resolver):
    """What libraries call in the end: `create_connection`."""
    with looking(resolver, within_s=0.05) as loop, pytest.raises(OSError, match="does not answer"):
        await asyncio.open_connection("www.silent", 443)
    assert "getaddrinfo" not in loop.__dict__
