"""Every call that changes something is audited, with its caller, in the transaction of the change.

Each route is asked twice. First the audit takes nothing: then nothing may be changed. Then it does: every row
that is new was written by a transaction that wrote an entry, and one of them names the caller.
"""

import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sds_server import authority
from sds_server.admin.table import ROUTES
from sds_server.clock import SystemClock
from sds_server.identity import Grant
from sds_server.inventory import deployment, pauses, roll_outs, targets
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.bookkeeper import Bookkeeper
from sds_server.lifecycle.issuer_desk import IssuerDesk
from sds_server.model import KeyHolder, Scope
from sds_server.payloads.trust import fingerprint_of
from tests.admin.test_key_requests import request
from tests.support.admin import Api, Reply, serving
from tests.support.fake_ca import FakeCa, fake_ca
from tests.support.issuances import Issuances
from tests.support.pki import authority as made_authority
from tests.support.pki import new_key
from tests.support.roll_outs import confirm, rolling_out

EDGE = "spiffe://example.test/web-1"
ROBOT = "token:robot"
OLD, NEW = made_authority("Old root"), made_authority("New root")
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename <> 'certaudit'"
REFUSE = """
    CREATE FUNCTION audit_takes_nothing() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit takes nothing'; END $$;
    CREATE TRIGGER audit_takes_nothing BEFORE INSERT ON certaudit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_takes_nothing()
"""


@dataclass
class World:
    """What a call is made in."""

    api: Api
    issuances: Issuances
    ca: FakeCa
    token: str

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        return await self.api.remote(method, path, token=self.token, json={} if body is None else body)

    async def peer(self, method: str, path: str, body: Any) -> Reply:
        pair = self.api.clients.issue(uris=[EDGE])
        return await self.api.remote(method, path, pair=pair, json=body)

    async def served(self, name: str = "www") -> None:
        """Have generation 1 active."""
        await self.issuances.issue(await self.issuances.declare(name, [f"{name}.example.test"]))
        roll_out = await roll_outs.get(self.issuances.database, name)
        await confirm(self.issuances.database, roll_out, proved=[], actor="test", unobserved=True)

    async def bundle(self, *cas: Any) -> None:
        pem = "".join(ca.pem.decode() for ca in cas)
        await self.api.local("PUT", "/v1/secrets/clients/trust-bundle", json={"cas": pem})

    async def account(self) -> None:
        self.ca.directory["keyChange"] = f"{self.ca.url}/key-change"
        for _ in range(4):
            self.ca.next("/account/1", 200, '{"status": "valid"}')
            self.ca.next("/key-change", 200, '{"status": "valid"}')
        await self.api.local("POST", "/v1/issuers/internal/account/contact")


Step = Callable[[World], Awaitable[Any]]
SECRETS = "/v1/secrets"
DECLARED = {"domains": ["new.example.test"], "issuer": "internal"}


async def nothing(_: World) -> None:
    pass


def ask(method: str, path: str, body: Any = None) -> Step:
    return lambda world: world.ask(method, path, body)


async def frozen(world: World) -> None:
    await world.served()
    await world.api.local("PUT", f"{SECRETS}/www/freeze", json={"reason": "a launch"})


async def scheduled(world: World) -> None:
    body = {"rotate_every_s": 3600, "keep": 2}
    await world.api.local("PUT", f"{SECRETS}/tickets/ticket-keys", json=body)


async def offered(world: World) -> None:
    await rolling_out(world.issuances, "a", "b", "c")


async def kept_by_its_target(world: World) -> None:
    body = DECLARED | {"key_holder": KeyHolder.TARGET, "domains": ["www.example.test"]}
    await world.api.local("PUT", f"{SECRETS}/www", json=body)


async def registered(world: World) -> None:
    await targets.register(
        world.issuances.database,
        "a",
        probe="127.0.0.1:1",
        identity=None,
        node_id=None,
        serves=(),
        actor="test",
    )


async def invited(world: World) -> str:
    reply = await world.api.local("POST", "/v1/proxies/edge-1/enrolments", json={})
    return str(reply.json["token"])


