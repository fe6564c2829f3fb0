"""lego's providers in their process: what it is told and what not, when it hangs, dies, or is left alone."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from acme_engine.dns import lego
from acme_engine.dns.table import provider_of
from acme_engine.dns01 import record_value
from acme_engine.errors import DnsProviderError, Misconfigured
from tests.support.bind import KEY_NAME, KEY_SECRET, Bind, Zone
from tests.support.dns_apis import SECRET, SILENCE, Webhook

NAME = "_acme-challenge.www.example.test"
VALUE = "token.thumbprint"


@pytest.fixture
async def webhook():
    async with Webhook() as fake:
        yield fake


@pytest.fixture
async def opened():
    made = []

    def opened(service, environment, **settings):
        made.append(provider_of("lego", {"service": service, "environment": environment, **settings}))
        return made[-1]

    yield opened
    for provider in made:
        await provider.close()


@pytest.fixture
def hooked(opened, webhook):
    return opened(
        "httpreq",
        f"HTTPREQ_ENDPOINT={webhook.url}\nHTTPREQ_USERNAME=certvoy\nHTTPREQ_PASSWORD={SECRET}",
    )


async def refusal(call):
    with pytest.raises(DnsProviderError) as e:
        await call
    return e.value


def pid(provider):
    return provider._process.pid


def rfc2136(bind, secret=KEY_SECRET):
    return f"""\
        # as lego's page has it
        RFC2136_NAMESERVER={bind.address}
        RFC2136_TSIG_KEY={KEY_NAME}

        RFC2136_TSIG_ALGORITHM="hmac-sha256."
        RFC2136_TSIG_SECRET={secret}
    """


@pytest.mark.debian
async def test_a_value_is_in_a_real_zone_and_gone_again(opened, tmp_path):
    bind = await Bind.start(tmp_path / "bind", [Zone("example.test")])
    try:
        provider = opened("rfc2136", rfc2136(bind), lego_resolvers=bind.address)
        await provider.add(NAME, VALUE)

        assert {record_value(VALUE)} == await bind.txt(NAME)

        await provider.remove(NAME, VALUE)

        assert set() == await bind.txt(NAME)
    finally:
        await bind.stop()


@pytest.mark.debian
async def test_a_refusal_has_lego_s_words_without_the_credential(opened, tmp_path):
    bind = await Bind.start(tmp_path / "bind", [Zone("example.test")])
    try:
        wrong = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
        provider = opened("rfc2136", rfc2136(bind, wrong), lego_resolvers=bind.address)
        error = await refusal(provider.add(NAME, VALUE))
    finally:
        await bind.stop()

    assert f"{NAME}: no value could be added: rfc2136 by lego says" in error.message
    assert wrong not in str(error)
    assert error.retryable


async def test_the_process_is_given_credentials_by_its_pipe_alone(hooked, webhook):
    await hooked.add(NAME, VALUE)
    process = Path("/proc") / str(pid(hooked))

    assert {record_value(VALUE)} == await webhook.look(NAME)
    assert b"" == (process / "environ").read_bytes()
    assert SECRET not in (process / "cmdline").read_text()
    assert "lego_bridge" not in sys.modules


async def test_a_setting_that_is_no_credential_leaves_words_alone(opened, webhook):
    await webhook.stop()
    provider = opened("httpreq", f"HTTPREQ_ENDPOINT={webhook.url}\nHTTPREQ_HTTP_TIMEOUT=1\nHTTPREQ_X=e")
    error = await refusal(provider.add(NAME, VALUE))

    assert "httpreq: " in error.message
    assert "[removed]" in error.message, "the endpoint may hold a token"


async def test_a_service_that_lego_has_not_and_settings_that_it_lacks_are_said_for_good(opened):
    unknown = await refusal(opened("nobody", "A=b").add(NAME, VALUE))
    lacking = await refusal(opened("hetzner", "A=b").add(NAME, VALUE))

    assert "lego does not take nobody: unrecognized DNS provider" in unknown.message
    assert "HETZNER_API_TOKEN" in lacking.message
    assert "https://go-acme.github.io/lego/dns/hetzner/" in lacking.hint
    assert not unknown.retryable
    assert not lacking.retryable


async def test_a_call_that_hangs_is_ended_with_its_process_and_the_next_starts_another(
    hooked, webhook, monkeypatch
):
    await hooked.add(NAME, "other.thumbprint")
    hung = pid(hooked)
    webhook.planned.append(SILENCE)
    with monkeypatch.context() as patch:
        patch.setattr(lego, "LIMIT_S", 0.2)
        error = await refusal(hooked.add(NAME, VALUE))

    assert "httpreq by lego did not answer in 0.2 s, and its process was ended" in error.message
    assert error.retryable
    assert not Path(f"/proc/{hung}").exists()

    await hooked.add(NAME, VALUE)

    assert record_value(VALUE) in await webhook.look(NAME)
    assert hung != pid(hooked)


async def test_a_process_that_was_killed_is_started_again(hooked, webhook):
    await hooked.add(NAME, "other.thumbprint")
    os.kill(pid(hooked), signal.SIGKILL)
    await hooked._process.wait()
    await hooked.add(NAME, VALUE)

    assert record_value(VALUE) in await webhook.look(NAME)


async def test_a_process_that_says_what_is_no_answer_is_ended(opened, tmp_path, monkeypatch):
    helper = tmp_path / "helper.py"
    helper.write_text("print('no JSON', flush=True)\nimport time\ntime.sleep(60)\n")
    monkeypatch.setattr(lego, "HELPER", helper)
    provider = opened("httpreq", "A=b")
    error = await refusal(provider.add(NAME, VALUE))

    assert "the process of httpreq by lego ended: JSONDecodeError" in error.message
    assert provider._process is None


async def test_a_call_that_nobody_waits_for_any_more_goes_on(hooked, webhook):
    """Killed in the middle, lego would forget what it needs to take the value away."""
    call = asyncio.create_task(hooked.add(NAME, VALUE))
    while not webhook.asked:
        await asyncio.sleep(0.01)
    call.cancel()
    await hooked.remove(NAME, VALUE)

    assert [("POST", "/present"), ("POST", "/cleanup")] == webhook.asked
    assert set() == await webhook.look(NAME)


async def test_a_name_that_lego_cannot_address_asks_nobody(hooked, webhook):
    error = await refusal(hooked.add("example-test.validation.test", VALUE))

    assert "changes only names that begin with _acme-challenge." in error.message
    assert hooked._process is None


def test_the_process_dies_with_whoever_started_it():
    """Also where its input does not end, as during a call it would not notice."""
    script = textwrap.dedent(f"""
        import subprocess, sys, time
        HELPER = {str(lego.HELPER)!r}
        child = subprocess.Popen([sys.executable, "-I", HELPER], stdin=0, stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    reader, writer = os.pipe()
    try:
        with subprocess.Popen([sys.executable, "-c", script], stdin=reader, stdout=subprocess.PIPE) as parent:
            child = int(parent.stdout.readline())

            assert Path(f"/proc/{child}").exists()

            parent.kill()
        for _ in range(100):
            status = Path(f"/proc/{child}/status")
            if not status.exists() or "\nState:\tZ" in status.read_text():
                break
            subprocess.run(["sleep", "0.02"], check=True)
        else:
            pytest.fail("it lives on")
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("text", ["A", "A=b\nhunter2", "1A=b", "A B=c", "É=b"])
def test_an_environment_that_is_none_is_refused_without_its_text(text):
    with pytest.raises(Misconfigured, match=r"lego: environment: line \d must be NAME=VALUE") as e:
        provider_of("lego", {"service": "httpreq", "environment": text})

    assert "hunter2" not in str(e.value)


def test_without_the_extra_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(Misconfigured) as e:
        provider_of("lego", {"service": "httpreq", "environment": "A=b"})

    assert "certvoy[lego]" in e.value.hint
