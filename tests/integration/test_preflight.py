"""Before anything is ordered: what a real BIND and real listeners show, and what each finding says to do."""

import asyncio
import socket
from dataclasses import replace
from datetime import UTC, datetime

import dns.asyncquery
import dns.exception
import dns.message
import pytest
from aiohttp import web
from aiohttp.resolver import DefaultResolver

from acme_engine import Http01Responder
from acme_engine.dns.zones import Zones
from acme_engine.preflight import Ca, Question, Verdict, examine
from sds_server.programs.child import Child, free_port
from tests.support import debian
from tests.support.acme import Tokens
from tests.support.bind import HOST, Bind, Zone

TOKEN = "t" * 43
ACCOUNT = "https://ca.example/acct/1"
OURS = f"ca.example; accounturi={ACCOUNT}"
NOW = datetime(2026, 11, 27, tzinfo=UTC)
STANDING = {
    "stands": "",
    "lasting": f"; persistUntil={NOW.timestamp() + 31 * 86400:.0f}",
    "ending": f"; persistUntil={NOW.timestamp() + 29 * 86400:.0f}",
    "ended": f"; persistUntil={NOW.timestamp() - 1:.0f}",
    "foreign": "0",
}
INTERNAL = Ca("internal", identities=("ca.example",), public=False)
PUBLIC = Ca("le", identities=("ca.example",), public=True)

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def bind(tmp_path_factory):
    zones = [
        Zone("open.test"),
        Zone("ours.test", ['@ IN CAA 0 issue "ca.example"']),
        Zone("theirs.test", ['@ IN CAA 0 issue "other.example"', 'www IN CAA 0 iodef "mailto:a@b.test"']),
        Zone("six.test", ["both IN A 127.0.0.1", "both IN AAAA ::1"]),
        Zone("bogus.test"),
        *(
            Zone(f"{name}.test", [f'_validation-persist IN TXT "{OURS}{more}; policy=wildcard"'])
            for name, more in STANDING.items()
        ),
        Zone("flat.test", [f'_validation-persist IN TXT "{OURS}"']),
        Zone("labelled.test", ["_ujmmovf2vn55tgye._acme-challenge IN CNAME proof.open.test."]),
        Zone("bound.test", ['@ IN CAA 0 issue "ca.example; accounturi=https://ca.example/acct/1"']),
        Zone("alias.test", ["_acme-challenge IN CNAME proof.open.test."]),
    ]
    bind = asyncio.run(Bind.start(tmp_path_factory.mktemp("bind"), zones))
    yield bind
    asyncio.run(bind.stop())


@pytest.fixture
async def question():
    """A responder that answers, as certvoy's does."""
    tokens = Tokens()
    tokens[TOKEN] = f"{TOKEN}.thumbprint"
    responder = Http01Responder(tokens, host=HOST, port=0)
    port = await responder.start()
    yield Question(TOKEN, tokens[TOKEN], port)
    await responder.stop()


@pytest.fixture
def look(bind):
    async def look(name, *, ca=INTERNAL, method="http-01", question=None):
        zones = Zones(resolvers=[bind.address], port=bind.port)
        found = await examine(name, ca=ca, method=method, question=question, zones=zones, clock=lambda: NOW)
        return {finding.check: finding for finding in found}

    return look


async def serving(answer):
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, HOST, port).start()
    return runner, Question(TOKEN, f"{TOKEN}.thumbprint", port)


async def test_where_all_is_well_nothing_is_to_be_mended(look, question):
    found = await look("www.ours.test", question=question)

    assert {"caa", "address", f"http-01 at {HOST}"} == {*found}
    assert {(Verdict.OK, "")} == {(finding.verdict, finding.fix) for finding in found.values()}


async def test_a_caa_record_above_counts_and_the_fix_is_a_record(look):
    """The nearest ancestor that has any record counts, be it one that says nothing of issuing."""
    refused = (await look("api.theirs.test"))["caa"]
    nearer = (await look("deep.www.theirs.test"))["caa"]

    assert Verdict.FAILED is refused.verdict
    assert 'add theirs.test. CAA 0 issue "ca.example"' == refused.fix
    assert Verdict.OK is nearer.verdict


async def test_a_name_that_is_not_there_has_no_address(look):
    found = (await look("nowhere.six.test.invalid"))["address"]

    assert Verdict.FAILED is found.verdict
    assert "add an A or AAAA record for nowhere.six.test.invalid" in found.fix


async def test_a_public_ca_cannot_reach_an_inner_address(look):
    inside = (await look("www.open.test", ca=PUBLIC))["address"]
    internal = (await look("www.open.test", ca=INTERNAL))["address"]

    assert (Verdict.FAILED, Verdict.OK) == (inside.verdict, internal.verdict)
    assert "the CA cannot reach 127.0.0.1" in inside.fix


