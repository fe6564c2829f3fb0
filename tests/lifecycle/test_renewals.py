"""Renewals by a CA's word: one draw a window, kept and shared; no answer delays one; no CA makes us loop."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from acme_engine import ari
from acme_engine import chain as chains
from sds_server.conditions import renewal_said
from sds_server.errors import Unavailable
from sds_server.inventory import certificates, declarations, pauses, renewal_infos, rotations
from sds_server.inventory.renewal_infos import known
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.renewals import Answer, Renewals
from tests.support.clocks import TurnedClock
from tests.support.databases import turn_clock
from tests.support.fake_ca import fake_ca, problem

NOW = datetime.now(UTC).replace(microsecond=0)
EXPLAINED = "https://ca.example.test/incident/1"


@pytest.fixture(autouse=True)
def moment(monkeypatch):
    """Days are counted from the test's beginning: a suite takes many minutes after a module was read."""
    monkeypatch.setattr(f"{__name__}.NOW", datetime.now(UTC).replace(microsecond=0))


def text(at):
    return f"{at:%FT%TZ}"


class Ca:
    """What a CA says of one certificate."""

    def __init__(self, fake, path):
        self.fake = fake
        self.path = path

    def says(self, start_d, end_d, *, explained=None, **headers):
        """Answer the next question with a window of these days from now."""
        window = {"start": text(NOW + timedelta(days=start_d)), "end": text(NOW + timedelta(days=end_d))}
        body = {"suggestedWindow": window} | ({"explanationURL": explained} if explained else {})
        self.fake.next(self.path, 200, json.dumps(body), **headers)

    def fails(self, status, code="serverInternal"):
        self.fake.next(self.path, status, problem(code))


@pytest.fixture
async def fake():
    async with fake_ca() as running:
        running.directory = {"renewalInfo": f"{running.url}/renewal-info"}
        yield running


def path_of(pair):
    return f"/renewal-info/{ari.certificate_id(chains.parse(pair.chain_pem).leaf)}"


@pytest.fixture
async def certificate(issuances):
    return await issuances.issue(await issuances.declare())


@pytest.fixture
def ca(fake, certificate):
    return Ca(fake, path_of(certificate))


@pytest.fixture
def make(database, fake):
    def make(seed=1):
        issuer = Issuer("internal", fake.directory_url, None, (), (), terms_agreed=True, eab=None)
        renewals = Renewals(
            database=database,
            issuers={"internal": issuer},
            clock=TurnedClock(),
            rng=random.Random(seed),
            actor=f"replica:{seed}",
            allow_http=True,
        )
        renewals.answers = []
        renewals.on_answer = lambda _issuer, answer: renewals.answers.append(answer)
        return renewals

    return make


@pytest.fixture
def renewals(make):
    return make()


async def planned(sql):
    """When, in days from now, the newest certificate is renewed, and why."""
    row = await sql.fetchrow("SELECT renew_at, renew_reason FROM certificate ORDER BY generation DESC")
    return (row["renew_at"] - NOW) / timedelta(days=1), row["renew_reason"]


async def again(sql, renewals):
    """Ask once more, now."""
    await sql.execute("UPDATE renewal_info SET ask_at = certvoy_now() WHERE ask_at IS NOT NULL")
    await renewals.step()


async def asks_in(sql):
    return await sql.fetchval("SELECT ask_at - certvoy_now() FROM renewal_info")


async def test_a_certificate_s_ca_is_asked_as_soon_as_it_is_issued(renewals, ca, certificate, database, sql):
    ca.says(40, 42, explained=EXPLAINED)
    with capture_logs() as logs:
        await renewals.step()
    at, reason = await planned(sql)
    audited = await sql.fetchval("SELECT payload FROM certaudit WHERE action = 'renewal.wished'")
    told = next(line for line in logs if line["event"] == "renewal.decided")

    assert (True, "ari-window") == (40 <= at <= 42, reason)
    assert (EXPLAINED, "ari-window") == (told["explanation_url"], told["reason"])
    assert EXPLAINED in audited
    assert EXPLAINED == (await known(database, certificate.id)).explanation_url


async def test_the_draw_of_a_window_is_kept_over_restarts_and_replicas(make, renewals, ca, sql):
    ca.says(40, 50)
    await renewals.step()
    first = await planned(sql)
    for seed in (2, 3, 4):
        ca.says(40, 50)
        await again(sql, make(seed))

    assert first == await planned(sql)


