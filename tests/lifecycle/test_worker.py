# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""The worker: each step is durable before the next, and no crash between two buys a second certificate."""

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from acme_engine import ari, keys
from acme_engine import chain as chains
from acme_engine.errors import PREFIX, ChainError, OrderFailed, Problem, Refused, Unfinished, Unreachable
from acme_engine.ordering import Profile, Terms
from sds_server.clock import SystemClock
from sds_server.conditions import RotationState, rotation_state
from sds_server.errors import Unavailable
from sds_server.inventory import accounts as inventory
from sds_server.inventory import (
    declarations,
    deployment,
    facts,
    key_requests,
    pauses,
    progress,
    rotations,
    sealed_keys,
    secrets,
)
from sds_server.inventory import issuances as issuing
from sds_server.inventory.key_requests import KeyRequest
from sds_server.inventory.staples import First
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle import worker as workers
from sds_server.lifecycle.accounts import Account, Accounts, Issuer
from sds_server.lifecycle.failure import Ended
from sds_server.lifecycle.keeper import EXTENSIONS
from sds_server.lifecycle.patience import AWAY_PAUSE, LONGEST_LIMIT, Patience
from sds_server.lifecycle.worker import Worker
from sds_server.limits import Counted, Exempt, Limit, Preset
from sds_server.model import Identity, KeyHolder, KeyType, Peer, Reason
from sds_server.spacing import Spacing
from sds_server.staples.response import Staple
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.issuances import LEASE, secret

DIRECTORY = "https://ca.example.test/dir"
ISSUER = Issuer(
    name="internal",
    directory_url=DIRECTORY,
    ca_file=None,
    roots=(),
    contact=(),
    terms_agreed=True,
    eab=None,
)
STEPS = ["called", "ordered", "finalizing", "issued", "downloaded"]
DNS_PROBLEM = Problem.of(
    {
        "type": "urn:ietf:params:acme:error:compound",
        "title": "Two names",
        "detail": "some names could not be proved",
        "instance": "https://ca.example.test/problem/1",
        "subproblems": [
            {
                "type": "urn:ietf:params:acme:error:dns",
                "detail": "NXDOMAIN looking up A for www.example.test",
                "identifier": {"type": "dns", "value": "www.example.test"},
            }
        ],
    },
    status=400,
    retry_after=timedelta(hours=1),
)


class Killed(Exception):
    """The process died here."""


class PublicHalf:
    """What a CA knows of a key."""

    def __init__(self, key):
        self._key = key

    def public_key(self):
        return self._key

    def private_bytes(self, *_format):
        return b""


class FakeCa:
    """A CA behind `obtain`: it certifies the CSR's key, once an order; ``at`` says what happens at a step."""

    def __init__(self, authority):
        self.authority = authority
        self.calls = []
        self.terms = []
        self.ordered = 0
        self.days = 90
        self.responder = None
        self.at = {}
        self.issued = {}
        self.says = None
        """A step that is told, and its fields."""

    async def obtain(self, client, *, names, csr, journal, order_url, terms, admit, on_step, **_rest):
        self.terms.append(terms)
        if self.says is not None:
            on_step(*self.says)
        self.calls.append((order_url, csr))
        await self._at("called")
        url = order_url
        if url is None:
            await admit(terms.replaces is not None)
            self.ordered += 1
            url = f"https://ca.example.test/order/{self.ordered}"
            await journal.ordered(url)
        await self._at("ordered")
        await journal.finalizing()
        await self._at("finalizing")
        if url not in self.issued:
            key = PublicHalf(x509.load_der_x509_csr(csr).public_key())
            self.issued[url] = self.authority.issue(
                dns=list(names), key=key, days=self.days, responder=self.responder
            )
        await self._at("issued")
        await journal.issued(f"{url}/certificate")
        await self._at("downloaded")
        return chains.parse(self.issued[url].chain_pem)

    async def _at(self, step):
        action = self.at.get(step)
        if isinstance(action, Exception):
            raise action
        if action is not None:
            await action()


class FakeAccounts(Accounts):
    """The account is there already; who asks is given a client that is never used."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.forgotten = []

    async def ensure(self, issuer):
        return Account(url=f"{DIRECTORY}/acct/1", key=None)

    @asynccontextmanager
    async def client(self, issuer, account):
        yield None

    async def forget(self, issuer, account):
        self.forgotten.append((issuer.name, account.url))


class Directory:
    """What comes of asking a CA for its directory."""

    error = None
    asked = 0

    async def answers(self, issuer):
        self.asked += 1
        if self.error is not None:
            raise self.error


class Even:
    """No spread."""

    def uniform(self, low, high):
        return 1.0


@pytest.fixture
def ca(issuances, monkeypatch):
    fake = FakeCa(issuances.ca)
    monkeypatch.setattr(workers, "obtain", fake.obtain)
    return fake


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def cuttable(database):
    return CuttableDatabase(database)


@pytest.fixture
def accounts(cuttable, issuances):
    return FakeAccounts(database=cuttable, sealer=issuances.sealer, actor="replica:one")


@pytest.fixture
def directory():
    """Whether the CA's directory comes; raises what is set."""
    return Directory()


@pytest.fixture
def patience(cuttable, directory):
    return Patience(
        database=cuttable, issuers={"internal": ISSUER}, answers=directory.answers, actor="replica:test"
    )


@pytest.fixture
def make(cuttable, issuances, accounts, patience, clock):
    def make(**changed):
        parts = {
            "database": cuttable,
            "sealer": issuances.sealer,
            "issuers": {"internal": ISSUER},
            "accounts": accounts,
            "patience": patience,
            "lease_for": LEASE,
            "replica": "one",
            "clock": clock,
            "rng": Even(),
        }
        return Worker(**parts | changed)

    return make


@pytest.fixture
def worker(make):
    return make()


@pytest.fixture
async def declared(issuances):
    return await issuances.declare()


async def latest(database):
    return await progress.latest(database, "www")


async def orders(sql):
    return [tuple(row) for row in await sql.fetch("SELECT state, url FROM acme_order ORDER BY id")]


async def pause_s(sql):
    return await sql.fetchval(
        "SELECT extract(epoch FROM next_attempt_at - certvoy_now())::int FROM certrotation"
    )


async def issued(sql):
    return await sql.fetchval("SELECT count(*) FROM certificate")


async def test_a_declared_secret_gets_its_certificate(worker, ca, declared, database, sql):
    await worker.step()
    rotation = await latest(database)
    row = await sql.fetchrow("SELECT generation, status, issuer, order_url, renew_reason FROM certificate")

    assert (1, "issued", "internal", "https://ca.example.test/order/1", "third-left") == tuple(row)
    assert rotation.new_cert_id is not None
    assert [("stored", "https://ca.example.test/order/1")] == await orders(sql)
    assert timedelta(days=30) == await sql.fetchval("SELECT not_after - renew_at FROM certificate")


