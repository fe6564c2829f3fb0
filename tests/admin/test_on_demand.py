"""Secrets that came of a handshake, over the API and in words: which rule, for whom, and when they go."""

from datetime import timedelta

import pytest

from sds_server.conditions import on_demand as said
from sds_server.inventory import on_demand
from sds_server.on_demand.rules import Rule

EDGE = "spiffe://td/edge"
SHOPS = Rule("shops", "internal", suffix=".shops.test", keep=timedelta(days=30))


@pytest.fixture
async def asked(database):
    await on_demand.hold(database, ["shops"], lasts=timedelta(hours=1))
    await on_demand.create(
        database, "a.shops.test", SHOPS, identity=EDGE, node_id="edge-1", actor="replica:test"
    )


async def test_it_says_by_which_rule_it_came_and_for_whom(api, asked):
    secret = (await api.local("GET", "/v1/secrets/a.shops.test")).json

    assert ("on_demand", ["a.shops.test"], "initial") == (
        secret["managed_by"],
        secret["domains"],
        secret["rotation"]["reason"],
    )
    assert ("shops", EDGE, 30 * 86_400.0, True) == tuple(
        secret["on_demand"][key] for key in ("rule", "identity", "keep", "governed")
    )


async def test_a_list_names_the_rule_and_of_others_none(api, asked):
    await api.local("PUT", "/v1/secrets/www", json={"domains": ["www.test"], "issuer": "internal"})
    listed = (await api.local("GET", "/v1/secrets")).json["items"]

    assert {"a.shops.test": "shops", "www": None} == {one["name"]: one["on_demand"] for one in listed}
    assert (await api.local("GET", "/v1/secrets/www")).json["on_demand"] is None


async def test_who_declares_it_takes_it_over(api, asked):
    wanted = {"domains": ["a.shops.test"], "issuer": "internal"}
    secret = (await api.local("PUT", "/v1/secrets/a.shops.test", json=wanted)).json

    assert ("api", None) == (secret["managed_by"], secret["on_demand"])


async def test_it_is_deleted_as_any_other(api, asked, database):
    gone = await api.local("DELETE", "/v1/secrets/a.shops.test")

    assert 204 == gone.status
    assert await on_demand.asked(database, "a.shops.test") is None


def test_in_words_it_says_when_it_goes():
    asked = {"rule": "shops", "identity": EDGE, "keep": 30 * 86_400.0, "governed": True}

    assert f"by the rule shops, first for {EDGE}; removed once nobody has subscribed to it for 30 d" == said(
        asked
    )
    assert "this replica has no such rule" in said(asked | {"governed": False})