async def test_a_page_that_explains_is_audited_also_where_the_window_stays(renewals, ca, sql):
    ca.says(40, 50)
    await renewals.step()
    for _ in range(2):
        ca.says(40, 50, explained=EXPLAINED)
        await again(sql, renewals)
    audited = await sql.fetch("SELECT payload FROM certaudit WHERE action = 'renewal.wished' ORDER BY id")

    assert [False, True] == [EXPLAINED in row["payload"] for row in audited]


async def test_another_window_is_drawn_in_anew(renewals, ca, sql):
    ca.says(40, 50)
    await renewals.step()
    ca.says(20, 21)
    await again(sql, renewals)
    at, _ = await planned(sql)

    assert 20 <= at <= 21


async def test_a_window_that_is_over_has_the_renewal_opened_now(renewals, ca, database, sql):
    ca.says(-3, -2, explained=EXPLAINED)
    await renewals.step()
    opened = await rotations.open_due(database, limit=10, actor="r")
    rotation = await sql.fetchrow(
        "SELECT payload FROM certaudit WHERE action = 'rotation.opened' ORDER BY id DESC"
    )

    assert (1, "ari-window-past") == (opened, (await planned(sql))[1])
    assert '"why":"ari-window-past"' in rotation["payload"].replace(" ", "")


async def test_what_a_ca_wishes_too_late_is_renewed_at_the_floor(renewals, ca, sql):
    ca.says(0.85 * 90, 90)
    await renewals.step()
    at, reason = await planned(sql)

    assert (75, "ari-clamped") == (round(at), reason)


async def test_a_successor_never_has_the_window_of_the_one_before(renewals, ca, fake, issuances, sql):
    """RFC 9773 section 4.3.3: the window is of one certificate."""
    ca.says(-3, -2)
    await renewals.step()
    await rotations.open_due(issuances.database, limit=10, actor="r")
    await issuances.issue(await issuances.declare())
    fake.directory = {}
    await renewals.step()

    assert "test" == (await planned(sql))[1]
    assert [None] == [
        row[0]
        for row in await sql.fetch(
            "SELECT pick_at FROM renewal_info i JOIN certificate c ON c.id = i.cert_id WHERE generation = 2"
        )
    ]


async def test_a_ca_that_wants_each_new_one_replaced_at_once_is_made_to_wait(
    renewals, ca, fake, issuances, sql
):
    """cert-manager#8993: a stale window and a backdated notBefore were five certificates in ten seconds."""
    issued, held = 1, []
    renewals.on_held_back = held.append
    ca.says(-3, -2)
    with capture_logs() as logs:
        for _ in range(5):
            await renewals.step()
            if not await rotations.open_due(issuances.database, limit=10, actor="r"):
                break
            new = await issuances.issue(await issuances.declare())
            issued += 1
            Ca(fake, path_of(new)).says(-3, -2)
        at, reason = await planned(sql)

    assert (2, "ari-held-back") == (issued, reason)
    assert 0.9 < at * 24 < 1.5, "an hour after the one before, give or take"
    assert ["internal"] == held
    assert ["error"] == [line["log_level"] for line in logs if line["event"] == "renewal.held_back"]


async def test_a_renewal_by_our_own_dates_holds_no_wish_back(renewals, certificate, fake, issuances, sql):
    """A CA that has an incident within the hour after it gets its way."""
    await sql.execute("UPDATE certificate SET renew_at = certvoy_now()")
    await rotations.open_due(issuances.database, limit=10, actor="r")
    Ca(fake, path_of(await issuances.issue(await issuances.declare()))).says(-3, -2)
    await renewals.step()

    assert "ari-window-past" == (await planned(sql))[1]


@pytest.mark.parametrize("status", [404, 409])
async def test_a_ca_that_has_no_answer_any_more_leaves_the_dates(renewals, ca, sql, status):
    ca.says(70, 71)
    await renewals.step()
    ca.fails(status, "malformed")
    await again(sql, renewals)
    at, reason = await planned(sql)

    assert (True, "third-left") == (59.9 <= at <= 60, reason)
    assert [Answer.ANSWERED, Answer.USELESS] == renewals.answers


async def test_a_ca_that_does_not_answer_puts_nothing_off(renewals, ca, certificate, database, sql):
    ca.says(70, 71)
    await renewals.step()
    ca.fails(500)
    with capture_logs() as logs:
        await again(sql, renewals)
    at, reason = await planned(sql)

    assert (True, "third-left") == (59.9 <= at <= 60, reason)
    assert [Answer.ANSWERED, Answer.FAILED] == renewals.answers
    assert "serverInternal" in (await known(database, certificate.id)).error
    assert ["warning"] == [line["log_level"] for line in logs if line["event"] == "renewal.unanswered"]