async def test_each_address_is_asked_for_itself(look, question):
    """Most CAs ask IPv6 first, and an AAAA record that leads nowhere is what nobody thinks of."""
    found = await look("both.six.test", question=question)

    assert Verdict.OK is found["http-01 at 127.0.0.1"].verdict
    assert Verdict.FAILED is found["http-01 at ::1"].verdict
    assert "Connect call failed" in found["http-01 at ::1"].seen or "refused" in found["http-01 at ::1"].seen
    assert "take the address out of DNS" in found["http-01 at ::1"].fix


async def test_who_answers_in_our_place_is_shown(look):
    async def answer(_request):
        return web.Response(text="welcome to nginx")

    runner, question = await serving(answer)
    found = (await look("www.open.test", question=question))["http-01 at 127.0.0.1"]
    await runner.cleanup()

    assert Verdict.FAILED is found.verdict
    assert "somebody else answers: 'welcome to nginx'" == found.seen
    assert "/.well-known/acme-challenge/" in found.fix


async def test_a_redirect_that_ends_nowhere_is_shown(look):
    async def answer(request):
        if "moved" in request.path:
            raise web.HTTPNotFound
        raise web.HTTPMovedPermanently("/moved")

    runner, question = await serving(answer)
    found = (await look("www.open.test", question=question))["http-01 at 127.0.0.1"]
    await runner.cleanup()

    assert Verdict.FAILED is found.verdict
    assert found.seen.startswith("status 404, after a redirect to http://127.0.0.1:")


async def test_what_a_redirect_leads_to_is_not_shown(look):
    """The name's owner chooses where; it may be something that only this host can read."""

    async def answer(request):
        if "secret" in request.path:
            return web.Response(text="only for those inside")
        raise web.HTTPMovedPermanently("/secret")

    runner, question = await serving(answer)
    found = (await look("www.open.test", question=question))["http-01 at 127.0.0.1"]
    await runner.cleanup()

    assert Verdict.FAILED is found.verdict
    assert "inside" not in found.seen


@pytest.mark.parametrize(
    "to", ["127.0.0.9", "127.9", "①②⑦.0.0.9", "[::ffff:127.0.0.9]", "localhost.inside.test"]
)
@pytest.mark.parametrize("ca", [PUBLIC, INTERNAL])
async def test_a_redirect_leads_nobody_to_what_only_this_host_reaches(look, monkeypatch, ca, to):
    """The name's owner chooses where; already that it is asked for may do something there."""
    asked = []

    async def inner(request):
        asked.append(request.host)
        return web.Response()

    async def answer(_request):
        raise web.HTTPFound(f"http://{to}:{port}/mutate")

    async def resolve(_resolver, host, port=0, family=0):
        there = {"host": "127.0.0.9", "hostname": host, "port": port, "proto": 0, "flags": 0}
        return [there | {"family": socket.AF_INET}]

    monkeypatch.setattr(DefaultResolver, "resolve", resolve)
    inside, port = web.AppRunner(web.Application()), free_port()
    inside.app.router.add_get("/mutate", inner)
    await inside.setup()
    for host in ("127.0.0.9", "::1"):
        await web.TCPSite(inside, host, port).start()
    runner, question = await serving(answer)
    found = (await look("www.open.test", ca=ca, question=question))["http-01 at 127.0.0.1"]
    await runner.cleanup()
    await inside.cleanup()

    assert [] == asked
    assert Verdict.FAILED is found.verdict


async def test_a_wildcard_needs_dns(look):
    by_http = await look("*.open.test")
    by_dns = await look("*.open.test", method="dns-01")

    assert Verdict.FAILED is by_http["wildcard"].verdict
    assert {"wildcard", "caa"} == {*by_http}, "an address would prove nothing"
    assert "wildcard" not in by_dns
    assert Verdict.OK is by_dns["dns-01"].verdict


async def test_where_the_txt_record_goes_is_followed_through_its_alias(look):
    found = (await look("alias.test", method="dns-01"))["dns-01"]

    assert Verdict.OK is found.verdict
    assert "_acme-challenge.alias.test is an alias of proof.open.test" in found.seen


async def test_a_record_at_an_account_s_own_name_is_looked_for_there(look):
    account = "https://example.com/acme/acct/ExampleAccount"
    known = replace(INTERNAL, account=account)
    new = (await look("open.test", method="dns-account-01"))["dns-account-01"]
    found = (await look("labelled.test", ca=known, method="dns-account-01"))["dns-account-01"]

    assert Verdict.WARNING is new.verdict
    assert "there is none at internal yet" in new.seen
    assert "_ujmmovf2vn55tgye._acme-challenge.labelled.test is an alias of proof.open.test" in found.seen


