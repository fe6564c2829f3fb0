"""The seal of a replica over the API: put, told of, broken."""

import pytest

SEAL = "/v1/seal"


async def test_a_replica_says_whether_it_is_sealed_by_whom_and_why(api):
    before = await api.local("GET", SEAL)
    put = await api.local("PUT", SEAL, json={"reason": "a thief"})
    after = await api.local("GET", SEAL)

    assert {"sealed": False, "by": None, "at": None, "reason": None} == before.json
    assert (200, put.json) == (put.status, after.json)
    assert (True, "a thief") == (put.json["sealed"], put.json["reason"])
    assert put.json["by"].startswith("person:")


async def test_sealed_twice_it_stays_with_its_first_reason(api):
    await api.local("PUT", SEAL, json={"reason": "a thief"})

    assert "a thief" == (await api.local("PUT", SEAL, json={"reason": "another"})).json["reason"]


async def test_a_broken_seal_is_gone_and_breaking_none_changes_nothing(api):
    await api.local("PUT", SEAL, json={"reason": "a thief"})

    assert [204, 204] == [(await api.local("DELETE", SEAL)).status for _ in range(2)]
    assert (await api.local("GET", SEAL)).json["sealed"] is False


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 501, 5, None])
async def test_a_reason_is_a_line(api, reason):
    assert 422 == (await api.local("PUT", SEAL, json={"reason": reason})).status


async def test_of_each_secret_it_is_told_why_nothing_comes_of_it(api):
    wanted = {"domains": ["www.example.test"], "issuer": "internal"}
    before = (await api.local("PUT", "/v1/secrets/www", json=wanted)).json
    seal = (await api.local("PUT", SEAL, json={"reason": "a thief"})).json
    after = (await api.local("GET", "/v1/secrets/www")).json

    assert before["sealed"] is None
    assert f"by {seal['by']} at {seal['at']}: a thief" == after["sealed"]
