"""Certificates, issuers and the audit over the API: what was issued, and what was done."""

import base64
import json
from urllib.parse import quote

import pytest

from sds_server.inventory import roll_outs
from tests.support.roll_outs import confirm


async def fill(issuances, names):
    return [await issuances.issue(await issuances.declare(name, [f"{name}.example.test"])) for name in names]


async def test_certificates_are_listed_by_their_end_and_pages_miss_none(api, issuances):
    stored = await fill(issuances, ["a", "b", "c", "d", "e"])

    seen, cursor = [], ""
    while cursor is not None:
        page = await api.local("GET", f"/v1/certificates?limit=2{cursor and '&cursor=' + cursor}")
        seen += [item["id"] for item in page.json["items"]]
        cursor = page.json["next_cursor"]

    by_end = sorted(stored, key=lambda certificate: (certificate.not_after, certificate.id))
    assert [str(certificate.id) for certificate in by_end] == seen


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("secret=a", ["a"]),
        ("domain=b.example.test", ["b"]),
        ("status=issued", ["a", "b"]),
        ("status=revoked", []),
        ("issuer=internal", ["a", "b"]),
        ("expires_before=2020-01-01T00:00:00Z", []),
        ("fingerprint=" + "0" * 64, []),
    ],
)
async def test_certificates_are_found_by_what_is_known_of_them(api, issuances, query, found):
    await fill(issuances, ["a", "b"])

    reply = await api.local("GET", f"/v1/certificates?{query}")

    assert found == sorted(item["secret"] for item in reply.json["items"])


async def test_a_certificate_is_found_by_the_leaf_that_somebody_saw(api, issuances):
    _, stored = await fill(issuances, ["a", "b"])

    reply = await api.local("GET", f"/v1/certificates?fingerprint={stored.fingerprint}")

    assert [str(stored.id)] == [item["id"] for item in reply.json["items"]]


async def test_a_certificate_tells_its_history_and_shows_its_chain_and_no_key(api, issuances):
    (stored,) = await fill(issuances, ["a"])

    read = await api.local("GET", f"/v1/certificates/{stored.id}")
    chain = await api.local("GET", f"/v1/certificates/{stored.id}/chain")

    assert ("test", None, None) == tuple(
        read.json[key] for key in ("renew_reason", "replaced_at", "revoked_at")
    )
    assert stored.chain_pem == chain.raw
    assert "application/pem-certificate-chain" == chain.headers["Content-Type"]
    assert b"PRIVATE" not in read.raw + chain.raw


@pytest.mark.parametrize("number", ["x", "1", "00000000-0000-0000-0000-000000000000", "%00"])
async def test_an_id_that_no_certificate_has_is_not_found(api, number):
    assert (await api.local("GET", f"/v1/certificates/{number}")).status in {400, 404}


async def test_what_was_done_is_told_newest_first_with_who_did_it(api, issuances):
    await fill(issuances, ["a", "b"])
    await confirm(
        api.database, await roll_outs.get(api.database, "a"), proved=[], actor="person:alice", unobserved=True
    )

    by_alice = await api.local("GET", "/v1/audit?actor=person:alice&subject=a")
    issued = await api.local("GET", "/v1/audit?action=certificate.issued")
    everything = await api.local("GET", f"/v1/audit?since={quote('2020-01-01T00:00:00Z')}&limit=3")
    onward = await api.local("GET", f"/v1/audit?limit=3&cursor={everything.json['next_cursor']}")

    actions = [item["action"] for item in by_alice.json["items"]]
    assert ["rotation.completed_unobserved", "certificate.activated"] == actions
    assert ["b", "a"] == [item["subject"] for item in issued.json["items"]]
    assert {"rotation", "generation", "fingerprint"} <= issued.json["items"][0]["detail"].keys()
    ids = [item["id"] for item in everything.json["items"] + onward.json["items"]]
    assert sorted(ids, reverse=True) == ids
    assert 6 == len(set(ids))


async def test_the_issuers_that_can_be_named_are_listed(api):
    there = {"name": "internal", "directory": "https://internal.example.test/directory"}
    listed = (await api.local("GET", "/v1/issuers")).json["items"]

    assert there | {"account": None, "paused": None} in listed
    assert sorted(issuer["name"] for issuer in listed) == [issuer["name"] for issuer in listed]


@pytest.mark.parametrize("word", ["\x00", "\ud800"])
async def test_a_cursor_holds_nothing_that_the_database_cannot_say(api, word):
    cursor = base64.urlsafe_b64encode(json.dumps([word]).encode()).decode()

    assert 400 == (await api.local("GET", f"/v1/secrets?cursor={cursor}")).status
