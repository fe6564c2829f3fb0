"""Looks: what a Target serves for each name, and what is not asked of whom."""

import asyncio
import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sds_server.inventory.voices import Wanted
from sds_server.lifecycle import looks
from sds_server.model import Target, TargetId, TargetKind
from sds_server.targets.probe import ProbeFailed
from sds_server.targets.verdict import UNLISTED
from tests.support.fakes import Listener
from tests.support.pki import authority

NOBODY = "127.0.0.1:1"


async def test_envoys_own_statement_is_not_asked_about_what_it_does_not_list():
    target = Target(TargetId(1), "edge-1", TargetKind.ENVOY, None, "edge-1", None, True, admin=NOBODY)
    told = []
    wanted = Wanted(["a.test"], 1, "ab", "cd", None, on_demand=True)
    look = await looks.look(target, wanted, told=told.append)

    assert (None, UNLISTED) == (look.by, look.error)
    assert ["unprobed"] == told


def at(address):
    return Target(TargetId(1), "edge-1", TargetKind.ENVOY, None, "edge-1", address, True)


@pytest.mark.parametrize("names", [["a.test", "b.test"], ["b.test", "a.test"]])
async def test_a_name_that_fails_does_not_hide_one_for_which_another_leaf_is_served(names, tmp_path):
    """Else what it serves were unknown, which takes no proof back and heals nobody."""
    other = authority().issue(["b.test"])
    told = []
    async with Listener(tmp_path) as listener:
        listener.serve(other, "b.test")
        look = await looks.look(at(listener.address), Wanted(names, 1, "ab", "cd", None), told=told.append)

    shown = hashlib.sha256(other.certificate.public_bytes(Encoding.DER)).hexdigest()
    assert (shown, ["different"]) == (look.served, told)
    assert f"serves {shown[:16]}... for b.test" in look.error


async def test_who_is_away_is_asked_for_the_other_names_for_a_while_only(monkeypatch):
    """A hundred names, and three seconds each, would keep others waiting."""
    monkeypatch.setattr(looks, "OTHERS_S", 0.01)
    asked, told = [], []

    async def silent(_address, name, **_more):
        asked.append(name)
        if len(asked) > 1:
            await asyncio.Event().wait()
        raise ProbeFailed(f"no answer for {name}")

    monkeypatch.setattr(looks, "served", silent)
    look = await looks.look(
        at("pool.test:1"), Wanted(["a.test", "b.test", "c.test"], 1, "ab", "cd", None), told=told.append
    )

    assert (["a.test", "b.test"], ["failed"]) == (asked, told)
    assert (None, "no answer for a.test") == (look.served, look.error)


async def test_an_address_where_nobody_answers_is_asked_for_one_name(monkeypatch):
    """A fleet that is away would take twice the time of all other looks."""
    asked = []

    async def silent(_address, name, **_more):
        asked.append(name)
        raise ProbeFailed(f"no answer for {name}")

    monkeypatch.setattr(looks, "served", silent)
    await looks.look(at(NOBODY), Wanted(["a.test", "b.test"], 1, "ab", "cd", None), told=[].append)

    assert ["a.test"] == asked


async def test_an_address_that_is_none_is_an_answer_and_not_a_crash():
    look = await looks.look(at("edge-1"), Wanted(["a.test", "b.test"], 1, "ab", "cd", None), told=[].append)

    assert "must be host:port" in look.error
