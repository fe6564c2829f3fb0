"""The proxy that the environment names, as every program reads it."""

from base64 import b64encode

import pytest
from yarl import URL

from acme_engine.errors import Misconfigured
from acme_engine.proxy import Proxy, proxy_for

CA = URL("https://ca.example.com")


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_without_one_nothing_is_between():
    assert proxy_for(CA) is None


@pytest.mark.parametrize(
    ("named", "proxy", "credential"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128", None),
        ("proxy.example.com:3128", "http://proxy.example.com:3128", None),
        ("http://us:p%40ss@proxy.example.com:3128", "http://proxy.example.com:3128", "us:p@ss"),
        ("http://us@[::1]:3128", "http://[::1]:3128", "us:"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_is_named_with_what_it_wants_to_be_told(monkeypatch, variable, named, proxy, credential):
    monkeypatch.setenv(variable, named)

    told = {"Proxy-Authorization": f"Basic {b64encode(credential.encode()).decode()}"} if credential else {}
    assert Proxy(URL(proxy), told) == proxy_for(CA)
    assert "Basic" not in repr(proxy_for(CA))
    assert proxy_for(URL("http://127.0.0.1:14000")) is None, "another scheme, another variable"


@pytest.mark.parametrize(
    "excepted", ["ca.example.com", "localhost,example.com", "localhost, .example.com", "*"]
)
def test_what_needs_no_proxy_has_none(monkeypatch, excepted):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", excepted)

    assert proxy_for(CA) is None


@pytest.mark.parametrize(
    "named", ["https://us:secret@proxy.example.com", "socks5://us:secret@h:1", "http://[us:secret"]
)
def test_a_proxy_that_is_not_spoken_to_is_an_error_without_its_password(monkeypatch, named):
    monkeypatch.setenv("HTTPS_PROXY", named)
    with pytest.raises(Misconfigured, match="HTTPS_PROXY") as refusal:
        proxy_for(CA)

    assert "secret" not in str(refusal.value)
    assert "http://HOST:PORT" in refusal.value.hint