async def test_a_certificate_is_stored_with_the_first_word_of_its_responder(
    make, ca, issuances, declared, clock, sql
):
    """So nobody is offered it without its staple before."""
    ca.responder, asked = "http://127.0.0.1:1/", []

    async def first(chain, issuer, roots):
        asked.append((chain.fingerprint, issuer, roots))
        staple = Staple(b"response", clock.now(), clock.now() + timedelta(days=4))
        return First(staple, timedelta(days=2))

    root = issuances.ca.certificate
    await make(first_staple=first, issuers={"internal": replace(ISSUER, roots=(root,))}).step()
    fingerprint = await sql.fetchval("SELECT fingerprint FROM certificate")

    assert [(fingerprint, "internal", (root,))] == asked
    assert (b"response", 1) == tuple(await sql.fetchrow("SELECT response, number FROM staple"))


async def test_dates_that_do_not_fit_are_explained_by_a_clock_that_is_wrong(
    make, ca, declared, clock, database, sql
):
    """The next certificate would not fit either, so the reason names what to mend."""
    clock.turn(timedelta(days=-1))
    worker = make(clock_said=lambda issuer: f"86400 s behind {issuer}'s")
    await worker.step()
    told = (await latest(database)).last_error

    assert 0 == await issued(sql)
    assert told["what"].endswith("; this machine's clock is 86400 s behind internal's")
    assert "chronyd" in told["hint"]


@pytest.mark.parametrize(
    "error",
    [
        ChainError("names", "the leaf is for other names"),
        OrderFailed("the order is invalid", order_url=None, problems=[DNS_PROBLEM]),
    ],
)
async def test_a_clock_that_is_wrong_explains_nothing_else(make, ca, declared, database, error):
    ca.at["ordered"] = error
    await make(clock_said=lambda issuer: f"90 s behind {issuer}'s").step()
    told = (await latest(database)).last_error

    assert str(error) == told["what"]
    assert "chronyd" not in told["hint"]


@pytest.fixture
async def kept_by_target(issuances):
    declared = replace(secret(), key_holder=KeyHolder.TARGET)
    await declarations.put(issuances.database, declared, actor="person:test")
    return declared


async def bring(database, declared):
    """Let the Secret's Target bring a request; returns its key."""
    key = keys.generate(keys.KeyType.ECDSA_P256)
    request = KeyRequest(keys.csr(key, declared.domains), keys.spki_sha256(key.public_key()))
    peer = Peer(Identity("spiffe://example.test/web-1"), "web-1")
    await key_requests.bring(database, declared, peer, request, actor="proxy:web-1")
    return key


async def test_the_key_of_a_target_is_ordered_once_and_never_here(worker, ca, kept_by_target, database, sql):
    key = await bring(database, kept_by_target)
    await worker.step()
    row = await sql.fetchrow(
        "SELECT c.key_ref, c.spki_sha256, k.kek_uri, k.envelope, k.dek_wrapped"
        " FROM certificate c JOIN key_material k ON k.id = c.key_id"
    )
    spki = keys.spki_sha256(key.public_key())
    _, waiting = await key_requests.waiting(database, "www")

    assert (f"external:{spki.hex()}", spki, "external", b"", b"") == tuple(row)
    assert waiting is None
    again = await key_requests.bring(
        database,
        kept_by_target,
        Peer(Identity("spiffe://example.test/web-1"), "web-1"),
        KeyRequest(keys.csr(key, kept_by_target.domains), spki),
        actor="proxy:web-1",
    )
    assert again is None


async def test_without_a_request_nothing_is_ordered_until_one_is_brought(
    worker, ca, kept_by_target, database, sql
):
    await worker.step()
    waiting, pause, asked = await latest(database), await pause_s(sql), list(ca.calls)
    await bring(database, kept_by_target)
    await worker.step()

    assert [] == asked
    assert "has not brought a signing request" in waiting.last_error["what"]
    assert (0, 60) == (waiting.attempts, pause)
    assert (await latest(database)).new_cert_id is not None


@pytest.mark.parametrize(
    ("key_file", "said"), [(None, "with `key: local`"), ("/keys/{spki}.pem", "in its `keys:`")]
)
async def test_which_agent_is_to_bring_the_request_is_said(worker, issuances, database, key_file, said):
    """That of an Envoy brings no pairs: `key: local` is a line of those."""
    declared = replace(secret(), key_holder=KeyHolder.TARGET, key_file=key_file)
    await declarations.put(database, declared, actor="person:test")
    await worker.step()

    assert said in (await latest(database)).last_error["hint"]


async def test_nothing_is_ordered_for_who_lost_the_grant_since(make, ca, kept_by_target, database, sql):
    await bring(database, kept_by_target)
    granted = set()
    worker = make(authorize=lambda identity, name: (identity, name) in granted)
    await worker.step()
    before = list(ca.calls)
    rotation = await latest(database)
    granted.add(("spiffe://example.test/web-1", "www"))
    await turn_clock(sql, timedelta(minutes=2))
    await worker.step()

    assert ([], 1) == (before, len(ca.calls))
    assert "has not brought" in rotation.last_error["what"]


async def test_what_a_ca_refuses_is_not_ordered_again_as_often_as_requests_are_brought(
    worker, ca, kept_by_target, database, sql
):
    await bring(database, kept_by_target)
    ca.at["ordered"] = OrderFailed("it is invalid", order_url="https://ca.example.test/order/1")
    await worker.step()
    pause = await pause_s(sql)
    await bring(database, kept_by_target)
    await worker.step()

    assert 1 == len(ca.calls)
    assert pause - 5 < await pause_s(sql)


@pytest.mark.parametrize("code", ["badCSR", "badPublicKey"])
async def test_a_request_that_the_ca_will_not_sign_gives_way_to_the_next(
    worker, ca, kept_by_target, database, sql, code
):
    """Its order would live on for days, and be finalized with the same request each time."""
    await bring(database, kept_by_target)
    ca.at["finalizing"] = Refused(
        "no", Problem.of({"type": f"urn:ietf:params:acme:error:{code}"}, status=400)
    )
    await worker.step()
    ca.at.clear()
    await bring(database, kept_by_target)
    await turn_clock(sql, timedelta(minutes=2))
    await worker.step()

    assert ["abandoned", "stored"] == [state for state, _ in await orders(sql)]


async def test_the_key_is_sealed_and_the_csr_kept_before_the_ca_is_asked(
    worker, ca, declared, issuances, sql, database
):
    seen = []

    async def look():
        row = await sql.fetchrow("SELECT state, csr, key_id FROM acme_order")
        key = keys.load_pkcs8(await issuances.sealer.open(await sealed_keys.get(database, row["key_id"])))
        csr = x509.load_der_x509_csr(row["csr"])
        seen.append((row["state"], keys.spki_sha256(csr.public_key()) == keys.spki_sha256(key.public_key())))

    ca.at["called"] = look
    await worker.step()

    assert [("planned", True)] == seen


