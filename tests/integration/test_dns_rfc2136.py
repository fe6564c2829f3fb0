"""Updates of a zone at a real BIND: what it takes, and what it says where it does not."""

import base64

import pytest

from acme_engine.dns.table import provider_of
from acme_engine.errors import DnsProviderError, Misconfigured
from sds_server.programs.child import free_port
from tests.support.bind import KEY_SECRET, Bind, Zone

pytestmark = pytest.mark.debian

ONE_NAME = "_acme-challenge.www.example.test"


@pytest.fixture
async def bind(tmp_path):
    running = await Bind.start(
        tmp_path / "bind", [Zone("example.test", policy=f"name {ONE_NAME} TXT"), Zone("sub.example.test")]
    )
    yield running
    await running.stop()


def provider(bind, **settings):
    return provider_of("rfc2136", {**bind.settings, **settings})


async def refusal(bind, name=ONE_NAME, **settings):
    with pytest.raises(DnsProviderError) as e:
        await provider(bind, **settings).add(name, "value")
    return e.value


async def test_a_key_that_may_change_one_name_is_enough(bind):
    await provider(bind).add(ONE_NAME, "value")

    assert {"value"} == await bind.txt(ONE_NAME)


async def test_caches_may_keep_a_value_for_a_minute(bind):
    """Longer, and the next order's value would not be seen."""
    await provider(bind).add(ONE_NAME, "value")

    assert [60] == [rrset.ttl for rrset in (await bind._ask(ONE_NAME, "TXT")).answer]


async def test_a_name_that_the_key_may_not_change_is_refused_for_good(bind):
    error = await refusal(bind, "_acme-challenge.other.example.test")

    assert f"no value could be added: {bind.address} says REFUSED" in str(error)
    assert not error.retryable
    assert "may change TXT records" in error.hint


async def test_the_zone_is_the_closest_one(bind):
    await provider(bind).add("_acme-challenge.www.sub.example.test", "value")

    assert {"value"} == await bind.txt("_acme-challenge.www.sub.example.test")


async def test_a_zone_that_is_named_is_not_looked_for(bind):
    await provider(bind, zone="example.test").add(ONE_NAME, "value")

    assert {"value"} == await bind.txt(ONE_NAME)
    assert "says NOTZONE" in str(await refusal(bind, zone="sub.example.test"))


async def test_a_zone_that_is_not_there_is_said(bind):
    error = await refusal(bind, "_acme-challenge.www.other.test")

    assert "its zone could not be found" in str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"key_name": "other"}, "does not know a key"),
        ({"key_secret": base64.b64encode(b"s" * 32).decode()}, "secret is another one"),
        ({"key_algorithm": "hmac-sha512"}, "does not know a key"),
    ],
    ids=["name", "secret", "algorithm"],
)
async def test_a_wrong_key_is_named_without_its_secret(bind, settings, hint):
    error = await refusal(bind, **settings)

    assert hint in error.hint
    assert not error.retryable
    assert settings.get("key_secret", KEY_SECRET) not in str(error)


async def test_a_server_that_is_away_is_tried_again(bind):
    error = await refusal(bind, server=f"127.0.0.1:{free_port()}")

    assert "does not answer" in str(error)
    assert error.retryable


async def test_a_secret_that_is_not_base64_is_refused_without_its_text(bind):
    with pytest.raises(Misconfigured) as e:
        provider(bind, key_secret="not&base64")

    assert "rfc2136: key_secret: must be base64, as tsig-keygen prints it" == str(e.value)
