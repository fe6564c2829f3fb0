"""Whom CAA keeps out of those that a Secret falls back on: looked at by one replica, soon, and daily."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from acme_engine.errors import Unreachable
from acme_engine.preflight import Finding, Verdict
from sds_server.inventory import declarations, fallback_looks
from sds_server.inventory.fallback_looks import Forbidden
from sds_server.lifecycle import fallback_looks as looks
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.fallback_looks import FallbackLooks
from tests.support.databases import turn_clock
from tests.support.issuances import secret

NAMES = ("www.example.test", "shop.example.test")
FIX = 'add example.test. CAA 0 issue "second.example"'


class Even:
    """No spread."""

    def uniform(self, low, high):
        return 1.0


class Dns:
    """What a look at a name and a CA shows: see tests/integration/test_doctor.py for a real zone."""

    def __init__(self):
        self.says = {}
        self.asked = []

    async def look(self, name, ca):
        self.asked.append((name, ca.name))
        said = self.says.get(ca.name, Verdict.OK)
        if isinstance(said, Exception):
            raise said
        return Finding(f"caa of {ca.name}", said, "example.test: other.example alone", FIX)


@pytest.fixture
def dns(monkeypatch):
    dns = Dns()
    monkeypatch.setattr(looks, "behind_first", dns.look)
    return dns


@pytest.fixture
def make(database):
    def make():
        issuers = {
            name: Issuer(name, f"https://{name}.test/dir", Path("ca"), (), (), True, None)
            for name in ("internal", "second", "third")
        }
        return FallbackLooks(database=database, issuers=issuers, rng=Even())

    return make


@pytest.fixture
async def declared(database):
    wanted = replace(secret(domains=NAMES), fallback=("second", "third", "gone"))
    await declarations.put(database, wanted, actor="person:test")
    return wanted


async def again_in(sql):
    return await sql.fetchval("SELECT look_at - certvoy_now() FROM fallback_look")


async def test_each_name_is_looked_at_for_each_that_is_fallen_back_on_and_not_again_for_a_day(
    dns, make, declared, sql
):
    await make().step()
    await make().step()

    assert {(name, ca) for name in NAMES for ca in ("second", "third")} == set(dns.asked)
    assert 4 == len(dns.asked)
    assert timedelta(hours=23) < await again_in(sql) <= timedelta(hours=24)


async def test_whom_caa_keeps_out_is_kept_and_told_once_until_it_is_mended(
    dns, make, declared, database, sql
):
    dns.says["second"] = Verdict.FAILED
    with capture_logs() as logs:
        await make().step()
        soon = await again_in(sql)
        found = await fallback_looks.of(database, "www")
        await turn_clock(sql, timedelta(hours=1))
        await make().step()
    dns.says.clear()
    await turn_clock(sql, timedelta(hours=3))
    await make().step()

    seen = "example.test: other.example alone"
    assert [Forbidden("second", name, seen, FIX) for name in NAMES] == found
    assert timedelta(minutes=59) < soon <= timedelta(hours=1)
    assert [("fallback.forbidden", "second")] * 2 == [(line["event"], line["issuer"]) for line in logs]
    assert [] == await fallback_looks.of(database, "www")


async def test_what_a_warning_says_keeps_nobody_out(dns, make, declared, database):
    """A CA that is away says nothing of CAA, and one of one's own may ignore it."""
    dns.says["second"] = Verdict.WARNING
    await make().step()

    assert [] == await fallback_looks.of(database, "www")


async def test_a_look_that_fails_changes_nothing_of_what_is_known(dns, make, declared, database, sql):
    dns.says["second"] = Verdict.FAILED
    await make().step()
    before = await fallback_looks.of(database, "www")
    dns.says["second"] = Unreachable("no answer")
    await turn_clock(sql, timedelta(hours=1))
    await make().step()

    assert 2 == len(before)
    assert before == await fallback_looks.of(database, "www")


async def test_a_look_without_end_is_given_up(dns, make, declared, monkeypatch, sql):
    monkeypatch.setattr(looks, "WITHIN_S", 0.01)
    dns.says["second"] = TimeoutError()
    await make().step()

    assert timedelta(minutes=59) < await again_in(sql) <= timedelta(hours=1)


async def test_who_falls_back_on_nobody_is_looked_at_no_more(declared, database, sql):
    await declarations.put(database, replace(declared, fallback=()), actor="person:test")

    assert 0 == await sql.fetchval("SELECT count(*) FROM fallback_look")


async def test_who_is_removed_is_looked_at_no_more(declared, database, sql):
    await declarations.remove(database, declared.name, actor="person:test")

    assert 0 == await sql.fetchval("SELECT count(*) FROM fallback_look")


async def test_another_one_to_fall_back_on_is_looked_at_at_once(dns, make, declared, database):
    await make().step()
    await declarations.put(database, replace(declared, fallback=("third",)), actor="person:test")
    dns.asked.clear()
    await make().step()

    assert {(name, "third") for name in NAMES} == set(dns.asked)
