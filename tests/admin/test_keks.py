"""Which KEKs are in use, and keys rewrapped, over the API and by command."""

import pytest

from sds_server.cli.kms import _meaning
from sds_server.model import Scope


async def test_keks_are_counted(api, issuances):
    await issuances.issue(await issuances.declare())

    reply = await api.local("GET", "/v1/kms")
    (kek,) = reply.json["items"]

    assert (200, 0, 1, None) == (
        reply.status,
        reply.json["behind"],
        reply.json["kek_version"],
        reply.json["error"],
    )
    assert (issuances.sealer.kek_uri, 1, True, True) == (
        kek["kek_uri"],
        kek["keys"],
        kek["current"],
        kek["opens"],
    )


async def test_a_batch_is_rewrapped_and_says_whether_there_is_more(api, issuances):
    await issuances.issue(await issuances.declare())

    idle = await api.local("POST", "/v1/kms/rewrap", json={})
    every = await api.local("POST", "/v1/kms/rewrap", json={"all": True})

    assert {"rewrapped": 0, "passed_over": 0, "refused": [], "after": None} == idle.json
    assert {"rewrapped": 1, "passed_over": 0, "refused": [], "after": None} == every.json


async def test_who_may_only_read_rewraps_nothing(api):
    token = await api.token(Scope.READ)

    assert 200 == (await api.remote("GET", "/v1/kms", token=token)).status
    assert 403 == (await api.remote("POST", "/v1/kms/rewrap", token=token, json={})).status


@pytest.mark.parametrize("body", [{"after": "x"}, {"all": "maybe"}, {"limit": 1}])
async def test_a_batch_that_is_none_is_refused(api, body):
    assert 422 == (await api.local("POST", "/v1/kms/rewrap", json=body)).status


KEK = {"kek_uri": "local:a", "kek_version": 1, "keys": 0, "current": False, "opens": True}
KEK |= {"left_at": None, "needed_until": None}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"current": True, "keys": 3}, "wraps now"),
        ({"keys": 3, "opens": False}, "cannot be opened here: name it in kms.previous"),
        ({"keys": 3}, "behind: `certvoy kms rewrap`"),
        (
            {"left_at": "2026-01-02T03:04:05Z"},
            "may go, once no kept backup is from before 2026-01-02T03:04:05Z",
        ),
        (
            {"left_at": "2026-01-02T03:04:05Z", "needed_until": "2099-01-02T03:04:05Z"},
            "kept backups need it until 2099-01-02T03:04:05Z",
        ),
        (
            {"left_at": "2025-01-02T03:04:05Z", "needed_until": "2025-02-02T03:04:05Z"},
            "may go: no kept backup needs it",
        ),
        ({}, "wraps nothing: may go"),
    ],
)
def test_each_kek_is_told_with_what_may_be_done_about_it(more, said):
    assert said == _meaning(KEK | more)
