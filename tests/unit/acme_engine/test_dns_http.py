"""What is each HTTP provider's own: zones, accounts, forms; what all must do is in tests/conformance."""

import json

import pytest

from acme_engine.dns import checks
from acme_engine.dns.acme_dns import accounts_of
from acme_engine.dns.api import parents
from acme_engine.dns.table import provider_of
from acme_engine.errors import DnsProviderError, Misconfigured
from sds_server.programs.child import free_port
from tests.support.dns_apis import SECRET, AcmeDns, Cloudflare, Webhook

NAME = "_acme-challenge.www.sub.example.test"


@pytest.fixture
async def opened():
    made = []

    def opened(provider, **settings):
        made.append(provider_of(provider, settings))
        return made[-1]

    yield opened
    for provider in made:
        await provider.close()


@pytest.fixture
async def cloudflare():
    async with Cloudflare("example.test", "sub.example.test") as fake:
        yield fake


@pytest.fixture
async def acme_dns():
    async with AcmeDns("acme.test") as fake:
        yield fake


@pytest.fixture
async def webhook():
    async with Webhook() as fake:
        yield fake


async def refusal(call):
    with pytest.raises(DnsProviderError) as e:
        await call
    return e.value


def test_a_zone_is_looked_for_from_the_name_up():
    assert ["_acme-challenge.a.test", "a.test"] == parents("_acme-challenge.a.test")


async def test_cloudflare_s_zone_is_the_closest_one(opened, cloudflare):
    await opened("cloudflare", api_token=SECRET, endpoint=cloudflare.url).add(NAME, "value")
    (record,) = cloudflare.records.values()

    assert cloudflare.zones["sub.example.test"] == record["zone"]
    assert ("TXT", '"value"', 60) == (record["type"], record["content"], record["ttl"])


async def test_cloudflare_s_zone_that_is_named_is_not_looked_for(opened, cloudflare):
    """A token that may edit, and read no zone, is enough then."""
    zone = cloudflare.zones["example.test"]
    await opened("cloudflare", api_token=SECRET, endpoint=cloudflare.url, zone_id=zone).add(NAME, "value")

    assert [("POST", f"/zones/{zone}/dns_records")] == cloudflare.asked


async def test_a_zone_that_cloudflare_does_not_show_is_said_with_the_rights_that_it_takes(opened, cloudflare):
    made = opened("cloudflare", api_token=SECRET, endpoint=cloudflare.url)
    error = await refusal(made.add("_acme-challenge.www.other.test", "value"))

    assert "shows this token no zone that it is in" in error.message
    assert "DNS:Edit, and Zone:Read unless `zone_id` is set" in error.hint
    assert not error.retryable


async def test_cloudflare_s_own_words_are_kept_with_their_code(opened, cloudflare):
    made = opened("cloudflare", api_token=SECRET, endpoint=cloudflare.url, zone_id="gone")
    error = await refusal(made.add(NAME, "value"))

    assert "says 404: Could not route to this object (code 7003)" in error.message


async def test_a_cloudflare_record_on_a_later_page_is_found(opened, cloudflare, monkeypatch):
    monkeypatch.setattr("acme_engine.dns.cloudflare.PER_PAGE", 2)
    made = opened("cloudflare", api_token=SECRET, endpoint=cloudflare.url)
    for n in range(5):
        await made.add(NAME, f"value-{n}")
    await made.remove(NAME, "value-4")

    assert {f"value-{n}" for n in range(4)} == await cloudflare.look(NAME)


def value(text):
    return f"{text:-<43}"


async def test_acme_dns_keeps_the_last_two_values_and_removes_none(opened, acme_dns):
    made = opened("acme-dns", endpoint=acme_dns.url, accounts=json.dumps(acme_dns.account("one")))
    for text in ("a", "b", "c"):
        await made.add("one.acme.test", value(text))
    await made.remove("one.acme.test", value("c"))

    assert {value("b"), value("c")} == await acme_dns.look("one.acme.test")