async def test_a_key_is_not_made_in_the_loop_that_serves(worker, ca, issuances, database, monkeypatch):
    """RSA takes from 40 ms to seconds, during which no stream would be answered."""
    generate, made = keys.generate, []

    def noted(key_type):
        made.append((key_type, threading.get_ident()))
        return generate(key_type)

    await declarations.put(database, replace(secret(), key_type=KeyType.RSA_2048), actor="person:test")
    monkeypatch.setattr(keys, "generate", noted)
    await worker.step()
    threads = [thread for key_type, thread in made if key_type == KeyType.RSA_2048]

    assert 1 == len(threads)
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("name", ["order.created", *sorted(workers.WARNED)])
async def test_what_was_not_issued_as_asked_is_warned_of(make, ca, declared, name):
    worker = make()
    fields = {"order.created": {"order": "u"}, "order.dates_ignored": {"certificate": "ends later"}}
    ca.says = name, fields.get(name, {"preferred": "Root", "offered": 2})
    with capture_logs() as logged:
        await worker.step()
    levels = {line["log_level"] for line in logged if line["event"] == name}

    assert {"warning" if name in workers.WARNED else "info"} == levels


@pytest.mark.parametrize(
    ("step", "state"),
    [
        ("ordered", "ordered"),
        ("finalizing", "finalizing"),
        ("issued", "finalizing"),
        ("downloaded", "issued"),
    ],
)
async def test_each_step_is_committed_before_the_next(worker, ca, declared, sql, step, state):
    seen = []

    async def look():
        seen.append(await sql.fetchval("SELECT state FROM acme_order"))

    ca.at[step] = look
    await worker.step()

    assert [state] == seen


@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_that_dies_is_taken_over_with_the_same_key_and_order(make, ca, declared, sql, step):
    ca.at[step] = Killed()
    with pytest.raises(Killed):
        await make().step()
    ca.at.clear()
    await make(replica="two").step()
    too_early = len(ca.calls)
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    await make(replica="two").step()
    first, second = ca.calls

    assert 1 == too_early
    assert 1 == ca.ordered
    assert first[1] == second[1]
    assert (None if step == "called" else "https://ca.example.test/order/1") == second[0]
    assert (1, 1) == (await issued(sql), await sql.fetchval("SELECT count(*) FROM key_material"))


async def test_a_dead_order_is_given_up_and_the_next_has_a_new_key(worker, ca, declared, database, sql):
    ca.at["ordered"] = OrderFailed("it is invalid", order_url="https://ca.example.test/order/1")
    await worker.step()
    ca.at.clear()
    await turn_clock(sql, timedelta(minutes=2))
    await worker.step()
    first, second = ca.calls

    assert [
        ("abandoned", "https://ca.example.test/order/1"),
        ("stored", "https://ca.example.test/order/2"),
    ] == (await orders(sql))
    assert second[0] is None
    assert first[1] != second[1]


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("no answer"),
        Unfinished("the time is up", order_url="https://ca.example.test/order/1"),
        Refused("newOrder", Problem.of({"type": "urn:ietf:params:acme:error:rateLimited"}, status=429)),
    ],
)
async def test_an_order_that_may_still_succeed_is_resumed(worker, ca, declared, sql, error):
    ca.at["finalizing"] = error
    await worker.step()
    ca.at.clear()
    await turn_clock(sql, timedelta(minutes=2))
    await worker.step()

    assert "https://ca.example.test/order/1" == ca.calls[1][0]
    assert 1 == await issued(sql)


async def test_the_cas_problem_is_told_whole(worker, ca, declared, database):
    ca.at["ordered"] = OrderFailed(
        "it is invalid", order_url="https://ca.example.test/order/1", problems=[DNS_PROBLEM]
    )
    await worker.step()
    told = (await latest(database)).last_error

    (problem,) = told["problems"]
    (sub,) = problem.pop("subproblems")

    assert {
        "type": "urn:ietf:params:acme:error:compound",
        "title": "Two names",
        "detail": "some names could not be proved",
        "status": 400,
        "identifier": None,
        "instance": "https://ca.example.test/problem/1",
    } == problem
    assert "NXDOMAIN looking up A for www.example.test" == sub["detail"]
    assert "www.example.test" == sub["identifier"]
    assert ("owner", "mend what the subproblems name") == (told["actor"], told["hint"])


async def test_the_reason_is_gone_once_it_succeeded(worker, ca, declared, database, sql):
    ca.at["ordered"] = Unreachable("no answer")
    await worker.step()
    ca.at.clear()
    await turn_clock(sql, timedelta(minutes=2))
    await worker.step()

    assert (await latest(database)).last_error is None


async def test_pauses_grow_from_a_minute_to_a_day(worker, ca, declared, sql):
    ca.at["called"] = Unreachable("no answer")
    pauses = []
    for day in range(1, 6):
        await worker.step()
        pauses.append(await pause_s(sql))
        await turn_clock(sql, timedelta(days=2 * day))

    assert [60, 600, 6000, 86400, 86400] == [round(pause, -1) for pause in pauses]


async def test_the_ca_is_never_asked_before_it_wants(worker, ca, declared, sql):
    ca.at["ordered"] = OrderFailed("no", order_url="https://ca.example.test/order/1", problems=[DNS_PROBLEM])
    await worker.step()

    assert 3600 == round(await pause_s(sql), -1)


async def test_an_issuer_that_is_not_configured_is_said_with_the_remedy(make, ca, declared, database):
    await make(issuers={}).step()
    told = (await latest(database)).last_error

    assert "the issuer internal is not in this replica's configuration" in told["what"]
    assert "declare it under `issuers:`" == told["hint"]
    assert [] == ca.calls


async def test_names_that_change_during_the_order_are_ordered_anew(worker, ca, declared, database, sql):
    async def change():
        ca.at.clear()
        await declarations.put(
            database, secret(domains=("www.example.test", "api.example.test")), actor="person:test"
        )

    ca.at["finalizing"] = change
    await worker.step()
    domains = await sql.fetch("SELECT domain, san_domains FROM certificate")

    assert [("www.example.test", '["api.example.test"]')] == [tuple(row) for row in domains]
    assert ["abandoned", "stored"] == [state for state, _ in await orders(sql)]


async def test_a_type_of_key_that_changes_during_the_order_is_what_is_issued(
    worker, ca, declared, database, sql
):
    async def change():
        ca.at.clear()
        await declarations.put(database, replace(secret(), key_type=KeyType.ECDSA_P384), actor="person:test")

    ca.at["finalizing"] = change
    await worker.step()
    (pem,) = [row["chain_pem"] for row in await sql.fetch("SELECT chain_pem FROM certificate_chain")]

    assert 384 == x509.load_pem_x509_certificate(pem.encode()).public_key().key_size


