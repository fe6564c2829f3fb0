"""The configuration file: every error is told at once, with its line and a next step."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from acme_engine.ordering import Terms
from sds_server.app import needs_restart
from sds_server.config.certvoy_yaml import load
from sds_server.config.values import Duration, KeyFile, Listen, spelt
from sds_server.errors import ConfigError
from sds_server.foundation import issuers
from sds_server.limits import OFF, PRESETS, Counted
from sds_server.model import KeyType, Kind, Proof, key_path

WHOLE = """\
database: embedded
state_dir: ./state
replica: one
kms: {provider: local, key_file: ./state/kek}
issuers:
  internal:
    directory: https://ca.example.test/dir
    ca_file: pem
    roots_file: pem
    contact: [mailto:ops@example.test]
    terms_agreed: true
    eab: {kid: x, hmac_key_file: pem}
http01: {listen: "127.0.0.1:8080"}
sds: {listen: "[::1]:8234", certificate: pem, key: pem, client_ca: pem}
secrets:
  www: {domains: [www.example.test], issuer: internal, key_type: ecdsa-p384, proof: 90%}
grants:
  - {identity: spiffe://example.test/edge-1, names: [www, "team/*", "*.example.com"]}
  - {identity: dns:edge.test, names: [www], kinds: [tls_certificate], issue: true, max_names: 10}
rotation: {seen_for: 1h30m, settle: 30s, lease: 60s, poll: 250ms}
log: {level: debug}
"""

SMALL = """\
database: postgresql://certvoy:hunter2@db/certvoy
issuers: {internal: {directory: https://ca.example.test/dir}}
http01: {listen: "127.0.0.1:0"}
sds: {listen: "127.0.0.1:0", certificate: pem, key: pem, client_ca: pem}
"""


@pytest.fixture
def read(tmp_path):
    """Load a text from a file beside which ``pem`` lies."""
    (tmp_path / "pem").write_text("something")

    def read(text):
        (tmp_path / "certvoy.yaml").write_text(text)
        return load(tmp_path / "certvoy.yaml")

    return read


@pytest.fixture
def errors(read):
    """The lines of the error that a text gives."""

    def errors(text):
        with pytest.raises(ConfigError) as refused:
            read(text)
        return refused.value.message.splitlines()

    return errors


@pytest.fixture
def with_value(errors):
    """The one error of the whole file with one value changed."""

    def with_value(place, value):
        raw = yaml.safe_load(WHOLE)
        parent = raw
        for part in place[:-1]:
            parent = parent[part]
        parent[place[-1]] = value
        (error,) = errors(yaml.safe_dump(raw, sort_keys=False))
        return error

    return with_value


def terms(grant):
    return grant.kinds, grant.issue, grant.max_names


def test_whole_file(read, tmp_path):
    config = read(WHOLE)

    assert ("embedded", tmp_path / "state", "one") == (config.database, config.state_dir, config.replica)
    assert tmp_path / "state" / "kek" == config.kms.key_file
    assert tmp_path / "pem" == config.issuers["internal"].ca_file
    assert Listen("::1", 8234) == config.sds.listen
    assert config.secrets["www"].domains == ("www.example.test",)
    assert config.secrets["www"].key_type == KeyType.ECDSA_P384
    assert config.secrets["www"].proof == Proof(percent=90)
    assert config.grants[0].names == ("www", "team/*", "*.example.com")
    assert ((*Kind,), False, None) == terms(config.grants[0])
    assert ((Kind.TLS_CERTIFICATE,), True, 10) == terms(config.grants[1])
    assert timedelta(minutes=90) == config.rotation.seen_for
    assert timedelta(milliseconds=250) == config.rotation.poll


def test_defaults(read, tmp_path):
    config = read(SMALL)

    assert tmp_path / "certvoy-state" == config.state_dir
    assert tmp_path / "certvoy-state" / "kek" == config.kms.key_file
    assert config.replica
    assert config.secrets == {}
    assert timedelta(minutes=10) == config.rotation.seen_for
    assert config.log.level == "info"


def test_ranges_of_pushes_are_read_and_none_is_allowed_by_default(read):
    ranges = read(SMALL + 'push: {allow: [10.1.0.0/16, "fd12::/64", 192.0.2.7]}\n').push.allow

    assert ["10.1.0.0/16", "fd12::/64", "192.0.2.7/32"] == [str(one) for one in ranges]
    assert () == read(SMALL).push.allow


@pytest.mark.parametrize("wrong", ["10.1.2.3/16", "web-1.example.com", "10.0.0.0/33", 10])
def test_what_is_no_range_says_how_to_write_one(errors, wrong):
    (error,) = errors(SMALL + f"push: {{allow: [{wrong}]}}\n")

    assert error.startswith("push.allow[0]: must be a range of addresses")
    assert "10.1.0.0/16" in error


def test_kek_follows_the_state_dir(read, tmp_path):
    assert tmp_path / "elsewhere" / "kek" == read("state_dir: elsewhere\n" + SMALL).kms.key_file


def test_listen_address_is_written_as_it_is_read():
    assert [str(Listen("::1", 80)), str(Listen("127.0.0.1", 80))] == ["[::1]:80", "127.0.0.1:80"]


def test_password_of_the_database_is_not_shown(read):
    assert "hunter2" not in repr(read(SMALL))


def test_config_cannot_be_changed(read):
    with pytest.raises(ValueError, match="frozen"):
        read(SMALL).replica = "other"


def test_names_are_normalised_and_repetitions_dropped(read):
    text = WHOLE.replace("[www.example.test]", "[WWW.Example.test, bücher.example, www.example.test.]")

    assert read(text).secrets["www"].domains == ("www.example.test", "xn--bcher-kva.example")


def test_every_error_at_once_in_the_order_of_the_file(errors):
    text = """\
database: mysql://root:hunter2@db
issuers:
  internal: {directory: "http://ca.example.test/dir", contact: [ops@example.test]}
http01: {listen: "127.0.0.1:8234"}
sds:
  listen: "127.0.0.1:8234"
  certificate: pem
  key: missing.key
  client_ca: pem
  cleint: x
secrets:
  www: {domains: ["exa mple.test"], issuer: other}
  www: {domains: [a.test], issuer: internal}
"""

    assert [(error.partition(": ")[0], re.findall(r"\(line \d+\)", error)[0]) for error in errors(text)] == [
        ("database", "(line 1)"),
        ("issuers.internal.contact[0]", "(line 3)"),
        ("issuers.internal.directory", "(line 3)"),
        ("sds.listen", "(line 6)"),
        ("sds.key", "(line 8)"),
        ("sds.cleint", "(line 10)"),
        ("secrets.www.domains[0]", "(line 12)"),
        ("secrets.www.issuer", "(line 12)"),
        ("secrets.www", "(line 13)"),
    ]


def test_error_says_where_what_and_what_to_do(errors):
    text = SMALL.replace("https:", "http:")

    (error,) = errors(text)
    assert error == (
        'issuers.internal.directory: must be an https URL, got "http://ca.example.test/dir" (line 2); '
        "use the CA's directory URL, e.g. https://..."
    )


def test_a_wildcard_is_refused_where_its_issuer_has_no_dns(errors):
    (error,) = errors(WHOLE.replace("www.example.test", '"*.example.test"'))

    assert "*.example.test: a wildcard is proved by DNS-01 alone, and internal has no `dns`" in error
    assert "give `issuers.internal` a `dns` section" in error


def test_names_that_a_ca_certifies_in_no_such_certificate_are_refused(errors, read):
    text = WHOLE.replace("https://ca.example.test/dir", "https://acme-v02.api.letsencrypt.org/directory")
    text = text.replace("www.example.test", "192.0.2.7")

    (error,) = errors(text)
    assert "www: domains: 192.0.2.7: the CA certifies addresses in the profile shortlived alone" in error
    read(text.replace("    terms_agreed: true", "    terms_agreed: true\n    profile: {name: shortlived}"))


def test_unknown_key_names_the_nearest(errors):
    (error,) = errors(SMALL.replace("client_ca: pem", "client_ca: pem, cleint_ca: pem"))

    assert error == "sds.cleint_ca: unknown key (line 4); did you mean client_ca?"


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (["sds", "sockets"], [{"path": "a", "identity": "dns:a", "pat": 1}], "sds.sockets[0].pat: unknown"),
        (
            ["admin"],
            {"clients": [{"identity": "dns:a", "scopes": ["read"], "scope": 1}]},
            "did you mean scopes",
        ),
        (["grants"], [{"identity": "dns:a", "names": ["a"], "name": 1}], "did you mean names"),
    ],
)
def test_unknown_key_in_a_list_names_the_nearest(with_value, place, value, error):
    assert error in with_value(place, value)


def test_same_key_twice_is_an_error(errors):
    (error,) = errors(SMALL + "database: embedded\n")

    assert error == "database: is there twice (line 5); the first is on line 1"


def test_wrong_database_may_hold_a_password_and_is_not_repeated(errors):
    (error,) = errors(SMALL.replace("postgresql:", "mysql:"))

    assert "hunter2" not in error


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (["replica"], "", "replica: is empty (line 3)"),
        (["kms", "key_file"], 5, "kms.key_file: must be a path"),
        (["issuers", "internal", "terms_agreed"], "yes", "terms_agreed: must be true or false"),
        (["issuers", "internal", "directory"], "https:///dir", "directory: must be an https URL"),
        (["issuers", "internal", "directory"], "https://ca:port/dir", "directory: must be an https URL"),
        (["issuers", "internal", "directory"], "https://[ca/dir", "directory: must be an https URL"),
        (["kms", "key_file"], "~nobody-of-that-name/x", "no home of that user is known"),
        (["kms", "key_file"], "a\0b", "kms.key_file: holds a NUL"),
        (["secrets"], None, "secrets: must hold keys and values, got null"),
        (["database"], None, "; write it behind the colon"),
        (["database"], "file:/etc/certvoy/database", "database: must be 'embedded' or a PostgreSQL URL"),
        (["issuers", "internal", "roots_file"], "nowhere", "issuers.internal.roots_file: cannot read"),
        (["issuers", "internal", "eab", "kid"], 7, "issuers.internal.eab.kid: must be text, got 7"),
        (["issuers", "internal", "eab", "key"], "x", "issuers.internal.eab.key: unknown key"),
        (["issuers", "internal", "acme"], "x", "known here: backdate, ca_file, challenge, challenges"),
        (["http01"], None, "http01: must hold keys and values, got null"),
        (["http01", "listen"], 8080, "http01.listen: must be host:port, got 8080"),
        (["http01", "listen"], ":8080", "http01.listen: must be host:port"),
        (["http01", "listen"], "::1:8080", "http01.listen: must be host:port"),
        (["http01", "listen"], "127.0.0.1:65536", "; a port is 65535 at most"),
        (["http01", "listen"], "0.0.0.0:8234", "sds.listen: [::1]:8234 is taken: 0.0.0.0:8234 is above"),
        (["sds", "client_ca"], ".", "sds.client_ca: cannot read"),
        (["sds", "rest"], "[::1]:8234", "sds.rest: [::1]:8234 is taken: [::1]:8234 is above"),
        (["sds", "deny"], ["edge"], 'sds.deny[0]: must be an identity, got "edge"'),
        (["sds", "streams_per_identity"], 0, "sds.streams_per_identity: "),
        (["sds", "refresh"], "10ms", "sds.refresh: is too short"),
        (["sds", "sockets"], [{"path": "run/a"}], "sds.sockets[0].identity: "),
        (["sds", "sockets"], [{"path": "run/a", "identity": f"dns:{n}"} for n in "ab"], "is there twice"),
        (["secrets", "www", "domains"], [], "secrets.www.domains: is empty"),
        (["secrets", "www", "domains"], [f"{n}.a.test" for n in range(101)], "domains: has 101 names"),
        (["secrets", "www", "domains"], "www.example.test", "secrets.www.domains: must be a list"),
        (["secrets", "www", "domains"], ["a b"], 'secrets.www.domains[0]: "a b"'),
        (["secrets", "www", "domains"], [".".join(["a" * 50] * 6)], "at most 253"),
        (["secrets", "www", "domains"], ["fe80::1%eth0"], "has a zone"),
        (["secrets", "www", "key_type"], "dsa", "secrets.www.key_type: must be 'ecdsa-p256', "),
        (["secrets", "www", "proof"], "most", "secrets.www.proof: must be all, accepted or a share"),
        (["secrets", "www", "key_file"], "/keys/{spki}.pem", "secrets.www.key_file: certvoy makes the keys"),
        (["secrets", "www", "proof"], 90, "secrets.www.proof: must be all, accepted or a share"),
        (["secrets", "w*"], {"domains": ["a.test"], "issuer": "internal"}, 'secrets["w*"]: holds \'*\''),
        (["secrets", "w\n"], {"domains": ["a.test"], "issuer": "internal"}, "control character"),
        (["secrets", "ü" * 257], {"domains": ["a.test"], "issuer": "internal"}, "has 514 bytes"),
        (["grants", 0, "identity"], "edge-1", 'grants[0].identity: must be an identity, got "edge-1"'),
        (["grants", 0, "identity"], "spiffe://example.test", "grants[0].identity: must be an identity"),
        (["grants", 0, "names"], ["*"], 'grants[0].names[0]: cannot grant "*"'),
        (["grants", 0, "names"], ["a*b"], 'grants[0].names[0]: cannot grant "a*b"'),
        (["grants", 0, "name"], "www", "grants[0].name: unknown key"),
        (["grants", 0, "kinds"], [], "grants[0].kinds: "),
        (["grants", 0, "kinds"], ["certificate"], "grants[0].kinds[0]: "),
        (["grants", 0, "issue"], "yes", "grants[0].issue: "),
        (["grants", 0, "max_names"], 0, "grants[0].max_names: "),
        (["rotation", "lease"], 60, "rotation.lease: must be a duration, got 60"),
        (["rotation", "lease"], "0s", "rotation.lease: must be a duration"),
        (["rotation", "lease"], "1 hour", "rotation.lease: must be a duration"),
        (["rotation", "lease"], "9999999999h", "rotation.lease: is longer than 100 years"),
        (["log", "level"], "loud", "log.level: must be 'debug', 'info', 'warning' or 'error', got \"loud\""),
    ],
)  # fmt: skip
def test_one_wrong_value(with_value, place, value, error):
    assert error in with_value(place, value)


def test_certificates_may_begin_before_their_order_and_end_when_the_file_says(read):
    config = read(SMALL.replace("/dir}", "/dir, lifetime: 7d, backdate: 1h}"))
    terms = issuers(config)["internal"].terms

    assert Terms(lifetime=timedelta(days=7), backdate=timedelta(hours=1)) == terms


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("backdate: 1h", "issuers.internal.backdate: needs a `lifetime` (line 2)"),
        ("lifetime: 2h, backdate: 1h", "are due as soon as issued (line 2); write less than 1h"),
        ("lifetime: 2x, backdate: 1h", "issuers.internal.lifetime: must be a duration"),
    ],
)
def test_a_beginning_that_would_have_certificates_due_at_once_is_refused(errors, keys, error):
    """CAs that count a life of their own from there end it earlier; renewals count from there as well."""
    (only,) = errors(SMALL.replace("/dir}", f"/dir, {keys}}}"))

    assert error in only


def test_what_only_a_restart_takes_is_named(read):
    before = read(WHOLE)
    raw = yaml.safe_load(WHOLE)
    raw["sds"]["deny"] = ["spiffe://example.test/thief"]
    raw["log"] = {"level": "error"}
    raw["secrets"] = {}

    assert [] == needs_restart(before, read(WHOLE))
    assert ["secrets", "log"] == needs_restart(before, read(yaml.safe_dump(raw)))


@pytest.mark.parametrize("key", ["database", "issuers", "http01", "sds"])
def test_missing_key(errors, key):
    raw = yaml.safe_load(SMALL)
    del raw[key]

    assert [f"{key}: is missing (line 1); add it"] == errors(yaml.safe_dump(raw))


@pytest.mark.parametrize("identity", ["spiffe://example.test/edge-1", "dns:edge-1.example.test"])
def test_identities(read, identity):
    assert identity == read(WHOLE.replace("spiffe://example.test/edge-1", identity)).grants[0].identity


def test_empty_file_that_must_hold_something(errors, tmp_path):
    (tmp_path / "empty").touch()

    (error,) = errors(SMALL.replace("client_ca: pem", "client_ca: empty"))
    assert f"sds.client_ca: {tmp_path}/empty is empty (line 4)" in error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "is not YAML: expected the node content, but found '<stream end>' (line 1)"),
        ("a: &x 1\nb: *x\n", "aliases are not read here (line 2)"),
        ("replica: 2026-13-01\n", "is not YAML: month must be in 1..12"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("", "must hold keys and values"),
        ("- a\n", "must hold keys and values"),
    ],
)
def test_what_is_no_configuration_at_all(errors, text, error):
    assert error in errors(text)[0]


def test_secrets_of_each_kind_have_keys_of_their_own(read, tmp_path):
    (tmp_path / "ca.pem").write_text("x")
    raw = yaml.safe_load(WHOLE)
    raw["secrets"] = {
        "clients": {"kind": "validation_context", "ca_file": str(tmp_path / "ca.pem"), "leaf_crl_only": True},
        "tickets": {"kind": "session_ticket_keys", "rotate_every": "12h", "keep": 2},
        "token": {"kind": "generic_secret", "file": str(tmp_path / "ca.pem")},
    }
    found = read(yaml.safe_dump(raw)).secrets

    assert tmp_path / "ca.pem" == found["clients"].ca_file == found["token"].file
    assert (timedelta(hours=12), 2) == (found["tickets"].rotate_every, found["tickets"].keep)
    assert None is found["tickets"].domains is found["tickets"].issuer


@pytest.mark.parametrize(
    ("secret", "error"),
    [
        ({"kind": "validation_context"}, "secrets.www.ca_file: is missing"),
        ({"kind": "session_ticket_keys"}, "secrets.www.rotate_every: is missing"),
        ({"kind": "session_ticket_keys", "rotate_every": "5s"}, "secrets.www.rotate_every: is too short"),
        ({"kind": "generic_secret"}, "secrets.www.file: is missing"),
        ({"kind": "generic_secret", "domains": ["a.test"]}, "secrets.www: a generic_secret has no domains"),
        ({"domains": ["a.test"], "issuer": "internal", "keep": 2}, "a tls_certificate has no keep"),
        ({"kind": "trust"}, "secrets.www.kind: must be"),
        ({"domains": ["a.test"]}, "secrets.www.issuer: is missing"),
    ],
)
def test_a_secret_with_keys_of_another_kind_or_without_its_own_is_refused(errors, secret, error):
    raw = yaml.safe_load(WHOLE)
    raw["secrets"] = {"www": secret}

    assert error in "; ".join(errors(yaml.safe_dump(raw)))


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "certvoy.yaml")


def test_hint_names_the_file(read, tmp_path):
    with pytest.raises(ConfigError) as refused:
        read("a: 1")

    assert str(tmp_path / "certvoy.yaml") in refused.value.next_step


@pytest.mark.parametrize("text", ["90s", "1h30m", "250ms", "90d", "1m"])
def test_a_duration_is_spelt_as_it_was_read(text):
    span = TypeAdapter(Duration).validate_python(text)

    assert span == TypeAdapter(Duration).validate_python(spelt(span))


def test_the_databases_url_may_come_from_a_file(read, tmp_path):
    (tmp_path / "url").write_text("postgresql://certvoy:hunter2@db/certvoy\n")
    text = SMALL.replace("postgresql://certvoy:hunter2@db/certvoy", "{file: url}")

    assert "postgresql://certvoy:hunter2@db/certvoy" == read(text).database


def test_a_wrong_url_in_a_file_is_refused_without_repeating_it(errors, tmp_path):
    (tmp_path / "url").write_text("mysql://certvoy:hunter2@db/certvoy\n")
    (error,) = errors(SMALL.replace("postgresql://certvoy:hunter2@db/certvoy", "{file: url}"))

    assert "database: must be 'embedded' or a PostgreSQL URL (line 1)" in error
    assert "hunter2" not in error


@pytest.mark.parametrize("value", ["{file: nowhere}", "{path: pem}", "{file: pem, user: x}"])
def test_a_file_for_the_databases_url_that_is_none_is_refused(errors, value):
    (error,) = errors(SMALL.replace("postgresql://certvoy:hunter2@db/certvoy", value))

    assert error.startswith("database: ")


def test_a_path_may_begin_at_the_credentials_of_systemd(read, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/certvoy.service")
    config = read(SMALL + 'kms: {key_file: "${CREDENTIALS_DIRECTORY}/kek"}\n')

    assert Path("/run/credentials/certvoy.service/kek") == config.kms.key_file


def test_credentials_that_systemd_did_not_give_are_told(errors, monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (error,) = errors(SMALL + 'kms: {key_file: "${CREDENTIALS_DIRECTORY}/kek"}\n')

    assert "kms.key_file: " in error
    assert "CREDENTIALS_DIRECTORY is not set" in error
    assert "LoadCredential=" in error


@pytest.mark.parametrize("name", ["upload", "upload:0123"])
def test_no_issuer_is_called_as_uploaded_pairs_are(errors, name):
    (error,) = errors(SMALL.replace("internal", f'"{name}"'))

    assert "stands for pairs that people upload" in error
    assert "call the CA by another name" in error


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_half_a_pair_is_refused(errors, missing):
    raw = yaml.safe_load(WHOLE)
    del raw["sds"][missing]
    (error,) = errors(yaml.safe_dump(raw, sort_keys=False))

    assert f"but no {missing}" in error
    assert "certvoy issues its own" in error


def test_without_certificates_certvoy_is_its_own_ca(read):
    raw = yaml.safe_load(WHOLE) | {"sds": {"listen": "127.0.0.1:0", "server_names": ["a.test", "::1"]}}
    config = read(yaml.safe_dump(raw))

    assert (None, None, None) == (config.sds.certificate, config.sds.key, config.sds.client_ca)
    assert ("a.test", "::1") == config.sds.server_names
    assert ("certvoy", timedelta(hours=24)) == (config.enrolment.trust_domain, config.enrolment.lifetime)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("sds", {"server_names": ["a:1"]}, "must be a host's name or address"),
        ("enrolment", {"trust_domain": "a/b"}, "must be a SPIFFE trust domain"),
        ("enrolment", {"lifetime": "0s"}, "must be a duration"),
    ],
)
def test_a_name_that_is_none_is_refused(errors, section, value, message):
    raw = yaml.safe_load(WHOLE)
    raw[section] = raw.get(section, {}) | value
    (error,) = errors(yaml.safe_dump(raw, sort_keys=False))

    assert message in error


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("keys/{spki}.pem", "must be an absolute path"),
        ("/{spki}.pem", "must be an absolute path"),
        ("/keys/../etc/{spki}.pem", "must be an absolute path"),
        ("/keys//www/{spki}.pem", "must be an absolute path"),
        ("//keys/{spki}.pem", "must be an absolute path"),
        ("/etc/shadow", "must end in /{spki}.pem"),
        ("/keys/www-{spki}.pem", "must end in /{spki}.pem"),
        ("/keys/{spki}/{spki}.pem", "must end in /{spki}.pem"),
        ("/keys/\n/{spki}.pem", "without control characters"),
        (f"/{'k' * 1100}/{{spki}}.pem", "at most 1024 bytes"),
    ],
)
def test_a_key_file_names_nothing_but_a_key_of_ours(path, why):
    """Whoever names a file has Envoy read it: the last part is made of the key's own hash, and of no more."""
    with pytest.raises(ValidationError, match=re.escape(why)):
        TypeAdapter(KeyFile).validate_python(path)


def test_a_key_file_names_each_key_by_its_public_half():
    path = TypeAdapter(KeyFile).validate_python("/var/lib/certvoy-keys/www/{spki}.pem")

    assert f"/var/lib/certvoy-keys/www/{'ab' * 32}.pem" == key_path(path, b"\xab" * 32)


VAULT = {"provider": "vault", "address": "https://vault:8200", "key": "certvoy", "token_file": "pem"}
GCP = {"provider": "gcp", "key": "projects/p/locations/l/keyRings/r/cryptoKeys/k"}
AWS = {"provider": "aws", "key": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab"}


@pytest.mark.parametrize(
    "kms",
    [
        GCP,
        {**GCP, "credentials_file": "pem", "endpoint": "https://kms.internal"},
        AWS,
        VAULT,
        {**VAULT, "address": "http://127.0.0.1:8100", "namespace": "team/a", "ca_file": "pem", "mount": "t"},
        {
            **{key: VAULT[key] for key in ("provider", "address", "key")},
            "role_id": "x",
            "secret_id_file": "pem",
        },
    ],
)
def test_a_kek_of_each_provider(read, kms):
    found = read(SMALL + yaml.safe_dump({"kms": {**kms, "previous": [{"key_file": "kek"}, GCP]}})).kms

    assert (kms["provider"], kms["key"], None) == (found.provider, found.key, found.key_file)
    assert ["local", "gcp"] == [kek.provider for kek in found.previous]


@pytest.mark.parametrize(
    ("kms", "error"),
    [
        ({"provider": "hsm"}, "kms.provider: must be 'local', 'gcp', 'aws' or 'vault'"),
        ({"key": "x"}, "kms: a KEK of local has no key"),
        ({**AWS, "address": "https://x"}, "it has: key, endpoint"),
        ({"provider": "gcp"}, "kms.key: is missing"),
        ({**GCP, "key": GCP["key"] + "/cryptoKeyVersions/1"}, "without a version"),
        ({**AWS, "key": "arn:aws:kms:eu-west-1:123456789012:alias/a"}, "an alias can be moved"),
        ({**VAULT, "key": "a/b"}, "names no KEK"),
        ({**VAULT, "address": "http://vault:8200"}, "kms.address: must be https://host:port"),
        ({**VAULT, "address": "https://vault:port"}, "kms.address: must be https://host:port"),
        ({**VAULT, "address": "https://vault/ui"}, "kms.address: must be https://host:port"),
        ({**VAULT, "role_id": "x", "secret_id_file": "pem"}, "needs one way to log in"),
        ({**VAULT, "role_id": "x"}, "one way to log in"),
        ({**VAULT, "mount": "../x"}, "kms.mount: must be a path such as transit"),
        ({"previous": [{"provider": "local"}]}, "kms.previous[0].key_file: is missing"),
        ({"previous": [{**GCP, "kye": 1}]}, "kms.previous[0].kye: unknown key (line"),
    ],
)
def test_a_kek_that_is_none_is_refused(errors, kms, error):
    (told,) = errors(SMALL + yaml.safe_dump({"kms": kms}))

    assert error in told


def test_a_kek_in_a_file_is_refused_in_production(errors, read, monkeypatch):
    monkeypatch.setenv("CERTVOY_ENV", "production")

    (told,) = errors(SMALL)
    assert "a KEK in a file is for trials" in told
    assert "gcp, aws or vault" in told
    assert (
        "vault"
        == read(SMALL + yaml.safe_dump({"kms": {**VAULT, "previous": [{"key_file": "kek"}]}})).kms.provider
    )


ON_DEMAND = """\
on_demand:
- {name: shops, suffix: "*.Shops.example.com", issuer: internal, ask: "http://127.0.0.1:9000/ask", keep: 10d}
"""


def test_a_rule_of_names_on_demand_is_read(read):
    (rule,) = read(SMALL + ON_DEMAND).on_demand

    assert ("*.shops.example.com", 1, "http://127.0.0.1:9000/ask") == (rule.suffix, rule.depth, rule.ask)
    assert (20, 50, timedelta(days=7)) == (rule.names_per_identity, rule.names_per_domain, rule.window)
    assert timedelta(days=10) == rule.keep


def test_every_error_of_rules_at_once(errors):
    text = """\
on_demand:
- {name: a, issuer: internal}
- {name: b, issuer: internal, names: [a.test], ask: "http://a/"}
- {name: c, issuer: other, suffix: shops.test}
- {name: d, issuer: internal, ask: "ftp://a/", max_names: 0}
- {name: e, issuer: internal, names: ["*.test"], suffixes: x}
- {name: f, issuer: internal, names: [a.test], keep: 2d}
"""
    begins = [
        "on_demand[0]: has none of names, suffix and ask",
        "on_demand[1]: has names and ask",
        'on_demand[2].issuer: no issuer has the name "other"',
        "on_demand[2].suffix: must begin with *.",
        "on_demand[3].ask: must be an http or https URL",
        "on_demand[3].max_names: ",
        'on_demand[4].names: "*.test": no client asks for a wildcard',
        "on_demand[4].suffixes: unknown key",
        "on_demand[5]: keeps names for 2d, and counts new ones within 7d",  # what is removed counts no more
    ]
    said = errors(SMALL + text)

    assert sorted(begins) == sorted(begin for begin in begins for error in said if error.startswith(begin)), (
        said
    )
    assert 9 == len(said)


def test_two_rules_of_one_name_are_refused(errors):
    (error,) = errors(SMALL + ON_DEMAND + ON_DEMAND.partition("\n")[2])

    assert error.startswith('on_demand: two rules are called "shops"')


def with_limits(limits):
    settings = yaml.safe_load(SMALL)
    (issuer,) = settings["issuers"].values()
    issuer["limits"] = limits
    return yaml.safe_dump(settings)


def test_limits_are_a_cas_by_name_none_or_ones_own(read):
    def limits(written):
        (issuer,) = read(with_limits(written)).issuers.values()
        return issuer.limits

    mine = limits({"orders": "10/1h30m"})

    assert (PRESETS["letsencrypt"], OFF, None) == (limits("letsencrypt"), limits("off"), limits("auto"))
    assert {Counted.ORDERS: (10, timedelta(minutes=90))} == {
        counted: (limit.count, limit.period) for counted, limit in mine.limits.items()
    }


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ("letsencrpt", "write one of auto, letsencrypt"),
        ({"orders": 300}, "orders: must be a rate, got 300"),
        ({"orders": "300/3 hours"}, "must be a duration"),
        ({"certificates": "300/3h"}, 'counts no "certificates"'),
    ],
)
def test_limits_that_are_none_are_refused(errors, limits, error):
    (told,) = errors(with_limits(limits))

    assert error in told
    assert "limits" in told


ISSUERS = {"backup": {"directory": "https://ca2.example.test/dir", "terms_agreed": True}}


def with_issuers(**keys):
    settings = yaml.safe_load(SMALL)
    settings["issuers"] |= ISSUERS
    settings["secrets"] = {"www": {"domains": ["a.test"], **keys}}
    return yaml.safe_dump(settings)


def test_issuers_in_one_list_are_the_first_and_those_to_fall_back_to(read):
    secret = read(with_issuers(issuers=["internal", "backup"])).secrets["www"]
    alone = read(with_issuers(issuers=["backup"])).secrets["www"]

    assert ("internal", ("backup",)) == (secret.issuer, secret.fallback)
    assert ("backup", ()) == (alone.issuer, alone.fallback)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"issuers": ["internal", "other"]}, "secrets.www.issuers: no issuer has the name"),
        ({"issuers": ["other"]}, "secrets.www.issuers: no issuer has the name"),
        ({"issuers": ["internal", "internal"]}, "secrets.www.issuers: names an issuer twice"),
        ({"issuers": []}, "secrets.www.issuers: "),
        ({"issuers": "internal"}, "secrets.www.issuers: must be a list"),
        ({"issuers": ["internal"], "issuer": "backup"}, "secrets.www: has issuers and issuer"),
        ({"issuers": ["internal"], "fallback": ["backup"]}, "secrets.www: has issuers and fallback"),
    ],
)
def test_what_is_wrong_with_a_list_of_issuers_is_told_once_and_there(errors, keys, error):
    (told,) = errors(with_issuers(**keys))

    assert told.startswith(error)


@pytest.mark.parametrize(
    ("fallback", "error"),
    [
        (["other"], "no issuer has the name"),
        (["internal"], "names an issuer twice"),
    ],
)
def test_a_fallback_is_another_issuer_that_there_is(errors, fallback, error):
    settings = yaml.safe_load(SMALL)
    settings["secrets"] = {"www": {"domains": ["a.test"], "issuer": "internal", "fallback": fallback}}
    (told,) = errors(yaml.safe_dump(settings))

    assert error in told
    assert told.startswith("secrets.www.fallback")
