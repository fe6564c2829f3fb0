"""The `dns` of an issuer: its provider's own keys, credentials from elsewhere, and which names it proves."""

import pytest

from acme_engine.dns.table import PROVIDERS
from acme_engine.dns01 import LIMIT_S, Mode
from sds_server.config.certvoy_yaml import load
from sds_server.config.dns import MODELS, DnsConfig, preferred
from sds_server.errors import ConfigError

SECRET = "c2VjcmV0LXNlY3JldA=="

TEXT = """\
database: embedded
issuers:
  le:
    directory: https://ca.example.test/dir
    dns:
      provider: rfc2136
      server: 192.0.2.53
      key_name: certvoy
      key_secret: {file: tsig}
      %s
http01: {listen: "127.0.0.1:0"}
sds: {listen: "127.0.0.1:0"}
secrets:
  wild: {domains: [example.test, "*.example.test"], issuer: le}
"""


@pytest.fixture
def read(tmp_path):
    (tmp_path / "tsig").write_text(f"{SECRET}\n")

    def read(more="", *, text=TEXT):
        (tmp_path / "certvoy.yaml").write_text(text % more)
        return load(tmp_path / "certvoy.yaml")

    return read


@pytest.fixture
def error(read):
    def error(more="", *, text=TEXT):
        with pytest.raises(ConfigError) as refused:
            read(more, text=text)
        (only,) = refused.value.message.splitlines()
        return only

    return error


def test_an_issuer_with_dns_may_be_asked_for_wildcards(read):
    config = read()

    assert ("example.test", "*.example.test") == config.secrets["wild"].domains


def test_the_provider_gets_its_settings_with_the_credential_of_the_file(read):
    dns = read().issuers["le"].dns

    assert {
        "server": "192.0.2.53",
        "key_name": "certvoy",
        "key_secret": SECRET,
        "key_algorithm": "hmac-sha256",
    } == dns.settings()


def test_a_credential_is_in_no_text_of_the_configuration(read):
    config = read()

    assert SECRET not in repr(config) + str(config.model_dump()) + config.model_dump_json()


def test_a_credential_may_come_from_the_environment(read, monkeypatch):
    monkeypatch.setenv("TSIG", SECRET)
    dns = read(text=TEXT.replace("{file: tsig}", "{env: TSIG}")).issuers["le"].dns

    assert SECRET == dns.settings()["key_secret"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{env: NOWHERE}", "issuers.le.dns.key_secret: the environment has no NOWHERE (line 9)"),
        ("{file: nowhere}", "issuers.le.dns.key_secret: cannot read"),
        ("hunter2", "is a credential, which does not stand here (line 9); write {file: PATH} or {env: NAME}"),
        ("{file: tsig, env: TSIG}", "write {file: PATH} or {env: NAME}"),
    ],
)
def test_a_credential_that_cannot_be_had_is_said_and_one_in_the_file_refused(error, written, says):
    text = error(text=TEXT.replace("{file: tsig}", written))

    assert says in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("key_algorithm: md5", "issuers.le.dns.key_algorithm: must be one of hmac-sha224"),
        ("zon: example.test", "issuers.le.dns.zon: unknown key (line 10); did you mean zone?"),
        ("propagation: always", "issuers.le.dns.propagation: must be 'authoritative', 'recursive'"),
        ("resolvers: ['127.0.0.1:x']", 'issuers.le.dns.resolvers[0]: "127.0.0.1:x" must be a host'),
        ("propagation_limit: 5", "issuers.le.dns.propagation_limit: must be a duration"),
    ],
)
def test_each_key_that_is_wrong_is_pointed_at(error, more, says):
    assert says in error(more)


def test_a_provider_that_nobody_is_gets_the_nearest_name(error):
    text = TEXT.replace("provider: rfc2136", "provider: rfc2163")

    assert 'issuers.le.dns: provider: nobody is called "rfc2163" (line 5); did you mean rfc2136?' == error(
        text=text
    )


def test_a_key_that_the_provider_has_not_is_unknown(error):
    assert "unknown key" in error("api_token: {file: tsig}")


@pytest.mark.parametrize("kind", ["dns-01", "dns-account-01"])
@pytest.mark.parametrize("choice", ["challenge: KIND", "challenges: {'*.example.test': KIND}"])
def test_what_is_written_into_dns_is_not_preferred_where_there_is_no_dns(error, choice, kind):
    choice = choice.replace("KIND", kind)
    plain = f"  plain: {{directory: 'https://ca.example.test/dir', {choice}}}"
    text = error(text=TEXT.replace("http01:", f"{plain}\nhttp01:"))

    assert f"{kind} needs a `dns` section" in text


def test_every_provider_has_its_model():
    assert set(PROVIDERS) == set(MODELS)
    for name, registration in PROVIDERS.items():
        own = set(MODELS[name].model_fields) - set(DnsConfig.model_fields)

        assert {setting.name for setting in registration.settings} == own
        for setting in registration.settings:
            is_secret = "SecretStr" in str(MODELS[name].model_fields[setting.name].annotation)

            assert setting.credential is is_secret, setting.name


def test_the_modes_and_the_limit_are_the_engine_s():
    field = DnsConfig.model_fields["propagation"]

    assert [*Mode] == [*field.annotation.__args__]
    assert LIMIT_S == DnsConfig.model_fields["propagation_limit"].default.total_seconds()


CHOICES = {"*.lan.example.com": "dns-01", "www.lan.example.com": "http-01", "*.example.com": "http-01"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("www.lan.example.com", "http-01"),  # the name itself
        ("a.lan.example.com", "dns-01"),  # the longest suffix
        ("a.b.lan.example.com", "dns-01"),  # at any depth
        ("*.b.lan.example.com", "dns-01"),
        ("lan.example.com", "http-01"),  # a suffix is not its own name
        ("other.test", "otherwise"),
    ],
)
def test_a_name_decides_then_its_longest_suffix(name, expected):
    assert expected == preferred(name, CHOICES, otherwise="otherwise")