async def test_an_issuer_that_changes_during_the_order_is_who_issues(make, ca, declared, database, sql):
    async def change():
        ca.at.clear()
        await declarations.put(database, replace(secret(), issuer="public"), actor="person:test")

    ca.at["issued"] = change
    await make(issuers={"internal": ISSUER, "public": ISSUER}).step()

    assert ["public"] == [row["issuer"] for row in await sql.fetch("SELECT issuer FROM certificate")]


async def test_a_lease_that_was_lost_ends_the_order_at_once_and_writes_nothing(
    worker, ca, declared, clock, issuances, sql
):
    begun, cancelled = asyncio.Event(), []

    async def wait():
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    ca.at["ordered"] = wait
    with capture_logs() as logs:
        task = asyncio.create_task(worker.step())
        await begun.wait()
        await turn_clock(sql, LEASE + timedelta(seconds=1))
        await issuances.claim("other")
        clock.turn(LEASE / EXTENSIONS)
        await task

    assert [True] == cancelled
    assert "lease.lost" in [log["event"] for log in logs]
    assert [("ordered", "https://ca.example.test/order/1")] == await orders(sql)
    assert ("other", 0) == (await sql.fetchval("SELECT leased_by FROM certrotation"), await issued(sql))


@pytest.fixture(autouse=True)
def relinquished(monkeypatch):
    """Which orders the CA is told to be wanted no more."""
    told = []

    async def relinquish(_client, order_url):
        told.append(order_url)
        return 1

    monkeypatch.setattr(workers, "relinquish", relinquish)
    return told


@pytest.mark.parametrize("change", ["removed", "changed"])
async def test_an_order_that_nobody_wants_any_more_is_stopped_at_once_and_given_up_at_its_ca(
    worker, ca, declared, database, sql, relinquished, change
):
    """No clock is turned: who hears of the change looks."""
    begun, cancelled = asyncio.Event(), []

    async def wait():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    ca.at["ordered"] = wait
    task = asyncio.create_task(worker.step())
    await begun.wait()
    ca.at.clear()
    worker.told("other")
    await asyncio.sleep(0)
    undisturbed = list(cancelled)
    if change == "removed":
        await declarations.remove(database, "www", actor="person:test")
    else:
        wanted = replace(declared, domains=("new.example.test",))
        await declarations.put(database, wanted, actor="person:test")
    worker.told("www")
    await task

    assert ([], [True]) == (undisturbed, cancelled)
    assert ["https://ca.example.test/order/1"] == relinquished
    assert (1 if change == "changed" else 0) == await issued(sql)


async def test_a_lease_that_ended_with_the_certificate_was_not_lost(
    worker, ca, declared, database, sql, monkeypatch
):
    """The commit tells of the Secret: that is heard before the commit's own answer."""
    store = issuing.store

    async def heard_first(*arguments, **named):
        generation = await store(*arguments, **named)
        worker.told("www")
        for _ in range(20):
            await secrets.get(database, "www")
        return generation

    monkeypatch.setattr(issuing, "store", heard_first)
    with capture_logs() as logs:
        await worker.step()

    assert 1 == await issued(sql)
    assert ["certificate.issued"] == [
        log["event"] for log in logs if log["event"] in {"lease.lost", "certificate.issued"}
    ]


async def test_what_is_stored_is_issued_where_its_ca_cannot_be_noted(
    worker, ca, declared, patience, monkeypatch
):
    async def delivered(_issuer):
        raise Unavailable("database: cut off")

    monkeypatch.setattr(patience, "delivered", delivered)
    ends = []
    worker.on_attempt = lambda _issuer, how, _seconds: ends.append(how)
    with capture_logs() as logs:
        await worker.step()

    assert [Ended.ISSUED] == ends
    assert ["certificate.issued"] == [
        log["event"] for log in logs if log["event"] in {"lease.lost", "certificate.issued"}
    ]


async def test_a_failure_of_what_was_removed_meanwhile_is_nobodys(worker, ca, declared, database, sql):
    async def remove():
        await declarations.remove(database, "www", actor="person:test")
        raise OrderFailed("the order is invalid", order_url=None, problems=[DNS_PROBLEM])

    ca.at["ordered"] = remove
    with capture_logs() as logs:
        await worker.step()

    warned = [log["event"] for log in logs if log["log_level"] == "warning"]

    assert ["lease.lost", "rotation.failed"] == warned


async def test_an_order_that_is_removed_takes_no_further_step_where_nobody_is_told(
    worker, ca, declared, database, sql, relinquished
):
    async def remove():
        await declarations.remove(database, "www", actor="person:test")

    ca.at["ordered"] = remove
    await worker.step()

    assert ["https://ca.example.test/order/1"] == relinquished
    assert [("abandoned", "https://ca.example.test/order/1")] == await orders(sql)
    assert {} == ca.issued


async def test_what_another_worker_has_is_not_given_up(
    worker, ca, declared, issuances, clock, sql, relinquished
):
    begun = asyncio.Event()

    async def wait():
        begun.set()
        await asyncio.Event().wait()

    ca.at["ordered"] = wait
    task = asyncio.create_task(worker.step())
    await begun.wait()
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    await issuances.claim("other")
    clock.turn(LEASE / EXTENSIONS)
    await task

    assert [] == relinquished


async def test_a_ca_that_cannot_be_told_is_left_to_forget_it(worker, ca, declared, database, monkeypatch):
    async def relinquish(_client, _order_url):
        raise Unreachable("no answer")

    async def remove():
        await declarations.remove(database, "www", actor="person:test")

    monkeypatch.setattr(workers, "relinquish", relinquish)
    ca.at["ordered"] = remove
    with capture_logs() as logs:
        await worker.step()

    assert "order.left" in [log["event"] for log in logs]


async def test_who_was_frozen_beyond_its_lease_orders_nothing_from_the_ca(
    worker, ca, declared, accounts, sql, monkeypatch
):
    """It claims the Rotation anew, like anybody: that order is the only one."""

    async def freezes(issuer):
        await turn_clock(sql, LEASE + timedelta(seconds=1))
        return await FakeAccounts.ensure(accounts, issuer)

    monkeypatch.setattr(accounts, "ensure", freezes)
    await worker.step()

    assert (1, 1) == (ca.ordered, await issued(sql))
    assert 2 == await sql.fetchval("SELECT lease_no FROM certrotation")


