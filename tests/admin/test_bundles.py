"""Bundles over the API: chain and key, for who is granted the name and shows it by certificate alone."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from sds_server.errors import Unavailable
from sds_server.identity import Grant, Grants
from sds_server.inventory import rotations, targets
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.recorder import Recorder
from sds_server.model import Reason, Scope
from sds_server.xds.catalog import Catalog
from tests.support.admin import Api, serving
from tests.support.clocks import TurnedClock
from tests.support.control_plane import until
from tests.support.fakes import CuttableDatabase

EDGE = "spiffe://example.test/web-1"
OTHER = "spiffe://example.test/web-2"
BUNDLE = "/v1/secrets/www/bundle"
PEM = {"Accept": "application/x-pem-file"}


@dataclass
class Door:
    """The API with a publisher and a recorder behind it, and the client certificates of two web servers."""

    api: Api
    database: CuttableDatabase
    publishing: Loop
    recorder: Recorder
    clock: TurnedClock
    catalog: Catalog

    def __post_init__(self):
        self.edge, self.other = (self.api.clients.issue(uris=[uri]) for uri in (EDGE, OTHER))

    async def get(self, path=BUNDLE, *, pair=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.api.remote("GET", path, pair=pair or self.edge, headers=headers)

    async def waiting(self):
        """Return once somebody waits for the clock."""

        async def waits():
            return self.clock.sleeping > 0

        await until(waits)


@pytest.fixture
async def door(database, issuances, tmp_path):
    async with opened(database, issuances, tmp_path) as running:
        yield running


@asynccontextmanager
async def opened(database, issuances, directory, *, loads=True, grants=None):
    grants = grants or [Grant(EDGE, ("www", "later", "nowhere")), Grant(OTHER, ("elsewhere",))]
    cuttable, catalog, clock = CuttableDatabase(database), Catalog(), TurnedClock()
    publisher = Publisher(
        database=cuttable,
        sealer=issuances.sealer,
        catalog=catalog,
        version_key=b"k" * 32,
        clock=clock,
        actor="replica:test",
    )
    publishing = Loop("publisher", publisher.step, every=timedelta(hours=1))

    def want(name):
        publisher.want(name)
        publishing.wake()

    catalog.on_want = want
    recorder = Recorder(
        database=database,
        authorize=Grants(grants).authorize,
        seen_for=timedelta(minutes=10),
        clock=clock,
        actor="replica:test",
        replica="test/1",
        on_written=lambda _name: None,
    )
    async with (
        serving(database, directory, grants=grants, catalog=catalog, observer=recorder, clock=clock) as api,
        asyncio.TaskGroup() as group,
    ):
        loading = group.create_task(publishing.run()) if loads else None
        yield Door(api, cuttable, publishing, recorder, clock, catalog)
        if loading is not None:
            loading.cancel()


async def rotate(issuances, declared):
    await rotations.open_for(issuances.database, declared.name, reason=Reason.OPERATOR, actor="person:test")
    return await issuances.issue(declared)


async def test_who_is_granted_the_name_gets_its_pair_as_json(door, issuances):
    certificate = await issuances.issue(await issuances.declare())

    got = await door.get()

    assert 200 == got.status
    leaf = x509.load_pem_x509_certificate(got.json["chain"].encode())
    key = serialization.load_pem_private_key(got.json["private_key"].encode(), None)
    assert leaf.public_key() == key.public_key()
    assert certificate.fingerprint == leaf.fingerprint(hashes.SHA256()).hex()
    assert certificate.fingerprint == got.json["fingerprint_sha256"]
    assert ("www", 1) == (got.json["name"], got.json["generation"])
    assert f"{certificate.not_after:%FT%TZ}" == got.json["not_after"]
    assert "no-store" == got.headers["Cache-Control"]


async def test_as_pem_it_is_the_chain_and_then_the_key_in_one_file(door, issuances):
    certificate = await issuances.issue(await issuances.declare())

    got = await door.get(**PEM)

    assert "application/x-pem-file" == got.headers["Content-Type"]
    assert got.raw.startswith(certificate.chain_pem)
    key = serialization.load_pem_private_key(got.raw.removeprefix(certificate.chain_pem), None)
    assert x509.load_pem_x509_certificate(got.raw).public_key() == key.public_key()


async def test_a_representation_has_its_own_validator_and_caches_are_told(door, issuances):
    await issuances.issue(await issuances.declare())

    as_json, as_pem = await door.get(), await door.get(**PEM)

    assert as_json.headers["ETag"] != as_pem.headers["ETag"]
    assert {"Accept"} == {as_json.headers["Vary"], as_pem.headers["Vary"]}
    assert not as_pem.headers["ETag"].startswith("W/")


async def test_what_the_caller_has_already_is_not_sent_again(door, issuances):
    await issuances.issue(await issuances.declare())
    etag = (await door.get(**PEM)).headers["ETag"]

    again = await door.get(**PEM, If_None_Match=etag)

    assert (304, b"", etag) == (again.status, again.raw, again.headers["ETag"])
    assert 200 == (await door.get(**PEM, If_None_Match='"another"')).status


async def test_who_waits_is_answered_when_there_is_a_new_generation(door, issuances):
    declared = await issuances.declare()
    await issuances.issue(declared)
    etag = (await door.get()).headers["ETag"]

    waiting = asyncio.create_task(door.get(If_None_Match=etag, Prefer="respond-async, wait=30"))
    await door.waiting()
    await rotate(issuances, declared)
    door.publishing.wake()
    got = await waiting

    assert (200, 2) == (got.status, got.json["generation"])
    assert "wait=30" == got.headers["Preference-Applied"]


async def test_who_waits_in_vain_is_told_so_after_that_time(door, issuances):
    await issuances.issue(await issuances.declare())
    etag = (await door.get()).headers["ETag"]

    waiting = asyncio.create_task(door.get(If_None_Match=etag, Prefer="wait=30"))
    await door.waiting()
    door.clock.turn(timedelta(seconds=29))
    assert not waiting.done()
    door.clock.turn(timedelta(seconds=1))

    assert 304 == (await waiting).status


async def test_nobody_waits_longer_than_a_minute(door, issuances):
    await issuances.issue(await issuances.declare())

    assert "wait=60" == (await door.get(Prefer="Wait=86400")).headers["Preference-Applied"]


@pytest.mark.parametrize("prefer", ["wait=-1", "wait=soon", "wait", "await=5", "wait=1e9", ""])
async def test_a_preference_that_makes_no_sense_is_none(door, issuances, prefer):
    await issuances.issue(await issuances.declare())

    got = await door.get(Prefer=prefer)

    assert (200, False) == (got.status, "Preference-Applied" in got.headers)


async def test_a_first_certificate_can_be_waited_for(door, issuances):
    declared = await issuances.declare()
    assert 404 == (await door.get()).status

    waiting = asyncio.create_task(door.get(Prefer="wait=30"))
    await door.waiting()
    await issuances.issue(declared)
    door.publishing.wake()

    assert 1 == (await waiting).json["generation"]


async def test_a_pair_is_served_from_memory_while_the_database_is_away(door, issuances):
    await issuances.issue(await issuances.declare())
    assert 200 == (await door.get()).status

    door.database.cut()
    with pytest.raises(Unavailable):
        async with door.database.transaction():
            pass

    assert 200 == (await door.get()).status


async def test_what_a_replica_cannot_load_is_unavailable_and_not_absent(database, issuances, tmp_path):
    await issuances.issue(await issuances.declare())
    async with opened(database, issuances, tmp_path, loads=False) as door:
        asking = asyncio.create_task(door.get())
        await door.waiting()
        door.clock.turn(timedelta(seconds=5))
        got = await asking

    assert 503 == got.status
    assert "Retry-After" in got.headers


async def test_what_the_gate_refuses_never_leaves(door, issuances, sql):
    declared = await issuances.declare()
    pair = issuances.ca.issue(dns=list(declared.domains))
    await issuances.store(await issuances.claim(), declared, chain_of=pair)

    async def rejected():
        return await sql.fetchval("SELECT status FROM certificate") == "rejected"

    asking = asyncio.create_task(door.get())
    await until(rejected)
    door.publishing.wake()  # as NOTIFY does
    got = await asking

    assert 404 == got.status
    assert b"PRIVATE KEY" not in got.raw


async def test_a_name_without_a_grant_looks_as_if_it_were_not_there(door, issuances, sql):
    await issuances.issue(await issuances.declare())

    denied = await door.get(pair=door.other)
    absent = await door.get("/v1/secrets/nowhere/bundle")

    assert (404, 404) == (denied.status, absent.status)
    assert denied.json | {"detail": ""} == absent.json | {"detail": ""}
    assert denied.json["detail"] == absent.json["detail"].replace("nowhere", "www")
    assert b"PRIVATE KEY" not in denied.raw
    await door.recorder.step()
    assert [("delivery.denied", "www")] == [
        tuple(row) for row in await sql.fetch("SELECT action, subject FROM certaudit WHERE action ~ 'denied'")
    ]


@pytest.mark.parametrize("scope", list(Scope))
async def test_no_token_gets_a_private_key(door, issuances, scope):
    await issuances.issue(await issuances.declare())
    token = await door.api.token(scope)

    alone = await door.api.remote("GET", BUNDLE, token=token)
    with_certificate = await door.api.remote("GET", BUNDLE, token=token, pair=door.edge)

    assert (403, 403) == (alone.status, with_certificate.status)
    assert b"PRIVATE KEY" not in alone.raw + with_certificate.raw
    assert "client certificate" in alone.json["hint"]


async def test_not_even_the_machines_own_users_get_a_private_key(door, issuances):
    await issuances.issue(await issuances.declare())

    got = await door.api.local("GET", BUNDLE)

    assert 403 == got.status
    assert b"PRIVATE KEY" not in got.raw
    assert "client certificate" in got.json["hint"]


async def test_a_fetch_makes_a_target_that_counts_and_says_what_it_was_sent(door, issuances):
    await issuances.issue(await issuances.declare())

    await door.get(f"{BUNDLE}?target=web-1&kind=nginx")
    await door.recorder.step()

    (live,) = await targets.live_set(issuances.database, "www")
    assert ("web-1", "nginx", EDGE) == (live.target.name, live.target.kind, live.target.identity)
    assert 1 == live.sent


async def test_a_target_without_a_name_is_called_like_its_identity(door, issuances):
    await issuances.issue(await issuances.declare())

    await door.get()
    await door.recorder.step()

    assert [EDGE] == [live.target.name for live in await targets.live_set(issuances.database, "www")]


async def test_who_takes_another_targets_name_is_another_target(door, issuances):
    await issuances.issue(await issuances.declare())
    await targets.register(
        issuances.database,
        "web-2",
        probe=None,
        identity=OTHER,
        node_id="web-2",
        serves=["www"],
        actor="person:test",
    )

    await door.get(f"{BUNDLE}?target=web-2")
    await door.recorder.step()

    found = {live.target.name: live.sent for live in await targets.live_set(issuances.database, "www")}
    assert {"web-2": None, f"web-2 ({EDGE})": 1} == found


@pytest.mark.parametrize("query", ["target=a%0Ab", "target=", "kind=envoy", "kind=nginx&kind=nginx", "x=1"])
async def test_a_query_that_makes_no_sense_is_refused(door, query):
    assert (await door.get(f"{BUNDLE}?{query}")).status in {400, 422}
