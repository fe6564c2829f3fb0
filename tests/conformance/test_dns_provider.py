"""What every provider of DNS must do. A new one adds a bench to `BENCHES` and passes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from acme_engine.dns import api
from acme_engine.dns.table import PROVIDERS, provider_of
from acme_engine.errors import DnsProviderError
from sds_server.programs.child import free_port
from tests.support.bind import Bind, Zone
from tests.support.dns_apis import SECRET, SILENCE, WRONG, AcmeDns, Cloudflare, Front, Webhook, planned
from tests.support.dns_memory import Bench, MemoryDns
from tests.support.pdns import Pdns
from tests.support.route53 import LOGIN, Route53, session

LONG = "x" * 43
"""As long as a DNS-01 value: 32 bytes in base64url."""

ZONE = "example.test"
NAME = f"_acme-challenge.www.{ZONE}"


@asynccontextmanager
async def memory(tmp_path) -> AsyncIterator[Bench]:
    dns = MemoryDns()

    async def look(name):
        return set(dns.values[name])

    yield Bench(dns, ZONE, look)


@asynccontextmanager
async def rfc2136(tmp_path) -> AsyncIterator[Bench]:
    bind = await Bind.start(tmp_path / "bind", [Zone(ZONE)])
    try:
        yield Bench(provider_of("rfc2136", bind.settings), ZONE, bind.txt)
    finally:
        await bind.stop()


@asynccontextmanager
async def cloudflare(tmp_path) -> AsyncIterator[Bench]:
    async with Cloudflare(ZONE, "test") as fake:
        made, stranger = (
            provider_of("cloudflare", {"api_token": token, "endpoint": fake.url}) for token in (SECRET, WRONG)
        )
        yield Bench(made, ZONE, fake.look, api=fake, stranger=stranger)


@asynccontextmanager
async def acme_dns(tmp_path) -> AsyncIterator[Bench]:
    async with AcmeDns(ZONE) as fake:
        made, stranger = (
            provider_of(
                "acme-dns",
                {
                    "endpoint": fake.url,
                    "accounts": json.dumps(
                        [
                            fake.account(name, password=word)
                            for name in ("_acme-challenge", "_acme-challenge.www")
                        ]
                    ),
                },
            )
            for word in (SECRET, WRONG)
        )
        yield Bench(made, ZONE, fake.look, given=lambda text: f"{text:-<43}", api=fake, stranger=stranger)


def webhook(mode, given):
    @asynccontextmanager
    async def bench(tmp_path) -> AsyncIterator[Bench]:
        async with Webhook() as fake:
            made, stranger = (
                provider_of(
                    "httpreq",
                    {"endpoint": fake.url, "username": "certvoy", "password": password, "mode": mode},
                )
                for password in (SECRET, WRONG)
            )
            yield Bench(made, ZONE, fake.look, given=given, api=fake, stranger=stranger)

    return bench


@asynccontextmanager
async def powerdns(tmp_path) -> AsyncIterator[Bench]:
    pdns = await Pdns.start(tmp_path / "pdns", ZONE)
    try:
        async with Front(pdns.url) as front:
            made, stranger = (
                provider_of("powerdns", {"endpoint": front.url, "api_key": key}) for key in (SECRET, WRONG)
            )
            yield Bench(made, ZONE, pdns.txt, api=front, stranger=stranger)
    finally:
        await pdns.stop()


@asynccontextmanager
async def route53(tmp_path) -> AsyncIterator[Bench]:
    moto = await Route53.start(tmp_path, ZONE)
    made = provider_of("route53", {"endpoint": moto.url, **LOGIN})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("acme_engine.dns.route53.get_session", session)
        yield Bench(made, ZONE, moto.txt)


@asynccontextmanager
async def lego(tmp_path) -> AsyncIterator[Bench]:
    """By its `httpreq`: of its 218 the one that leaves all decisions to us."""
    async with Webhook() as fake:
        environment = f"HTTPREQ_ENDPOINT={fake.url}\nHTTPREQ_USERNAME=certvoy\nHTTPREQ_PASSWORD={SECRET}\n"
        made = provider_of("lego", {"service": "httpreq", "environment": environment})
        yield Bench(made, ZONE, fake.look, given=lambda text: f"{text}.thumbprint")


BENCHES = {
    "memory": memory,
    "rfc2136": rfc2136,
    "cloudflare": cloudflare,
    "route53": route53,
    "powerdns": powerdns,
    "acme-dns": acme_dns,
    "lego": lego,
    "httpreq": webhook("default", str),
    "httpreq raw": webhook("raw", lambda text: f"{text}.thumbprint"),
}

MARKS = {"rfc2136": pytest.mark.debian, "powerdns": pytest.mark.debian}

ALL = sorted(BENCHES)
KEEPING = sorted(BENCHES.keys() - {"acme-dns"})
"""Those that keep any number of values, and remove them; what acme-dns does has tests of its own."""

OVER_HTTP = ["acme-dns", "cloudflare", "httpreq", "httpreq raw", "powerdns"]


def of(names):
    return [pytest.param(name, marks=MARKS.get(name, ())) for name in names]


@asynccontextmanager
async def opened(name, tmp_path):
    async with BENCHES[name](tmp_path) as made:
        yield made
        await made.close()


@pytest.fixture(params=of(ALL))
async def every(request, tmp_path):
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=of(KEEPING))
async def bench(request, tmp_path):
    async with opened(request.param, tmp_path) as made:
        yield made


@pytest.fixture(params=of(OVER_HTTP))
async def online(request, tmp_path):
    async with opened(request.param, tmp_path) as made:
        yield made


def test_every_provider_is_here():
    assert {*PROVIDERS, "memory"} == {name.split()[0] for name in BENCHES}


async def test_a_value_that_was_added_is_served(every):
    await every.add(NAME, LONG)

    assert {LONG} == await every.look(NAME)


async def test_a_name_at_the_top_of_the_zone_can_be_changed(every):
    await every.add(f"_acme-challenge.{ZONE}", LONG)

    assert {LONG} == await every.look(f"_acme-challenge.{ZONE}")


async def test_two_values_stand_beside_each_other(every):
    """example.com and *.example.com prove themselves at one name."""
    await every.add(NAME, "one")
    await every.add(NAME, "two")

    assert {"one", "two"} == await every.look(NAME)


async def test_a_value_that_is_added_again_takes_no_other_s_place(every):
    await every.add(NAME, "one")
    await every.add(NAME, "two")
    await every.add(NAME, "two")

    assert {"one", "two"} == await every.look(NAME)


async def test_a_value_that_was_added_twice_is_gone_when_it_was_removed_once(bench):
    await bench.add(NAME, LONG)
    await bench.add(NAME, LONG)
    await bench.remove(NAME, LONG)

    assert set() == await bench.look(NAME)


async def test_values_that_are_added_at_once_are_all_there(bench):
    values = {f"value-{n}" for n in range(8)}
    await asyncio.gather(*(bench.add(NAME, value) for value in values))

    assert values == await bench.look(NAME)


async def test_a_value_is_removed_without_its_neighbours(bench):
    await bench.add(NAME, "one")
    await bench.add(NAME, "two")
    await bench.remove(NAME, "one")

    assert {"two"} == await bench.look(NAME)


async def test_the_last_value_is_removed(bench):
    await bench.add(NAME, LONG)
    await bench.remove(NAME, LONG)

    assert set() == await bench.look(NAME)


async def test_what_is_not_there_can_be_removed(bench):
    await bench.remove(NAME, LONG)
    await bench.add(NAME, "other")
    await bench.remove(NAME, LONG)

    assert {"other"} == await bench.look(NAME)


async def test_values_differ_by_case(bench):
    """Base64url is of both cases, so a comparison that ignores case would remove somebody else's value."""
    await bench.add(NAME, "aBc")
    await bench.add(NAME, "AbC")
    await bench.remove(NAME, "aBc")

    assert {"AbC"} == await bench.look(NAME)