async def test_a_lease_is_extended_for_as_long_as_the_order_takes(worker, ca, declared, clock, sql):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait():
        begun.set()
        await go_on.wait()

    ca.at["ordered"] = wait
    task = asyncio.create_task(worker.step())
    await begun.wait()
    for part in range(1, 2 * EXTENSIONS + 1):
        await turn_clock(sql, LEASE / EXTENSIONS * part)
        clock.turn(LEASE / EXTENSIONS)
        while not clock.sleeping:
            await asyncio.sleep(0.001)
    go_on.set()
    await task

    assert 1 == await issued(sql)


async def test_an_extension_that_the_database_did_not_take_ends_nothing(
    worker, ca, declared, clock, cuttable, sql
):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait():
        begun.set()
        await go_on.wait()

    ca.at["ordered"] = wait
    with capture_logs() as logs:
        task = asyncio.create_task(worker.step())
        await begun.wait()
        cuttable.cut()
        clock.turn(LEASE / EXTENSIONS)
        while not clock.sleeping:
            await asyncio.sleep(0)
        cuttable.heal()
        go_on.set()
        await task

    assert "lease.unextended" in [log["event"] for log in logs]
    assert 1 == await issued(sql)


@pytest.mark.parametrize("step", STEPS)
async def test_a_database_that_goes_away_keeps_the_order(make, worker, ca, declared, cuttable, sql, step):
    async def cut():
        cuttable.cut()

    ca.at[step] = cut
    with pytest.raises(Unavailable):
        await worker.step()
    ca.at.clear()
    cuttable.heal()
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    await make(replica="two").step()

    assert 1 == await issued(sql)
    assert ca.calls[0][1] == ca.calls[1][1]
    # Before newOrder a place in the CA's limits is taken: without a database nothing is ordered.
    assert 1 == ca.ordered


async def test_a_chain_for_another_key_is_not_stored(worker, ca, declared, issuances, database, sql):
    other = issuances.ca.issue(["www.example.test"])
    ca.issued["https://ca.example.test/order/1"] = other
    await worker.step()

    assert 0 == await issued(sql)
    assert "key" in (await latest(database)).last_error["what"]
    assert ["abandoned"] == [state for state, _ in await orders(sql)]


async def test_a_renewal_that_gains_no_time_is_not_stored(worker, ca, declared, database, sql):
    await worker.step()
    await turn_clock(sql, timedelta(days=61))
    await rotations.open_due(database, limit=10, actor="r")
    ca.days = 80
    await worker.step()

    assert 1 == await issued(sql)
    assert "before the one that it replaces" in (await latest(database)).last_error["what"]


async def test_an_operator_may_go_over_to_shorter_lives(worker, ca, declared, database, sql):
    await worker.step()
    ca.days = 6
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await worker.step()

    assert 2 == await issued(sql)


async def renew(worker, database):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await worker.step()


async def identifier(sql, generation):
    """The ARI identifier of a generation's certificate."""
    pem = await sql.fetchval(
        "SELECT p.chain_pem FROM certificate_chain p JOIN certificate c ON c.id = p.cert_id"
        " WHERE c.generation = $1",
        generation,
    )
    return ari.certificate_id(chains.parse(pem.encode()).leaf)


async def test_a_renewal_says_which_certificate_it_replaces(worker, ca, declared, database, sql):
    """RFC 9773 section 5: by that a CA counts no limit against it."""
    await worker.step()
    await renew(worker, database)

    assert [None, await identifier(sql, 1)] == [terms.replaces for terms in ca.terms]


async def test_a_certificate_is_named_as_replaced_once(worker, ca, declared, database, sql):
    """What came of the first order was refused by the gate: the CA counts the one before as replaced."""
    await worker.step()
    ca.issued["https://ca.example.test/order/2"] = ca.authority.issue(["www.example.test"])
    await renew(worker, database)
    await turn_clock(sql, timedelta(hours=1))
    await worker.step()

    assert [None, await identifier(sql, 1), None] == [terms.replaces for terms in ca.terms]
    assert 2 == await issued(sql)


async def test_an_order_that_failed_has_replaced_nothing(worker, ca, declared, database, sql):
    await worker.step()
    ca.at["ordered"] = OrderFailed("it is invalid", order_url="https://ca.example.test/order/2")
    await renew(worker, database)
    ca.at.clear()
    await turn_clock(sql, timedelta(hours=1))
    await worker.step()

    assert [None, *[await identifier(sql, 1)] * 2] == [terms.replaces for terms in ca.terms]


async def test_a_certificate_of_another_account_or_issuer_is_not_named(
    make, worker, ca, declared, database, sql
):
    await worker.step()
    await sql.execute("UPDATE acme_order SET account_url = 'https://ca.example.test/acct/before'")
    await renew(worker, database)
    await sql.execute("UPDATE acme_order SET account_url = NULL")
    await declarations.put(database, replace(secret(), issuer="public"), actor="person:test")
    await make(issuers={"internal": ISSUER, "public": ISSUER}).step()

    assert [None, None, None] == [terms.replaces for terms in ca.terms]


async def test_an_issuer_s_terms_are_those_of_each_order(make, ca, declared):
    terms = Terms(profile=Profile("shortlived"), lifetime=timedelta(days=6), preferred_chain="Root")
    await make(issuers={"internal": replace(ISSUER, terms=terms)}).step()

    assert [terms] == ca.terms