async def test_a_ca_that_does_not_answer_keeps_what_it_wished_earlier(renewals, ca, sql):
    ca.says(20, 21)
    await renewals.step()
    before = await planned(sql)
    ca.fails(500)
    await again(sql, renewals)

    assert before == await planned(sql)


async def test_a_ca_without_renewal_info_is_asked_once_a_day(renewals, fake, certificate, database, sql):
    fake.directory = {}
    await renewals.step()

    assert ([Answer.UNSUPPORTED], "test") == (renewals.answers, (await planned(sql))[1])
    assert (await known(database, certificate.id)).error is None, "that is no trouble"
    assert timedelta(hours=21) < await asks_in(sql) < timedelta(hours=27)


async def test_the_ca_is_asked_again_when_it_says(renewals, ca, sql):
    ca.says(40, 50, Retry_After="7200")
    await renewals.step()

    assert timedelta(minutes=107) < await asks_in(sql) < timedelta(minutes=133)


async def test_a_ca_that_wants_to_be_left_alone_is_not_asked_meanwhile(renewals, ca, database, sql):
    ca.says(40, 42)
    until = timedelta(minutes=1)
    await pauses.begin(database, ["internal"], lasts=until, error={"what": "429"}, actor="replica:test")
    await renewals.step()
    meanwhile = list(renewals.answers)
    await sql.execute("DELETE FROM issuer_pause")
    await renewals.step()

    assert ([], [Answer.ANSWERED]) == (meanwhile, renewals.answers)


async def test_a_ca_that_waits_for_a_person_is_asked(renewals, ca, database):
    """Its terms have changed, say: who asks when to renew needs no account."""
    ca.says(40, 42)
    await pauses.begin(database, ["internal"], lasts=None, error={"what": "terms"}, actor="replica:test")
    await renewals.step()

    assert [Answer.ANSWERED] == renewals.answers


async def test_nobody_asks_once_the_renewal_has_begun(renewals, ca, database, sql):
    await rotations.open_for(database, "www", reason="operator", actor="person:test")
    await renewals.step()

    assert [] == renewals.answers
    assert await asks_in(sql) is None


async def test_nobody_asks_for_what_was_removed(renewals, ca, database, sql):
    """It is asked about once more, as it was due, and takes the answers about others along no more."""
    await declarations.remove(database, "www", actor="person:test")
    ca.says(40, 42)
    await renewals.step()

    assert await asks_in(sql) is None


async def test_what_the_database_does_not_take_keeps_no_other_answer_from_being_written(
    renewals, issuances, monkeypatch
):
    failed, asked, answers = asyncio.Event(), [], []

    async def ask(_inquiry, _identifier):
        asked.append(True)
        if len(asked) > 1:
            await failed.wait()
            for _ in range(10):  # whoever does not wait for this one is done by then
                await asyncio.sleep(0)
        return ari.RenewalInfo(ari.Window(NOW, NOW + timedelta(days=1)), None, None)

    async def answered(*_arguments, **_named):
        answers.append(failed.is_set())
        if not failed.is_set():
            failed.set()
            raise Unavailable("database: cut off")

    for name in ("a", "b"):
        await issuances.issue(await issuances.declare(name, [f"{name}.example.test"]))
    monkeypatch.setattr(ari.Inquiry, "ask", ask)
    monkeypatch.setattr(renewal_infos, "answered", answered)

    with pytest.raises(Unavailable):
        await renewals.step()
    assert [False, True] == answers


async def test_nobody_asks_for_what_has_expired(renewals, ca, sql):
    await turn_clock(sql, timedelta(days=91))
    await renewals.step()

    assert [] == renewals.answers


async def test_two_replicas_ask_for_each_certificate_once(make, fake, issuances, sql):
    for n in range(4):
        pair = await issuances.issue(await issuances.declare(f"s{n}", [f"s{n}.example.test"]))
        Ca(fake, path_of(pair)).says(40, 50)
    one, two = make(1), make(2)
    await asyncio.gather(one.step(), two.step())

    assert [Answer.ANSWERED] * 4 == one.answers + two.answers


async def test_the_renewal_of_a_certificate_is_told_in_words(renewals, ca, certificate, database):
    ca.says(-3, -2)
    await renewals.step()
    (pair,) = await certificates.pairs(database, [certificate.id])

    assert "window is over" in renewal_said(pair.certificate.renew_reason)
    assert "is left then" in renewal_said(replace(certificate, renew_reason="third-left").renew_reason)