async def enrolled(world: World) -> Any:
    key = new_key()
    token = await invited(world)
    body = {"token": token, "csr": authority.new_csr(key)}
    return await world.api.remote("POST", "/v1/enrolments", json=body), key


async def sealed(world: World) -> None:
    await world.api.local("PUT", "/v1/seal", json={"reason": "a thief"})


async def paused(world: World) -> None:
    await pauses.begin(
        world.issuances.database, ["internal"], lasts=None, error={"what": "503"}, actor="replica:test"
    )


def pair() -> dict[str, str]:
    made = made_authority("Bought root").issue(["bought.example.test"])
    return {"chain": made.chain_pem.decode(), "private_key": made.key_pem.decode()}


CHANGES: dict[str, tuple[Step, Step]] = {
    "PUT /v1/secrets/{name}": (nothing, ask("PUT", f"{SECRETS}/new", DECLARED)),
    "DELETE /v1/secrets/{name}": (World.served, ask("DELETE", f"{SECRETS}/www")),
    "PUT /v1/secrets/{name}/certificate": (nothing, ask("PUT", f"{SECRETS}/bought/certificate", pair())),
    "PUT /v1/secrets/{name}/trust-bundle": (
        nothing,
        ask("PUT", f"{SECRETS}/clients/trust-bundle", {"cas": OLD.pem.decode()}),
    ),
    "POST /v1/secrets/{name}/trust-bundle/cas": (
        lambda world: world.bundle(OLD),
        ask("POST", f"{SECRETS}/clients/trust-bundle/cas", {"cas": NEW.pem.decode()}),
    ),
    "DELETE /v1/secrets/{name}/trust-bundle/cas/{fingerprint}": (
        lambda world: world.bundle(OLD, NEW),
        ask("DELETE", f"{SECRETS}/clients/trust-bundle/cas/{fingerprint_of(OLD.certificate)}?force=lost"),
    ),
    "PUT /v1/secrets/{name}/ticket-keys": (
        nothing,
        ask("PUT", f"{SECRETS}/tickets/ticket-keys", {"rotate_every_s": 3600, "keep": 2}),
    ),
    "POST /v1/secrets/{name}/ticket-keys/rotations": (
        scheduled,
        ask("POST", f"{SECRETS}/tickets/ticket-keys/rotations"),
    ),
    "PUT /v1/secrets/{name}/generic-secret": (
        nothing,
        ask("PUT", f"{SECRETS}/hmac/generic-secret", {"value": base64.b64encode(b"word").decode()}),
    ),
    "POST /v1/secrets/{name}/rotations": (World.served, ask("POST", f"{SECRETS}/www/rotations")),
    "PUT /v1/secrets/{name}/freeze": (
        World.served,
        ask("PUT", f"{SECRETS}/www/freeze", {"reason": "a launch"}),
    ),
    "DELETE /v1/secrets/{name}/freeze": (frozen, ask("DELETE", f"{SECRETS}/www/freeze")),
    "POST /v1/secrets/{name}/rollback": (offered, ask("POST", f"{SECRETS}/www/rollback")),
    "POST /v1/secrets/{name}/revocations": (World.served, ask("POST", f"{SECRETS}/www/revocations")),
    "PUT /v1/targets/{name}": (nothing, ask("PUT", "/v1/targets/a", {"probe": "127.0.0.1:1"})),
    "DELETE /v1/targets/{name}": (registered, ask("DELETE", "/v1/targets/a")),
    "DELETE /v1/proxies/{name}": (enrolled, ask("DELETE", "/v1/proxies/edge-1")),
    "POST /v1/proxies/{name}/enrolments": (
        nothing,
        ask("POST", "/v1/proxies/edge-1/enrolments", {"names": ["www"]}),
    ),
    "POST /v1/issuers/{name}/account/key": (World.account, ask("POST", "/v1/issuers/internal/account/key")),
    "POST /v1/issuers/{name}/account/contact": (
        World.account,
        ask("POST", "/v1/issuers/internal/account/contact"),
    ),
    "POST /v1/issuers/{name}/account/deactivation": (
        World.account,
        ask("POST", "/v1/issuers/internal/account/deactivation"),
    ),
    "POST /v1/issuers/{name}/resume": (paused, ask("POST", "/v1/issuers/internal/resume")),
    "POST /v1/issuers/{name}/revocations": (World.served, ask("POST", "/v1/issuers/internal/revocations")),
    "POST /v1/kms/rewrap": (World.served, ask("POST", "/v1/kms/rewrap", {"all": True})),
    "POST /v1/kms/checks": (World.served, ask("POST", "/v1/kms/checks", {"sample": 5})),
    "DELETE /v1/seal": (sealed, ask("DELETE", "/v1/seal")),
    "POST /v1/audit/exports": (World.served, ask("POST", "/v1/audit/exports")),
    "POST /v1/tokens": (nothing, ask("POST", "/v1/tokens", {"name": "ci", "scopes": ["read"]})),
    "DELETE /v1/tokens/{id}": (
        lambda world: world.api.token(Scope.READ, name="old"),
        ask("DELETE", "/v1/tokens/2"),
    ),
}
"""What a token may change: (what has to be there, the call)."""