@pytest.mark.parametrize(
    ("says", "asked"),
    [(None, "shortlived"), (("order.profile_refused", {"problem": "it has no such profile"}), None)],
)
async def test_the_audit_says_of_which_account_and_profile_an_order_is(make, ca, declared, sql, says, asked):
    """A profile that is preferred may be gone without: what was ordered is told, not what was configured."""
    ca.says = says
    terms = Terms(profile=Profile("shortlived"))
    await make(issuers={"internal": replace(ISSUER, terms=terms)}).step()
    told = json.loads(await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'order.ordered'"))

    assert (f"{DIRECTORY}/acct/1", asked) == (told["account"], told["profile"])


async def test_a_failed_renewal_leaves_what_is_served_waiting(worker, ca, declared, database, sql):
    await worker.step()
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    ca.at["called"] = Unreachable("no answer")
    await worker.step()

    assert "expiring_soon" == await sql.fetchval("SELECT status FROM certificate")


async def test_a_kms_that_refuses_is_told_as_the_reason(
    make, ca, declared, database, sql, tmp_path, accounts
):
    """The next replica, with the right KEK, goes on with the same order."""
    ca.at["downloaded"] = Killed()
    with pytest.raises(Killed):
        await make().step()
    ca.at.clear()
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    identity, _ = await deployment.identify(database)
    other = Sealer(LocalKms(tmp_path / "other-kek", create=True), deployment=identity, clock=SystemClock())
    await make(sealer=other).step()
    told = (await latest(database)).last_error
    await turn_clock(sql, timedelta(hours=1))
    await make().step()

    assert "kek" in told["what"]
    assert "kms.previous" in told["hint"]
    assert (1, 1) == (await issued(sql), ca.ordered)


async def test_an_account_that_the_ca_forgot_is_registered_again(worker, ca, declared, accounts):
    problem = Problem.of({"type": "urn:ietf:params:acme:error:accountDoesNotExist"}, status=400)
    ca.at["called"] = Refused("newOrder", problem)
    await worker.step()

    assert ("internal", f"{DIRECTORY}/acct/1") == accounts.forgotten[0]


async def test_an_account_that_the_ca_forgot_costs_no_pause_once(worker, ca, declared, sql):
    problem = Problem.of({"type": "urn:ietf:params:acme:error:accountDoesNotExist"}, status=400)
    ca.at["called"] = Refused("newOrder", problem)
    await worker.step()

    assert (2, 600) == (len(ca.calls), round(await pause_s(sql), -1))


async def test_a_forgotten_account_keeps_its_key_and_loses_its_url(database, issuances):
    real = Accounts(database=database, sealer=issuances.sealer, actor="replica:one")
    begun = await real._begin(ISSUER)
    await inventory.registered(database, DIRECTORY, begun, url=f"{DIRECTORY}/acct/1", actor="r")
    before = await real.ensure(ISSUER)
    await real.forget(ISSUER, before)

    assert (begun.key_id, None) == (
        (await inventory.get(database, DIRECTORY)).key_id,
        (await inventory.get(database, DIRECTORY)).url,
    )


async def test_two_workers_do_not_work_on_one_rotation(make, ca, declared, sql):
    await asyncio.gather(make(replica="one").step(), make(replica="two").step())

    assert (1, 1) == (len(ca.calls), await issued(sql))


def limited(seconds=600, status=429):
    problem = Problem.of(
        {"type": "urn:ietf:params:acme:error:rateLimited"},
        status=status,
        retry_after=timedelta(seconds=seconds),
    )
    return Refused("newOrder", problem)


async def paused_s(sql):
    return await sql.fetchval("SELECT extract(epoch FROM until - certvoy_now())::int FROM issuer_pause")


async def look(patience, sql, seconds):
    await turn_clock(sql, timedelta(seconds=seconds))
    await patience.step()


async def test_while_the_ca_is_away_nobody_asks_it_and_nothing_counts(
    worker, ca, directory, patience, issuances, database, sql
):
    """One order finds out; the others wait as they are, and all of them go on when the CA is back."""
    for n in range(3):
        await issuances.declare(f"s{n}", [f"s{n}.example.test"])
    ca.at["called"] = directory.error = Unreachable("no answer")
    await worker.step()
    await worker.step()
    attempts = [row[0] for row in await sql.fetch("SELECT attempts FROM certrotation")]
    asked = len(ca.calls)
    waits = (await progress.latest(database, "s2")).last_error

    assert (1, [0, 0, 0], AWAY_PAUSE.seconds) == (asked, attempts, await paused_s(sql))
    assert "the CA of internal is left alone: no answer" == waits["what"]

    ca.at.clear()
    directory.error = None
    await look(patience, sql, AWAY_PAUSE.seconds + 1)
    await worker.step()

    assert 3 == await issued(sql)


async def test_a_ca_that_stays_away_is_looked_at_by_one_replica_at_a_time(
    worker, ca, declared, directory, patience, database, sql
):
    ca.at["called"] = directory.error = Unreachable("no answer")
    await worker.step()
    await turn_clock(sql, AWAY_PAUSE + timedelta(seconds=1))
    before, others = (
        directory.asked,
        Patience(
            database=database, issuers={"internal": ISSUER}, answers=directory.answers, actor="replica:test"
        ),
    )
    await asyncio.gather(patience.step(), others.step())

    assert 1 == directory.asked - before
    assert AWAY_PAUSE.seconds == await paused_s(sql)
    assert {"internal"} == set(patience.paused)


async def test_an_error_of_one_order_pauses_nobody(worker, ca, declared, directory, sql):
    """The CA is slow, or broken, for this one: its directory comes."""
    ca.at["finalizing"] = Unreachable("no answer")
    await worker.step()

    assert (1, None) == (directory.asked, await paused_s(sql))
    assert 60 == round(await pause_s(sql), -1)


@pytest.mark.parametrize("status", [429, 503])
async def test_nobody_asks_before_the_ca_wants(worker, ca, directory, patience, issuances, sql, status):
    for n in range(3):
        await issuances.declare(f"s{n}", [f"s{n}.example.test"])
    ca.at["called"] = limited(status=status)
    await worker.step()
    asked = len(ca.calls)
    await look(patience, sql, 590)
    await worker.step()
    too_early = (len(ca.calls), directory.asked)
    ca.at.clear()
    await look(patience, sql, 601)
    await worker.step()

    assert (1, (1, 0)) == (asked, too_early)
    assert 3 == await issued(sql)


async def test_a_limit_of_days_is_its_orders_own_after_a_while(worker, ca, declared, patience, sql):
    """Let's Encrypt limits names for days with the same words: the others must not wait for that."""
    ca.at["called"] = limited(seconds=26 * 3600)
    await worker.step()

    assert LONGEST_LIMIT.total_seconds() == await paused_s(sql)
    assert 26 * 3600 == round(await pause_s(sql), -1)


async def test_one_that_is_limited_again_lets_the_others_go_first(worker, ca, declared, patience, sql):
    ca.at["called"] = limited()
    pauses = []
    for after in (0, 700, 2000):
        await look(patience, sql, after)
        await worker.step()
        pauses.append(round(await pause_s(sql), -1))

    assert [600, 600 + 60, 600 + 600] == pauses


async def test_two_names_of_one_ca_are_left_alone_together(make, ca, declared, cuttable, directory, sql):
    both = {"internal": ISSUER, "again": replace(ISSUER, name="again")}
    patience = Patience(database=cuttable, issuers=both, answers=directory.answers, actor="replica:test")
    ca.at["called"] = limited()
    await make(issuers=both, patience=patience).step()

    assert ["again", "internal"] == [
        row[0] for row in await sql.fetch("SELECT issuer FROM issuer_pause ORDER BY issuer")
    ]


async def test_a_limit_that_comes_while_the_ca_is_looked_at_is_kept(
    worker, ca, declared, directory, patience, cuttable, sql
):
    ca.at["called"] = directory.error = Unreachable("no answer")
    await worker.step()
    directory.error = None
    answers = directory.answers

    async def meanwhile(issuer):
        await answers(issuer)
        await patience.judge("internal", limited())

    patience._answers = meanwhile
    await look(patience, sql, AWAY_PAUSE.seconds + 1)

    assert 600 == round(await paused_s(sql), -1)


@pytest.mark.parametrize("step", STEPS)
async def test_what_a_dead_database_kept_from_us_goes_on_at_once_when_it_is_back(
    worker, ca, declared, cuttable, sql, step
):
    """Not when the lease would have ended."""

    async def cut():
        cuttable.cut()

    ca.at[step] = cut
    for _ in range(3):  # it stays away for some steps
        with pytest.raises(Unavailable):
            await worker.step()
    ca.at.clear()
    cuttable.heal()
    await worker.step()

    assert (1, 0) == (
        await issued(sql),
        await sql.fetchval("SELECT attempts - 1 FROM certrotation"),
    )


class DownKms(LocalKms):
    """A KMS that can be down."""

    down = False

    async def wrap(self, dek, context):
        self._fail()
        return await super().wrap(dek, context)

    async def unwrap(self, wrapped, *, kek_version, context):
        self._fail()
        return await super().unwrap(wrapped, kek_version=kek_version, context=context)

    def _fail(self):
        if self.down:
            raise Unavailable("the KMS is down")


async def test_while_the_kms_is_away_no_ca_is_asked_and_nothing_is_claimed_twice(
    make, ca, declared, database, sql, tmp_path, clock
):
    identity, _ = await deployment.identify(database)
    kms = DownKms(tmp_path / "kek")
    worker = make(sealer=Sealer(kms, deployment=identity, clock=clock))
    kms.down = True
    for _ in range(3):
        with pytest.raises(Unavailable, match="KMS"):
            await worker.step()
    claims = await sql.fetchval("SELECT count(*) FROM certaudit WHERE action = 'rotation.claimed'")
    waits = (await latest(database)).last_error["what"]
    kms.down = False
    await worker.step()

    assert (1, "the KMS is down") == (claims, waits)
    assert (1, 1) == (len(ca.calls), await issued(sql))


async def test_an_order_that_is_planned_waits_for_the_kms_too(
    make, ca, declared, database, sql, tmp_path, clock
):
    """Its key is sealed already, but nobody could open it: a certificate of it would be of no use."""
    identity, _ = await deployment.identify(database)
    ca.at["called"] = Killed()
    with pytest.raises(Killed):
        await make().step()
    ca.at.clear()
    ca.calls.clear()
    await turn_clock(sql, LEASE + timedelta(seconds=1))
    kms = DownKms(tmp_path / "kek")
    kms.down = True
    with pytest.raises(Unavailable, match="KMS"):
        await make(sealer=Sealer(kms, deployment=identity, clock=clock)).step()

    assert [] == ca.calls


async def test_what_needs_a_person_is_held_until_one_asks(worker, ca, declared, database, sql):
    """Not by any passing of time: who knows better says `certvoy rotate`."""
    ca.at["called"] = Refused("newOrder", Problem.of({"type": f"{PREFIX}rejectedIdentifier"}, status=400))
    await worker.step()
    held = await latest(database)
    await turn_clock(sql, timedelta(days=365))
    await worker.step()
    asked = len(ca.calls)
    ca.at.clear()
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await worker.step()

    assert (RotationState.HELD, None) == (rotation_state(held), held.next_attempt_at)
    assert "then `certvoy rotate www`" in held.last_error["hint"]
    assert (1, 1) == (asked, await issued(sql))


async def test_an_account_on_hold_holds_every_order_with_the_page_to_visit(
    worker, ca, declared, issuances, patience, database, sql
):
    """RFC 8555 section 7.3.3: new terms, say; each of its certificates says why."""
    await issuances.declare("s1", ["s1.example.test"])
    problem = Problem.of(
        {"type": f"{PREFIX}userActionRequired", "instance": "https://ca.example.test/terms/2"}, status=403
    )
    ca.at["called"] = Refused("newOrder", problem)
    with capture_logs() as logs:
        await worker.step()
    await look(patience, sql, 365 * 86_400)
    await worker.step()
    asked = len(ca.calls)
    told = [(await progress.latest(database, name)).last_error["hint"] for name in ("www", "s1")]
    ca.at.clear()
    hastened = await pauses.hasten(database, ["internal"], actor="person:test")
    await patience.step()
    await worker.step()

    assert (1, ["internal"]) == (asked, hastened)
    assert ["visit https://ca.example.test/terms/2, then `certvoy issuers resume internal`"] * 2 == told
    assert ["error"] == [line["log_level"] for line in logs if line["event"] == "issuer.held"]
    assert 2 == await issued(sql)


CAREFUL = replace(ISSUER, spacing=Spacing(timedelta(hours=1), 4, timedelta(days=7), 4))


async def test_a_ca_that_counts_is_not_asked_too_often_for_the_same_names(make, ca, declared, database, sql):
    """cert-manager#2741: a Secret that is deleted and declared again buys the same certificate each time."""
    worker = make(issuers={"internal": CAREFUL})
    await worker.step()
    await declarations.remove(database, "www", actor="person:test")
    await declarations.put(database, secret(), actor="person:test")
    await worker.step()
    waits = await latest(database)
    pause = await sql.fetchval(
        "SELECT next_attempt_at - certvoy_now() FROM certrotation WHERE completed_at IS NULL"
    )
    asked = len(ca.calls)
    await turn_clock(sql, timedelta(minutes=61))
    await worker.step()

    assert (1, 0, 2) == (asked, waits.attempts, len(ca.calls))
    assert "was issued within 1 h" in waits.last_error["what"]
    assert timedelta(minutes=59) < pause <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("reason", "actor"), [(Reason.OPERATOR, "person:test"), (Reason.REVOKED, "replica:test")]
)
async def test_a_person_does_not_wait_for_a_ca_s_count_nor_what_is_revoked(
    make, ca, declared, database, sql, reason, actor
):
    """A revoked certificate is refused by whoever looks: its successor is late already."""
    worker = make(issuers={"internal": CAREFUL})
    await worker.step()
    await rotations.open_for(database, "www", reason=reason, actor=actor)
    await worker.step()

    assert 2 == await issued(sql)