@pytest.mark.parametrize(
    ("name", "verdict", "seen"),
    [
        ("stands.test", Verdict.OK, "all servers have it"),
        ("lasting.test", Verdict.OK, "all servers have it"),
        ("ending.test", Verdict.WARNING, "permission ends 2026-12-26, and renewals fail from then on"),
        ("ended.test", Verdict.FAILED, "does not have it, but 1 others"),
        ("foreign.test", Verdict.FAILED, "does not have it, but 1 others"),
        ("flat.test", Verdict.FAILED, "does not have it, but 1 others"),
        ("open.test", Verdict.FAILED, "does not have it"),
    ],
)
async def test_a_standing_record_is_looked_for_and_its_end(look, name, verdict, seen):
    """draft-ietf-acme-dns-persist: at the end of persistUntil nothing is renewed any more."""
    known = replace(INTERNAL, account=ACCOUNT)
    found = (await look(f"*.{name}", ca=known, method="dns-persist-01"))["dns-persist-01"]
    line = f'_validation-persist.{name}. IN TXT "{OURS}; policy=wildcard"'

    assert verdict is found.verdict
    assert seen in found.seen
    assert (verdict is Verdict.OK) is (line not in found.fix)


async def test_a_standing_record_for_the_name_alone_is_enough_for_that(look):
    known = replace(INTERNAL, account=ACCOUNT)

    assert (
        Verdict.OK is (await look("flat.test", ca=known, method="dns-persist-01"))["dns-persist-01"].verdict
    )


@pytest.mark.parametrize("ca", [INTERNAL, replace(INTERNAL, account=ACCOUNT, identities=())])
async def test_whose_standing_record_it_would_be_is_not_guessed(look, ca):
    assert (
        Verdict.WARNING is (await look("open.test", ca=ca, method="dns-persist-01"))["dns-persist-01"].verdict
    )


@pytest.mark.parametrize(
    ("account", "verdict"),
    [
        ("https://ca.example/acct/1", Verdict.OK),
        ("https://ca.example/acct/2", Verdict.FAILED),
        (None, Verdict.OK),
    ],
)
async def test_a_caa_record_for_another_account_forbids_ours(look, account, verdict):
    """RFC 8657 section 3; an account that there is not yet may be the one that is meant."""
    found = await look("bound.test", ca=replace(PUBLIC, account=account), method="dns-01")

    assert verdict is found["caa"].verdict


async def test_a_resolver_that_is_silent_is_named():
    silent = f"{HOST}:{free_port()}"
    found = await examine(
        "www.open.test", ca=INTERNAL, method="http-01", question=None, zones=Zones(resolvers=[silent])
    )

    assert all(finding.verdict is Verdict.FAILED for finding in found)
    assert all(silent.rpartition(":")[2] in finding.seen for finding in found)


# A resolver that validates

_VALIDATING = """\
options {{
	directory "{directory}"; pid-file none; session-keyfile "{directory}/session.key";
	listen-on port {port} {{ {host}; }}; listen-on-v6 {{ none; }}; recursion yes; dnssec-validation yes;
}};
controls {{ }};
trust-anchors {{ "bogus.test." static-ds 12345 13 2 "{digest}"; }};
zone "bogus.test" {{ type forward; forward only; forwarders {{ {host} port {upstream}; }}; }};
"""


@pytest.fixture
async def validating(bind, tmp_path):
    """A BIND that knows a key by which bogus.test is signed, and it is not."""
    port = free_port()
    config = tmp_path / "named.conf"
    filled = _VALIDATING.format(
        directory=tmp_path, port=port, host=HOST, digest="ab" * 32, upstream=bind.port
    )
    config.write_text(filled)
    child = Child(
        "named",
        [debian.program("named", of="bind"), "-4", "-g", "-n", "1", "-p", str(port), "-c", config],
        log=tmp_path / "named.log",
        env=debian.environment("bind"),
        cwd=tmp_path,
    )
    question = dns.message.make_query("www.bogus.test", "A")

    async def answers():
        try:
            await dns.asyncquery.udp(question, HOST, port=port, timeout=1)
        except dns.exception.Timeout:
            return False
        return True

    await child.ready(answers)
    yield f"{HOST}:{port}"
    await child.stop()


async def test_a_zone_whose_dnssec_is_broken_is_told_from_a_name_without_an_address(validating):
    """A resolver says SERVFAIL, and to add an address would mend nothing."""
    found = await examine(
        "www.bogus.test", ca=INTERNAL, method="http-01", question=None, zones=Zones(resolvers=[validating])
    )

    assert {"caa", "address"} == {finding.check for finding in found}
    for finding in found:
        assert Verdict.FAILED is finding.verdict
        assert "says SERVFAIL, as the DNSSEC of " in finding.seen
        assert "`delv NAME`" in finding.fix