TOLD_ALONE = {
    "POST /v1/issuers/{name}/account/contact",
    "POST /v1/kms/checks",
    "POST /v1/audit/exports",
    "DELETE /v1/seal",
}
"""What was done is at the CA, in a file, or in nobody's hands any more: only the entry is left of it."""

BY_PEERS: dict[str, tuple[Step, Callable[[World, Any], Awaitable[Reply]], str]] = {
    "PUT /v1/secrets/{name}/csr": (
        kept_by_its_target,
        lambda world, _: world.peer("PUT", f"{SECRETS}/www/csr", {"csr": request()}),
        f"client:{EDGE}",
    ),
    "POST /v1/secrets/{name}/deliveries": (
        World.served,
        lambda world, _: world.peer(
            "POST", f"{SECRETS}/www/deliveries", {"state": "accepted", "generation": 1}
        ),
        f"client:{EDGE}",
    ),
    "POST /v1/enrolments": (
        invited,
        lambda world, token: world.api.remote(
            "POST", "/v1/enrolments", json={"token": token, "csr": authority.new_csr(new_key())}
        ),
        "proxy:edge-1",
    ),
}
"""What others may change, and as whom."""

ELSEWHERE = {"POST /v1/credentials", "PUT /v1/seal"}
"""Renewed over and over, so it is bounded: test_enrolments.py. A seal waits for no audit: test_seal.py."""

CHANGE_NOTHING = {
    "POST /v1/targets/{name}/tests": (registered, ask("POST", "/v1/targets/a/tests")),
    "POST /v1/secrets/{name}/probes": (World.served, ask("POST", f"{SECRETS}/www/probes")),
    "POST /v1/preflights": (nothing, ask("POST", "/v1/preflights", {"name": "www.example.test"})),
}
"""Looks: asked by POST, as somebody else is asked on the way."""


@pytest.fixture
async def world(database, tmp_path):
    identity, _ = await deployment.identify(database)
    sealer = Sealer(LocalKms(tmp_path / "kek", create=True), deployment=identity, clock=SystemClock())
    async with fake_ca(tmp_path) as ca:
        issuer = Issuer(
            name="internal",
            directory_url=ca.directory_url,
            ca_file=tmp_path / "fake-ca.pem",
            roots=(),
            contact=("mailto:ops@example.test",),
            terms_agreed=True,
            eab=None,
        )
        accounts = Accounts(database=database, sealer=sealer, actor="replica:test")
        desk = IssuerDesk(database=database, accounts=accounts, issuers={"internal": issuer})
        async with serving(database, tmp_path, grants=[Grant(EDGE, ("www",))], desk=desk) as api:
            token = await api.token(Scope.ADMIN)
            yield World(api, await Issuances.open(database, tmp_path), ca, token)