async def test_who_hastens_a_rotation_by_hand_does_not_wait_for_a_ca_s_count(
    make, ca, declared, database, sql
):
    worker = make(issuers={"internal": CAREFUL})
    await worker.step()
    await declarations.remove(database, "www", actor="person:test")
    await declarations.put(database, secret(), actor="person:test")
    await worker.step()
    waits = len(ca.calls)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await worker.step()

    assert (1, 2) == (waits, len(ca.calls))


async def test_a_name_that_fails_is_noted_and_not_tried_a_fifth_time_in_an_hour(
    make, ca, declared, issuances, database, sql
):
    """However many Secrets it stands in; metrics name it."""
    worker = make(issuers={"internal": CAREFUL})
    failed = replace(DNS_PROBLEM, identifier="www.example.test", subproblems=(), retry_after=None)
    ca.at["called"] = OrderFailed("no", order_url="u", problems=[failed])
    for n in range(4):
        await issuances.declare(f"s{n}", ["www.example.test", f"s{n}.example.test"])
    await worker.step()
    waits = [(await progress.latest(database, f"s{n}")).last_error["what"] for n in range(4)]
    found = (await facts.read(database)).guilty

    assert (4, {("internal", "www.example.test"): 4}) == (len(ca.calls), found)
    assert 1 == sum("4 validations of it failed within an hour" in what for what in waits)