async def refused(call):
    with pytest.raises(DnsProviderError) as e:
        await call
    return e.value


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_provider_that_says_not_now_is_asked_again_when_it_says(online, status):
    online.api.planned.append(planned(status, "<html>later", Retry_After="17"))
    error = await refused(online.add(NAME, "one"))

    assert error.retryable
    assert timedelta(seconds=17) == error.retry_after
    assert f"{NAME}: no value could be added: {online.api.url} says {status}: <html>later" == error.message

    await online.add(NAME, "one")

    assert {"one"} == await online.look(NAME)


async def test_a_provider_that_is_silent_is_not_waited_for_long(online, monkeypatch):
    monkeypatch.setattr(api, "TIMEOUT_S", 0.1)
    online.api.planned.append(SILENCE)
    error = await refused(online.add(NAME, "one"))

    assert error.retryable
    assert f"{online.api.url} does not answer: in time" in error.message


async def test_a_provider_that_is_away_is_tried_again(online):
    await online.api.stop()
    error = await refused(online.add(NAME, "one"))

    assert error.retryable
    assert "does not answer" in error.message


async def test_a_wrong_credential_is_refused_for_good_and_named_nowhere(online):
    """A provider that repeats it does not bring it into our log."""
    error = await refused(online.stranger.add(NAME, online.given("one")))

    assert not error.retryable
    assert error.hint
    assert f"{online.api.url} says 40" in error.message
    assert WRONG not in str(error) + repr(online.stranger)
    assert not await online.look(NAME)


async def test_a_redirect_is_not_followed(online):
    """It would carry the credential to whoever it names."""
    online.api.planned.append(planned(307, Location=f"http://127.0.0.1:{free_port()}/"))
    error = await refused(online.add(NAME, "one"))

    assert not error.retryable
    assert "says 307" in error.message


async def test_an_answer_without_an_end_is_not_read_to_it(online):
    online.api.planned.append(planned(200, "x" * (api.MAX_BODY + 1)))
    error = await refused(online.add(NAME, "one"))

    assert "more than 1,048,576 bytes" in error.message