async def everything(sql: Any) -> dict[tuple[str, str], str]:
    """Return each row of each table, and the transaction that wrote it; but when a token was used last."""
    return {
        (row["tablename"], held["content"]): held["xmin"]
        for row in await sql.fetch(TABLES)
        for held in await sql.fetch(
            f"SELECT (to_jsonb(t) - 'last_used_at')::text AS content, t.xmin::text FROM {row['tablename']} t"
        )
    }


async def entries(sql: Any, after: int) -> list[Any]:
    found = await sql.fetch("SELECT actor, action, xmin::text FROM certaudit WHERE id > $1", after)
    return list(found)


async def check(world: World, sql: Any, call: Callable[[], Awaitable[Reply]], actor: str) -> bool:
    """Return whether anything but the audit has changed."""
    before = await everything(sql)
    await sql.execute(REFUSE)
    refused = await call()
    kept = await everything(sql)
    await sql.execute("DROP TRIGGER audit_takes_nothing ON certaudit")
    last = await sql.fetchval("SELECT coalesce(max(id), 0) FROM certaudit")
    done = await call()
    after, told = await everything(sql), await entries(sql, last)
    writers = {row["xmin"] for row in told}

    assert refused.status >= 400
    assert before.keys() == kept.keys(), "changed, and not audited"
    assert done.status < 300, done.json
    assert actor in {row["actor"] for row in told}
    assert [] == [key for key, xmin in after.items() if key not in kept and xmin not in writers]
    return kept.keys() != after.keys()


@pytest.mark.parametrize("route", CHANGES)
async def test_a_change_and_its_entry_are_one(world, sql, route):
    prepare, call = CHANGES[route]
    await prepare(world)

    changed = await check(world, sql, lambda: call(world), ROBOT)
    assert changed != (route in TOLD_ALONE)


@pytest.mark.parametrize("route", BY_PEERS)
async def test_so_is_what_a_peer_does(world, sql, route):
    prepare, call, actor = BY_PEERS[route]
    held = await prepare(world)

    assert await check(world, sql, lambda: call(world, held), actor)


@pytest.mark.parametrize("route", CHANGE_NOTHING)
async def test_a_look_changes_nothing(world, sql, route):
    prepare, call = CHANGE_NOTHING[route]
    await prepare(world)
    before = await everything(sql)
    await call(world)

    assert before.keys() == (await everything(sql)).keys()


def test_every_route_that_may_change_something_is_here():
    changing = {f"{route.method} {route.path}" for route in ROUTES if route.method != "GET"}

    assert changing == CHANGES.keys() | BY_PEERS.keys() | ELSEWHERE | CHANGE_NOTHING.keys()


def filled(path):
    return re.sub(r"{\w+}", "1", path)


async def test_each_refused_call_is_audited_with_who_made_it(database, tmp_path, sql):
    """Of each guarded route: once by nobody, once by a token that may something else."""
    bookkeeper = Bookkeeper(database=database, actor="replica:test")
    guarded = [route for route in ROUTES if route.scope is not None]
    async with serving(database, tmp_path, on_refused=bookkeeper.refused) as api:
        for number, route in enumerate(guarded):
            other = next(scope for scope in Scope if scope not in {route.scope, Scope.ADMIN})
            token = await api.token(other, name=f"robot-{number}")
            await api.remote(route.method, filled(route.path), token=token, json={})
            await api.remote(route.method, filled(route.path), json={})
        await bookkeeper.step()
    told = await sql.fetch("SELECT actor, subject FROM certaudit WHERE action = 'api.refused' ORDER BY id")
    by_token = {row["actor"]: row["subject"] for row in told if row["actor"] != "nobody"}

    assert by_token == {
        f"token:robot-{number}": f"{route.method} {route.path}" for number, route in enumerate(guarded)
    }
    assert 10 == sum(row["actor"] == "nobody" for row in told), "a flood of strangers is counted"
    assert len(guarded) == await sql.fetchval("SELECT times FROM audit_tally WHERE identity = 'nobody'")