LIMITED = replace(
    ISSUER,
    limits=Preset(
        {
            Counted.ORDERS: Limit(2, timedelta(hours=2), Exempt.REPLACING),
            Counted.DOMAIN: Limit(50, timedelta(days=7), Exempt.REPLACING, 'already issued for "'),
        }
    ),
)


@pytest.fixture
def rationed(make, cuttable, directory):
    """A worker at a CA with limits."""
    issuers = {"internal": LIMITED}
    return make(
        issuers=issuers,
        patience=Patience(
            database=cuttable, issuers=issuers, answers=directory.answers, actor="replica:test"
        ),
    )


async def test_what_a_limit_forbids_is_not_ordered_and_waits_with_its_reason(
    rationed, ca, issuances, database
):
    for name in ("a", "b", "c"):
        await issuances.declare(name, [f"{name}.example.com"])
    await rationed.step()
    found = [await progress.latest(database, name) for name in ("a", "b", "c")]
    waiting = [rotation for rotation in found if rotation.new_cert_id is None]

    assert (1, 2) == (ca.ordered, len(waiting))
    assert {"budget.orders"} == {rotation.last_error["rule"] for rotation in waiting}
    assert "2 orders of this account in 2 h would be exceeded" in waiting[0].last_error["what"]
    assert [0, 0] == [rotation.attempts for rotation in waiting]
    assert all(
        rotation.next_attempt_at > rotation.triggered_at + timedelta(minutes=23) for rotation in waiting
    )


async def test_who_asks_by_hand_has_what_is_kept(rationed, ca, issuances, database):
    await issuances.declare("a", ["a.example.com"])
    await issuances.declare("b", ["b.example.com"])
    await rationed.step()
    by_itself = ca.ordered
    await rotations.open_for(database, "b", reason=Reason.OPERATOR, actor="person:test")
    await rationed.step()

    assert (1, 2) == (by_itself, ca.ordered)


async def test_a_429_of_a_domain_keeps_that_domain_alone_waiting(rationed, ca, issuances, database):
    said = 'too many certificates (50) already issued for "example.com" in the last 168h'
    document = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": said}
    ca.at["called"] = Refused("newOrder", Problem.of(document, status=429, retry_after=timedelta(hours=26)))
    await issuances.declare("a", ["a.example.com"])
    await rationed.step()
    ca.at.clear()
    await issuances.declare("b", ["b.example.com"])
    await issuances.declare("c", ["c.example.org"])
    await rationed.step()
    a, b, c = [await progress.latest(database, name) for name in ("a", "b", "c")]

    assert c.new_cert_id is not None
    assert (None, None) == (a.new_cert_id, b.new_cert_id)
    assert said in a.last_error["what"]
    assert "50 certificates of example.com in 168 h is spent, as it says itself" in b.last_error["what"]
    for waiting in (a, b):
        assert waiting.next_attempt_at > waiting.triggered_at + timedelta(hours=25)


@pytest.fixture
def two(make, cuttable, directory):
    """A worker with a second CA."""
    other = replace(ISSUER, name="other", directory_url="https://other.example.test/dir")
    issuers = {"internal": ISSUER, "other": other}
    return make(
        issuers=issuers,
        patience=Patience(
            database=cuttable, issuers=issuers, answers=directory.answers, actor="replica:test"
        ),
    )


@pytest.fixture
async def with_fallback(database):
    declared = replace(secret(), fallback=("other",))
    await declarations.put(database, declared, actor="person:test")
    return declared


async def asked(sql):
    return [row["issuer"] for row in await sql.fetch("SELECT issuer FROM acme_order ORDER BY id")]


async def test_what_is_wrong_with_a_name_is_taken_to_no_other_ca(two, ca, with_fallback, sql):
    ca.at["ordered"] = OrderFailed("no", order_url="https://ca.example.test/order/1", problems=[DNS_PROBLEM])
    for day in range(1, 5):
        await two.step()
        await turn_clock(sql, timedelta(days=day))

    assert ["internal"] * 4 == await asked(sql)
    assert 0 == await sql.fetchval("SELECT count(*) FROM issuer_trouble")


async def test_a_ca_that_fails_three_times_is_passed_over_and_the_next_renewal_begins_with_it(
    two, ca, with_fallback, database, sql
):
    document = {"type": "urn:ietf:params:acme:error:serverInternal"}

    async def heal():
        if (await asked(sql))[-1] == "internal":
            raise Refused("finalize", Problem.of(document, status=500))

    ca.at["ordered"] = heal
    for times in range(1, 4):
        await two.step()
        await turn_clock(sql, timedelta(hours=3 * times))
    after_three = await asked(sql)
    fell_back = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'rotation.fell_back'")
    issuer = await sql.fetchval("SELECT issuer FROM certificate")
    ca.at.clear()
    await turn_clock(sql, timedelta(hours=24))
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="person:test")
    await two.step()

    assert ["internal", "other"] == after_three
    assert "internal: it failed 3 times in a row" in fell_back
    assert "other" == issuer
    assert "internal" == (await asked(sql))[-1]
    assert ca.terms[-1].replaces is None
    assert 0 == await sql.fetchval("SELECT count(*) FROM issuer_trouble")


async def test_a_limit_that_lasts_for_days_sends_the_order_to_the_next_ca_at_once(
    make, cuttable, directory, ca, with_fallback, database, sql
):
    other = replace(ISSUER, name="other", directory_url="https://other.example.test/dir")
    issuers = {"internal": LIMITED, "other": other}
    two = make(
        issuers=issuers,
        patience=Patience(
            database=cuttable, issuers=issuers, answers=directory.answers, actor="replica:test"
        ),
    )
    said = 'too many certificates (50) already issued for "example.test" in the last 168h'
    document = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": said}

    async def limit():
        if (await asked(sql))[-1] == "internal":
            raise Refused("newOrder", Problem.of(document, status=429, retry_after=timedelta(days=2)))

    ca.at["called"] = limit
    await two.step()

    assert ["internal", "other"] == await asked(sql)
    assert "other" == await sql.fetchval("SELECT issuer FROM certificate")


async def test_whom_to_fall_back_to_is_changed_without_another_certificate(two, ca, with_fallback, database):
    await two.step()
    await declarations.put(database, replace(with_fallback, fallback=()), actor="person:test")
    await two.step()

    assert 1 == ca.ordered
