"""Configuration for Traefik's HTTP provider: every granted pair, or no answer, which takes nothing away."""

import asyncio
import ssl
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from sds_server.admin import traefik
from sds_server.errors import Unavailable
from sds_server.identity import Grant
from sds_server.inventory import declarations, secrets, targets
from sds_server.model import TargetKind
from sds_server.xds.catalog import PENDING
from tests.admin.test_bundles import EDGE, OTHER, opened, rotate
from tests.support.admin import HOST, serving
from tests.support.pages import DOCS, blocks, section

CONFIGURATION = "/v1/traefik"
GRANTS = [Grant(EDGE, ("www", "later", "nowhere", "team/*", "*.example.test")), Grant(OTHER, ("elsewhere",))]


@pytest.fixture
async def door(database, issuances, tmp_path):
    async with opened(database, issuances, tmp_path, grants=GRANTS) as running:
        yield running


def leaves(answer):
    """The SHA-256 of each leaf, after its key was held against it."""
    found = []
    for pair in answer.json["tls"]["certificates"]:
        leaf = x509.load_pem_x509_certificate(pair["certFile"].encode())
        key = serialization.load_pem_private_key(pair["keyFile"].encode(), None)
        assert leaf.public_key() == key.public_key()
        found.append(leaf.fingerprint(hashes.SHA256()).hex())
    return found


async def test_all_that_is_granted_by_name_or_pattern_and_is_issued_comes_in_one_answer(door, issuances):
    names = ["team/a", "web.example.test", "www"]
    issued = {name: await issuances.issue(await issuances.declare(name)) for name in names}
    await issuances.declare("later")  # nothing is issued of it yet

    got = await door.get(CONFIGURATION)

    assert [issued[name].fingerprint for name in names] == leaves(got)
    assert "no-store" == got.headers["Cache-Control"]


async def test_a_chain_whose_key_its_target_keeps_is_not_in_it(database, issuances, tmp_path):
    for name in ("www", "later"):
        await issuances.issue(await issuances.declare(name))
    async with opened(database, issuances, tmp_path) as door:
        both = leaves(await door.get(CONFIGURATION))
        door.catalog.publish({"later": replace(door.catalog.look("later"), keyless=True)})
        one = leaves(await door.get(CONFIGURATION))

    assert (2, 1) == (len(both), len(one))


async def test_what_is_not_granted_is_not_in_it(door, issuances):
    for name in ("www", "elsewhere", "steam/a", "web.example.test.evil"):
        await issuances.issue(await issuances.declare(name))

    assert 1 == len(leaves(await door.get(CONFIGURATION)))
    assert 1 == len(leaves(await door.get(CONFIGURATION, pair=door.other)))


async def test_a_name_that_cannot_be_loaded_keeps_the_whole_answer_back(database, issuances, tmp_path):
    """Traefik would drop the certificate that it has."""
    grants = [Grant(EDGE, ("www", "later"))]
    async with opened(database, issuances, tmp_path, grants=grants, loads=False) as door:
        door.catalog.publish({"www": PENDING})
        asked = asyncio.create_task(door.get(CONFIGURATION))
        await door.waiting()
        door.clock.turn(timedelta(seconds=traefik.LOAD_S))
        got = await asked

    assert 503 == got.status
    assert "1 of 2" in got.json["detail"]
    assert "later" in got.json["detail"]
    assert "Retry-After" in got.headers


async def test_names_that_a_pattern_grants_cannot_be_listed_without_the_database(
    door, issuances, monkeypatch
):
    await issuances.issue(await issuances.declare("www"))

    async def cut(*_arguments, **_more):
        raise Unavailable("database: cut off")

    monkeypatch.setattr(secrets, "matching", cut)

    assert 503 == (await door.get(CONFIGURATION)).status


async def test_names_that_are_granted_one_by_one_need_no_database(database, issuances, tmp_path, monkeypatch):
    await issuances.issue(await issuances.declare("www"))
    async with opened(database, issuances, tmp_path) as door:
        await door.get(CONFIGURATION)
        monkeypatch.setattr(secrets, "matching", None)
        door.database.cut()

        assert 200 == (await door.get(CONFIGURATION)).status


async def test_there_is_never_an_empty_answer(door, issuances):
    await issuances.declare("www")

    nothing_yet = await door.get(CONFIGURATION)
    stranger = await door.get(CONFIGURATION, pair=door.api.clients.issue(uris=["spiffe://example.test/no"]))

    assert 404 == nothing_yet.status
    assert "nothing is issued" in nothing_yet.json["detail"]
    assert 404 == stranger.status
    assert "granted no name" in stranger.json["detail"]


async def test_a_deleted_secret_is_not_in_the_next_answer(door, database, issuances):
    await issuances.issue(await issuances.declare("www"))
    await issuances.issue(await issuances.declare("later"))
    await declarations.remove(database, "later", actor="person:test")

    assert 1 == len(leaves(await door.get(CONFIGURATION)))


async def test_its_validator_changes_with_any_of_the_pairs_and_only_then(door, issuances):
    declared = await issuances.declare("www")
    await issuances.issue(declared)
    await issuances.issue(await issuances.declare("later"))
    etag = (await door.get(CONFIGURATION)).headers["ETag"]

    again = await door.get(CONFIGURATION, If_None_Match=etag)
    await rotate(issuances, declared)
    door.publishing.wake()

    assert (304, b"") == (again.status, again.raw)
    async with asyncio.timeout(10):
        while (got := await door.get(CONFIGURATION, If_None_Match=etag)).status == 304:
            pass
    assert 2 == len(leaves(got))


async def test_who_polls_is_a_target_of_each_name_and_what_it_was_sent_is_known(door, database, issuances):
    await issuances.issue(await issuances.declare("www"))
    await issuances.issue(await issuances.declare("team/a"))

    await door.get(f"{CONFIGURATION}?target=web-1")
    await door.recorder.step()

    for name in ("www", "team/a"):
        (live,) = await targets.live_set(database, name)
        assert (TargetKind.TRAEFIK, "web-1", 1) == (live.target.kind, live.target.node_id, live.sent)


async def test_neither_a_token_nor_a_local_user_gets_private_keys(door, issuances):
    await issuances.issue(await issuances.declare("www"))

    assert 401 == (await door.api.remote("GET", CONFIGURATION)).status
    assert 403 == (await door.api.local("GET", CONFIGURATION)).status


async def test_more_names_than_an_answer_holds_are_refused_with_what_to_do(door, issuances, monkeypatch):
    monkeypatch.setattr(traefik, "MAX_NAMES", 3)
    for name in ("team/a", "team/b"):
        await issuances.declare(name)

    got = await door.get(CONFIGURATION)

    assert 403 == got.status
    assert "identity of its own" in got.json["hint"]


async def test_the_ca_that_traefik_is_to_trust_is_had_as_the_page_says(database, tmp_path):
    """The page's command, beside a certvoy whose certificate is of its own CA."""
    block, _ = blocks(section(DOCS / "targets" / "traefik.md", "Without an agent: the HTTP provider"), "sh")
    async with serving(database, tmp_path, own_ca=True) as api:
        words = block.replace("state/admin.sock", str(api.socket))
        process = await asyncio.create_subprocess_exec("sh", "-c", words, cwd=tmp_path)
        code = await process.wait()
        context = ssl.create_default_context(cafile=tmp_path / "certvoy-ca.pem")
        _, writer = await asyncio.open_connection(HOST, api.ports.api, ssl=context)
        writer.close()

    assert 0 == code
