"""Zones at Route 53, as moto tells it: sets that others change too, zones, rights, what is waited for."""

import pytest

from acme_engine.dns.route53 import Route53 as Provider
from acme_engine.dns.route53 import batch_of
from acme_engine.dns.table import provider_of
from acme_engine.errors import DnsProviderError, Misconfigured
from tests.support.dns_apis import Front, planned
from tests.support.route53 import LOGIN, Route53, session

NAME = "_acme-challenge.www.sub.example.test"
MESSAGE = """\
<?xml version="1.0"?><ErrorResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Error>\
<Type>Sender</Type><Code>{code}</Code><Message>{words}</Message></Error></ErrorResponse>"""


@pytest.fixture
async def moto(tmp_path):
    return await Route53.start(tmp_path, "example.test", "sub.example.test")


@pytest.fixture
async def front(moto):
    async with Front(moto.url) as made:
        yield made


@pytest.fixture
async def opened(front, monkeypatch):
    monkeypatch.setattr("acme_engine.dns.route53.get_session", session)
    made = []

    def opened(**settings):
        made.append(provider_of("route53", {"endpoint": front.url, **LOGIN, **settings}))
        return made[-1]

    yield opened
    for provider in made:
        await provider.close()


def error(status, code, words="no"):
    return planned(status, MESSAGE.format(code=code, words=words), Content_Type="text/xml")


async def refusal(call):
    with pytest.raises(DnsProviderError) as e:
        await call
    return e.value


def rrset(*values, ttl_s=60):
    records = [{"Value": f'"{value}"'} for value in values]
    return {"Name": f"{NAME}.", "Type": "TXT", "TTL": ttl_s, "ResourceRecords": records}


def test_a_batch_names_what_the_set_was_and_what_it_shall_be():
    """Both or neither: Route 53 refuses the batch where the set is another one by now."""
    before, after = rrset("a", ttl_s=300), rrset("a", "b", ttl_s=300)

    assert [
        {"Action": "DELETE", "ResourceRecordSet": before},
        {"Action": "CREATE", "ResourceRecordSet": after},
    ] == batch_of(before, NAME, "b", there=True)


def test_a_first_value_makes_the_set_and_the_last_one_takes_it_away():
    assert [{"Action": "CREATE", "ResourceRecordSet": rrset("a")}] == batch_of(None, NAME, "a", there=True)
    assert [{"Action": "DELETE", "ResourceRecordSet": rrset("a")}] == batch_of(
        rrset("a"), NAME, "a", there=False
    )


def test_what_is_so_already_is_no_batch():
    assert [] == batch_of(rrset("a", "b"), NAME, "a", there=True)
    assert [] == batch_of(rrset("b"), NAME, "a", there=False)
    assert [] == batch_of(None, NAME, "a", there=False)


async def test_the_zone_is_the_closest_one(opened, moto, front):
    await opened().add(NAME, "value")

    assert ("POST", f"/2013-04-01/hostedzone/{moto.ids['sub.example.test']}/rrset/") in front.asked
    assert {"value"} == await moto.txt(NAME)


async def test_a_zone_that_is_not_there_is_said_with_the_rights_that_it_takes(opened):
    said = await refusal(opened().add("_acme-challenge.www.other.test", "value"))

    assert "Route 53 has no public zone that it is in" in said.message
    assert "route53:ListHostedZonesByName" in said.hint
    assert not said.retryable


async def test_a_zone_that_is_named_is_not_looked_for(opened, moto, front):
    await opened(hosted_zone_id=moto.ids["sub.example.test"]).add(NAME, "value")

    assert not [path for _, path in front.asked if "hostedzonesbyname" in path]


async def test_what_is_there_already_stays_and_keeps_its_ttl(opened, moto):
    await moto.write("sub.example.test", NAME, "theirs", ttl_s=300)
    await opened().add(NAME, "value")
    found = await moto.rrset(NAME)

    assert {"theirs", "value"} == await moto.txt(NAME)
    assert 300 == found["TTL"]


async def test_a_set_that_changed_after_it_was_read_is_read_again(opened, moto, front, monkeypatch):
    """Another replica was faster: what it wrote stays."""
    monkeypatch.setattr("acme_engine.dns.route53.PAUSE_S", 0.0)
    answer, late = front.answer, [error(400, "InvalidChangeBatch", "the values do not match")]

    async def come_first(request):
        if request.method == "POST" and late:
            await moto.write("sub.example.test", NAME, "theirs")
            return late.pop()
        return await answer(request)

    monkeypatch.setattr(front, "answer", come_first)
    await opened().add(NAME, "value")

    assert {"theirs", "value"} == await moto.txt(NAME)


async def test_a_set_that_changes_all_the_time_is_left_for_later(opened, front, monkeypatch):
    monkeypatch.setattr("acme_engine.dns.route53.PAUSE_S", 0.0)
    answer = front.answer

    async def refuse(request):
        return error(400, "PriorRequestNotComplete") if request.method == "POST" else await answer(request)

    monkeypatch.setattr(front, "answer", refuse)
    said = await refusal(opened().add(NAME, "value"))

    assert "Route 53 says PriorRequestNotComplete: no" in said.message
    assert said.retryable


async def test_records_with_a_routing_policy_are_left_alone(opened, moto):
    await moto.write("sub.example.test", NAME, "theirs", SetIdentifier="one", Weight=1)
    said = await refusal(opened().add(NAME, "value"))

    assert "have a routing policy" in said.message
    assert not said.retryable


async def test_a_change_is_waited_for_until_it_is_everywhere_and_not_for_ever(moto, front, monkeypatch):
    now, answer, polls = [0.0], front.answer, []

    async def pending(request):
        reply = await answer(request)
        if "/change/" not in request.path:
            return reply
        polls.append(now[0])
        return planned(200, reply.text.replace("INSYNC", "PENDING"), Content_Type="text/xml")

    async def sleep(pause_s):
        now[0] += pause_s

    monkeypatch.setattr(front, "answer", pending)
    provider = Provider(
        region="us-east-1",
        endpoint=front.url,
        login=(LOGIN["access_key_id"], LOGIN["secret_access_key"]),
        sleep=sleep,
        monotonic=lambda: now[0],
    )
    await provider.add(NAME, "value")
    await provider.close()

    assert 0.0 == polls[0]
    assert 40.0 <= now[0] < 45.0


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (403, "AccessDenied", False),
        (403, "InvalidClientTokenId", False),
        (403, "SignatureDoesNotMatch", False),
        (404, "NoSuchHostedZone", False),
        (400, "Throttling", True),
        (503, "ServiceUnavailable", True),
        (500, "InternalFailure", True),
    ],
)
async def test_what_asking_again_may_help_against_is_said(opened, front, status, code, retryable):
    """The SDK asks twice."""
    front.planned.extend(error(status, code, f"not with {LOGIN['secret_access_key']}") for _ in range(2))
    said = await refusal(opened().add(NAME, "value"))

    assert f"no value could be added: Route 53 says {code}: not with [removed]" in said.message
    assert retryable is said.retryable


async def test_an_endpoint_that_is_away_is_tried_again(opened, front):
    await front.stop()
    said = await refusal(opened().add(NAME, "value"))

    assert "Route 53 cannot be asked" in said.message
    assert said.retryable


@pytest.mark.parametrize("half", LOGIN)
def test_an_access_key_and_its_secret_go_together(half):
    with pytest.raises(Misconfigured, match="access_key_id and secret_access_key go together"):
        provider_of("route53", {half: LOGIN[half]})