async def test_a_name_without_an_account_of_acme_dns_is_said(opened, acme_dns):
    made = opened("acme-dns", endpoint=acme_dns.url, accounts=json.dumps(acme_dns.account("one")))
    error = await refusal(made.add("two.acme.test", value("a")))

    assert "no account of acme-dns has this name" in error.message
    assert "CNAME" in error.hint
    assert not error.retryable
    assert not acme_dns.asked


async def test_accounts_are_one_answer_a_list_or_an_object_by_domain(acme_dns):
    one, two = acme_dns.account("one"), acme_dns.account("two")

    assert {"one.acme.test"} == accounts_of(json.dumps(one)).keys()
    assert {"one.acme.test", "two.acme.test"} == accounts_of(json.dumps([one, two])).keys()
    assert {"one.acme.test", "_acme-challenge.www.example.test"} == accounts_of(
        json.dumps({"www.example.test": one})
    ).keys()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '"text"', '{"fulldomain": "a"}', '{"a": "b"}', "[1]"]
)
def test_what_holds_no_account_is_refused_without_its_text(text):
    with pytest.raises(Misconfigured, match="acme-dns: accounts: must be JSON as /register answers it"):
        provider_of("acme-dns", {"endpoint": "https://acme-dns.test", "accounts": text})


async def test_a_webhook_gets_lego_s_forms(opened, webhook):
    login = {"endpoint": webhook.url, "username": "certvoy", "password": SECRET}
    await opened("httpreq", **login).add(NAME, "value")
    await opened("httpreq", **login, mode="raw").remove(NAME, "token.thumbprint")

    assert [
        {"fqdn": f"{NAME}.", "value": "value"},
        {"domain": "www.sub.example.test", "token": "token", "keyAuth": "token.thumbprint"},
    ] == webhook.bodies
    assert [("POST", "/present"), ("POST", "/cleanup")] == webhook.asked


async def test_a_webhook_in_raw_mode_cannot_be_told_of_another_name_or_of_a_digest(opened, webhook):
    made = opened("httpreq", endpoint=webhook.url, mode="raw")
    alias = await refusal(made.add("example-test.validation.test", "token.thumbprint"))
    digest = await refusal(made.remove(NAME, "digest"))

    assert "changes only names that begin with _acme-challenge." in alias.message
    assert "follow_aliases: false" in alias.hint
    assert "cannot name a value that another one has left" in digest.message
    assert not webhook.asked


async def test_no_proxy_is_between_us_and_this_machine(opened, webhook, monkeypatch):
    """It would read the credential, which goes to loopback in plain text."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    await opened("httpreq", endpoint=webhook.url, username="certvoy", password=SECRET).add(NAME, "value")

    assert {"value"} == await webhook.look(NAME)


@pytest.mark.parametrize("half", [{"username": "certvoy"}, {"password": SECRET}])
def test_a_webhook_s_user_and_password_go_together(half):
    with pytest.raises(Misconfigured, match="username and password go together"):
        provider_of("httpreq", {"endpoint": "https://hook.test", **half})


@pytest.mark.parametrize(
    "text",
    ["https://a.test", "https://a.test:8443/v1", "http://127.0.0.1:80", "http://[::1]/", "http://localhost"],
)
def test_an_endpoint_is_https_or_on_this_machine(text):
    checks.url(text)


@pytest.mark.parametrize(
    "text",
    [
        *("http://a.test", "http://192.0.2.1", "ftp://a.test", "a.test", "https://", "https://a.test:x"),
        *("https://a.test/?q", "https://a.test/#f", "https://user:password@a.test", "https://a .test"),
    ],
)
def test_an_endpoint_that_would_show_the_credential_or_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        checks.url(text)


@pytest.mark.parametrize("text", ["", "two\nlines", "tab\t"])
def test_a_token_is_one_line(text):
    with pytest.raises(ValueError, match="one line"):
        checks.one_line(text)


@pytest.mark.parametrize("text", ["", "a/b", "a b", "../zones", "é"])
def test_an_id_is_no_path(text):
    with pytest.raises(ValueError, match="must be an id"):
        checks.word(text)
