# ruff: noqa: PLR0917 - a test takes what it needs of many fixtures, by name
"""Revocation: the successor is proved first, unless the key is lost; the CA is asked until it has said so."""

from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest
from cryptography import x509

import acme_engine
from acme_engine import keys
from acme_engine.errors import Problem, Refused, Unreachable
from sds_server.errors import Conflict, NotFound, Unavailable
from sds_server.inventory import certificates, declarations, progress, revocations, roll_outs, rotations
from sds_server.lifecycle.accounts import Account, Accounts, Issuer
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.revoker import HOLD, Revoker
from sds_server.model import CertificateStatus, Reason, RevocationReason
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fakes import CuttableDatabase
from tests.support.roll_outs import confirm

ISSUER = Issuer(
    name="internal",
    directory_url="https://ca.example.test/dir",
    ca_file=None,
    roots=(),
    contact=(),
    terms_agreed=True,
    eab=None,
)
S = CertificateStatus


def refusal(code, **more):
    document = {"type": f"urn:ietf:params:acme:error:{code}", "detail": f"it is {code}"} | more
    return Refused("POST /revoke", Problem.of(document, status=403))


class FakeCa(Accounts):
    """A CA that knows our account; ``says`` is raised by the next requests, ``asked`` keeps them."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.says = []
        self.asked = []
        self.forgotten = []

    async def ensure(self, issuer):
        return Account(url="https://ca.example.test/acct/1", key=None)

    @asynccontextmanager
    async def client(self, issuer, account):
        yield self

    async def forget(self, issuer, account):
        self.forgotten.append(account.url)

    async def answers(self, issuer):
        """Its directory comes always."""

    async def revoke(self, der, *, reason, certificate_key=None):
        self.asked.append((x509.load_der_x509_certificate(der), reason, certificate_key))
        if self.says:
            raise self.says.pop(0)


@pytest.fixture
def cuttable(database):
    return CuttableDatabase(database)


@pytest.fixture
def ca(cuttable, issuances):
    return FakeCa(database=cuttable, sealer=issuances.sealer, actor="replica:one")


@pytest.fixture
def make(cuttable, issuances, ca):
    def make(**changed):
        parts = {
            "database": cuttable,
            "sealer": issuances.sealer,
            "issuers": {"internal": ISSUER},
            "accounts": ca,
            "patience": Patience(
                database=cuttable, issuers={"internal": ISSUER}, answers=ca.answers, actor="replica:test"
            ),
            "clock": TurnedClock(),
            "rng": Random(1),
            "actor": "replica:one",
        }
        return Revoker(**parts | changed)

    return make


@pytest.fixture
def revoker(make):
    return make()


@pytest.fixture
async def served(issuances, database):
    """Generation 1 of www, active."""
    certificate = await issuances.issue(await issuances.declare())
    await complete(database)
    return certificate


@pytest.fixture
def want(database):
    async def want(generation=None, *, reason=RevocationReason.SUPERSEDED, at_once=False, secret="www"):
        return await revocations.request(
            database, secret, generation=generation, reason=reason, at_once=at_once, actor="person:test"
        )

    return want


async def complete(database, secret="www"):
    roll_out = await roll_outs.get(database, secret)
    await confirm(database, roll_out, proved=[], actor="r", unobserved=True)


async def status(database, certificate):
    return (await certificates.get(database, certificate.id)).certificate.status


async def revocation(database):
    (found,) = await revocations.of_secret(database, "www")
    return found


async def current(database):
    return (await certificates.served(database, ["www"]))["www"].generation


def test_the_reasons_are_those_that_the_engine_has_codes_for():
    names = {reason.name for reason in acme_engine.RevocationReason}

    assert {reason.name for reason in RevocationReason} == names


async def test_what_is_served_is_revoked_only_when_its_successor_is_proved(
    revoker, ca, served, want, issuances, database
):
    wanted = await want()
    await revoker.step()
    before_it_is_issued = list(ca.asked)
    await issuances.issue(await issuances.declare())
    await revoker.step()
    before_it_is_proved = list(ca.asked)
    await complete(database)
    await revoker.step()

    assert Reason.REVOKED == (await progress.get(database, wanted.rotation))[0].reason
    assert ([], []) == (before_it_is_issued, before_it_is_proved)
    ((leaf, reason, key),) = ca.asked
    assert served.serial_number == f"{leaf.serial_number:x}"
    assert (acme_engine.RevocationReason.SUPERSEDED, None) == (reason, key)
    assert S.REVOKED == await status(database, served)
    assert 2 == await current(database)


async def test_at_once_the_ca_is_asked_while_a_successor_is_ordered_and_proxies_are_sent_nothing_revoked(
    revoker, ca, served, want, issuances, database
):
    await want(reason=RevocationReason.KEY_COMPROMISE, at_once=True)
    await revoker.step()

    assert [acme_engine.RevocationReason.KEY_COMPROMISE] == [reason for _, reason, _ in ca.asked]
    assert S.REVOKED == await status(database, served)
    assert await current(database) is None
    successor = await issuances.issue(await issuances.declare())
    await complete(database)
    assert 2 == await current(database)
    assert served.key_id != successor.key_id
    assert S.REVOKED == await status(database, served), "its successor's proof comes too late to change it"


async def test_an_old_generation_needs_no_successor(revoker, ca, served, want, issuances, database):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    await issuances.issue(await issuances.declare())
    await complete(database)

    wanted = await want(1)
    await revoker.step()

    assert wanted.rotation is None
    assert 1 == len(ca.asked)
    assert (S.REVOKED, 2) == (await status(database, served), await current(database))


async def test_one_that_was_superseded_waits_until_a_later_one_is_proved(
    revoker, ca, served, want, issuances, database
):
    """Targets may still serve what was replaced before its successor was proved everywhere."""
    declared = await issuances.declare()
    await want()
    await issuances.issue(declared)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    await revoker.step()
    superseded = await status(database, served), list(ca.asked)
    await issuances.issue(declared)
    await complete(database)
    await revoker.step()

    assert (S.REPLACED, []) == superseded
    assert 1 == len(ca.asked)
    assert S.REVOKED == await status(database, served)


async def test_a_renewal_that_fails_does_not_keep_an_older_one_from_being_revoked(
    revoker, ca, served, want, issuances, database
):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    await issuances.issue(await issuances.declare())
    await complete(database)
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")

    await want(1)
    await revoker.step()

    assert 1 == len(ca.asked)


async def test_a_rejected_one_can_be_revoked_as_the_ca_issued_it_all_the_same(
    revoker, served, want, issuances, database
):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    rejected = await issuances.issue(await issuances.declare())
    await roll_outs.reject(database, "www", rejected.id, error={"what": "gate"}, actor="r")

    await want(2)
    await revoker.step()

    assert S.REVOKED == await status(database, rejected)
    assert 1 == await current(database)


async def test_one_that_is_rolled_out_and_revoked_at_once_is_not_offered_again(
    revoker, served, want, issuances, database
):
    await rotations.open_for(database, "www", reason=Reason.OPERATOR, actor="p")
    await issuances.issue(await issuances.declare())

    wanted = await want(at_once=True)
    await revoker.step()

    assert 2 == wanted.revocation.generation
    assert await current(database) is None
    await issuances.issue(await issuances.declare())
    assert 3 == await current(database)


async def test_wanting_it_twice_is_as_once_and_wanting_more_is_heard(want, served, database, sql):
    first = await want(1)
    again = await want(1)
    more = await want(1, reason=RevocationReason.KEY_COMPROMISE, at_once=True)
    less = await want(1, reason=RevocationReason.KEY_COMPROMISE)

    assert first.rotation == again.rotation == more.rotation
    assert (False, False) == (first.revocation.ready, again.revocation.ready)
    assert (True, RevocationReason.KEY_COMPROMISE) == (more.revocation.ready, more.revocation.reason)
    assert less.revocation.at_once, "what was said to be urgent stays so"
    assert 1 == await sql.fetchval("SELECT count(*) FROM revocation")
    assert 1 == await sql.fetchval("SELECT count(*) FROM certrotation WHERE completed_at IS NULL")


async def test_what_is_revoked_stays_so_and_is_not_asked_for_again(revoker, ca, want, served, database):
    await want(at_once=True)
    await revoker.step()
    again = await want(1, reason=RevocationReason.KEY_COMPROMISE, at_once=True)
    await revoker.step()

    assert 1 == len(ca.asked)
    assert again.rotation is None
    assert RevocationReason.SUPERSEDED == again.revocation.reason
    assert again.revocation.done_at is not None


async def test_what_cannot_be_revoked_is_refused_with_the_next_step(want, issuances, database, sql):
    await issuances.declare()
    with pytest.raises(NotFound, match="nothing is served"):
        await want()
    with pytest.raises(NotFound, match="no generation 7"):
        await want(7)
    with pytest.raises(NotFound, match="there is none"):
        await want(secret="other")
    await issuances.store(await issuances.claim(), await issuances.declare(), days=1)
    await turn_clock(sql, timedelta(days=2))
    await certificates.lapse(database, limit=10, actor="r")
    with pytest.raises(Conflict, match="has expired"):
        await want(1)

    assert 0 == await sql.fetchval("SELECT count(*) FROM revocation")


async def test_a_refusal_is_kept_whole_and_the_ca_is_asked_again_later(
    revoker, ca, want, served, database, sql
):
    ca.says = [refusal("badRevocationReason", title="No", instance="https://ca.example.test/problem/7")]
    await want(at_once=True)
    await revoker.step()
    failed = await revocation(database)
    await revoker.step()
    at_once = len(ca.asked)
    await turn_clock(sql, timedelta(minutes=2))
    await revoker.step()

    (problem,) = failed.error["problems"]
    assert "urn:ietf:params:acme:error:badRevocationReason" == problem["type"]
    assert ("No", "https://ca.example.test/problem/7") == (problem["title"], problem["instance"])
    assert "choose another reason" == failed.error["hint"]
    assert (1, 2) == (at_once, len(ca.asked))
    assert S.REVOKED == await status(database, served)
    assert (await revocation(database)).error is None
    told = await sql.fetch("SELECT action FROM certaudit WHERE action LIKE '%revo%' ORDER BY id")
    assert ["revocation.wanted", "revocation.failed", "certificate.revoked"] == [
        row["action"] for row in told
    ]


async def test_wanting_it_again_asks_at_once_again(revoker, ca, want, served):
    ca.says = [Unreachable("nobody answers")]
    await want(at_once=True)
    await revoker.step()
    await want(1, at_once=True)
    await revoker.step()

    assert 2 == len(ca.asked)


async def test_where_the_account_may_not_the_certificate_s_key_signs(revoker, ca, want, served, database):
    ca.says = [refusal("unauthorized")]
    await want(at_once=True)
    await revoker.step()

    (_, _, account), (leaf, _, key) = ca.asked
    assert account is None
    assert keys.spki_sha256(leaf.public_key()) == keys.spki_sha256(key.public_key())
    assert S.REVOKED == await status(database, served)


@pytest.mark.parametrize("reason", [RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE])
async def test_where_a_target_has_the_key_the_account_asks(revoker, ca, want, served, database, sql, reason):
    await kept_elsewhere(sql)
    await want(reason=reason, at_once=True)
    await revoker.step()

    ((_, asked, key),) = ca.asked
    assert (reason.name, None) == (asked.name, key)
    assert S.REVOKED == await status(database, served)


async def test_where_a_target_has_the_key_and_the_account_may_not_the_ca_s_words_are_kept(
    revoker, ca, want, served, database, sql
):
    await kept_elsewhere(sql)
    ca.says = [refusal("unauthorized")]
    await want(at_once=True)
    await revoker.step()

    assert 1 == len(ca.asked)
    assert "it is unauthorized" in (await revocation(database)).error["what"]


async def kept_elsewhere(sql):
    await sql.execute("UPDATE key_material SET kek_uri = 'external', envelope = '', dek_wrapped = ''")


async def test_an_account_that_the_ca_forgot_is_forgotten_and_asked_for_anew(revoker, ca, want, served, sql):
    ca.says = [refusal("accountDoesNotExist")]
    await want(at_once=True)
    await revoker.step()

    assert ["https://ca.example.test/acct/1"] == ca.forgotten
    assert 1 == await sql.fetchval("SELECT count(*) FROM revocation WHERE done_at IS NULL")


async def test_an_issuer_that_is_not_configured_is_named(make, ca, want, served, database):
    await want(at_once=True)
    await make(issuers={}).step()

    assert [] == ca.asked
    error = (await revocation(database)).error
    assert "internal is not in this replica's configuration" in error["what"]
    assert "issuers:" in error["hint"]


async def test_an_answer_that_was_not_written_down_is_asked_for_again(
    revoker, ca, cuttable, want, served, database, sql
):
    await want(at_once=True)
    cuttable.cut(after=2)  # the claim and the pair
    with pytest.raises(Unavailable):
        await revoker.step()
    cuttable.heal()
    await revoker.step()
    held = len(ca.asked)
    await turn_clock(sql, HOLD + timedelta(seconds=1))
    await revoker.step()

    assert (1, 2) == (held, len(ca.asked))
    assert S.REVOKED == await status(database, served)


async def test_two_replicas_ask_once(make, ca, want, served):
    one, two = make(), make()
    await want(at_once=True)
    await one.step()
    await two.step()

    assert 1 == len(ca.asked)


async def test_one_that_expires_first_is_left_alone(revoker, ca, want, issuances, database, sql):
    declared = await issuances.declare()
    await issuances.store(await issuances.claim(), declared, days=1)
    await complete(database)
    await want()
    await turn_clock(sql, timedelta(days=2))
    await certificates.lapse(database, limit=10, actor="r")
    await revoker.step()

    assert [] == ca.asked


async def test_what_was_wanted_of_a_secret_is_done_also_when_that_is_deleted(
    revoker, ca, want, served, database, sql
):
    await want()
    await declarations.remove(database, "www", actor="person:test")
    await revoker.step()

    assert 1 == len(ca.asked)
    assert "revoked" == await sql.fetchval("SELECT status FROM certificate")


async def test_the_reason_is_in_the_audit_with_who_wanted_it(revoker, want, served, sql):
    await want(reason=RevocationReason.KEY_COMPROMISE, at_once=True)
    await revoker.step()

    rows = await sql.fetch(
        "SELECT actor, cert_id, payload::jsonb ->> 'reason' AS reason FROM certaudit"
        " WHERE action IN ('revocation.wanted', 'certificate.revoked') ORDER BY id"
    )
    assert [
        ("person:test", served.id, "keyCompromise"),
        ("replica:one", served.id, "keyCompromise"),
    ] == [tuple(row) for row in rows]


async def test_a_ca_that_is_left_alone_is_not_asked_to_revoke(revoker, ca, want, served, sql):
    limit = Problem.of(
        {"type": "urn:ietf:params:acme:error:rateLimited"}, status=429, retry_after=timedelta(minutes=10)
    )
    ca.says = [Refused("POST /revoke", limit)]
    await want(at_once=True)
    await revoker.step()
    await want(at_once=True)
    await revoker.step()
    asked = len(ca.asked)
    await sql.execute("DELETE FROM issuer_pause")
    await revoker.step()

    assert (1, 2) == (asked, len(ca.asked))
