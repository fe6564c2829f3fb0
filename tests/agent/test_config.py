"""agent.yaml: every error at once, with its line and what to do."""

import re
from datetime import timedelta

import pytest
import yaml

from sds_server.agent.config import load
from sds_server.agent.installers.nginx import NginxSettings
from sds_server.errors import ConfigError

WHOLE = """\
server: https://certvoy.example.com:8444/
credentials: credentials
token_file: gone
bundles:
  - secret: www
    target: web-1
    directory: pairs/www
    group: www-data
    names: [WWW.example.com]
    probe: {address: "127.0.0.1:443", names: [www.example.com], within: 5s}
    nginx: {command: [nginx, -c, /etc/nginx/nginx.conf], pid_file: /run/nginx.pid, timeout: 10s}
  - {secret: mail, directory: pairs/mail, files: {check: ["true"], command: ["true"]}}
log: debug
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        (tmp_path / "agent.yaml").write_text(text)
        return load(tmp_path / "agent.yaml")

    return read


@pytest.fixture
def changed(read):
    """The errors of the whole file with one value changed; None takes it away."""

    def changed(place, value):
        raw = yaml.safe_load(WHOLE)
        parent = raw
        for part in place[:-1]:
            parent = parent[part]
        if value is None:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        with pytest.raises(ConfigError) as refused:
            read(yaml.safe_dump(raw))
        return refused.value.message

    return changed


def test_the_whole_file_is_read(read, tmp_path):
    config = read(WHOLE)
    www, mail = config.bundles

    assert "https://certvoy.example.com:8444" == config.server
    assert tmp_path / "pairs" / "www" == www.directory
    assert ("www.example.com",) == www.names
    assert timedelta(seconds=5) == www.probe.within
    assert isinstance(www.program, NginxSettings)
    assert ("true",) == mail.program.command
    assert timedelta(seconds=30) == mail.program.timeout


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["server"], "http://certvoy", "server: must be https://host:port"),
        (["server"], "https://certvoy:port", "server: must be https://host:port"),
        (["server"], "https://certvoy/api", "server: must be https://host:port"),
        (["bundles"], [], "bundles: is empty"),
        (
            ["bundles", 0, "probe", "address"],
            "here",
            "bundles[0].probe.address: probe address: must be host:port",
        ),
        (["bundles", 0, "nginx", "comand"], ["x"], "bundles[0].nginx.comand: unknown key (line"),
        (["bundles", 0, "nginx", "command"], [], "bundles[0].nginx.command: is empty"),
        (["bundles", 0, "nginx", "command"], "nginx -t", "must be a list"),
        (["bundles", 0, "key"], "remote", "bundles[0].key"),
        (["bundles", 0, "nginx"], None, "does not say which program serves it"),
        (["bundles", 0, "files"], {}, "has nginx and files"),
        (["bundles", 0, "names"], ["bücher.example"], "is no DNS name"),
        (["bundles", 0, "probe", "within"], "soon", "must be a duration"),
        (["bundles", 1, "directory"], "pairs/www", "is that of bundles[0]"),
        (["bundles", 1, "directory"], "credentials", "is that of credentials"),
        (["credentials"], None, "credentials: is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changed, place, value, said):
    assert said in changed(place, value)


def test_one_secret_twice_at_one_target_is_refused(changed):
    again = {"secret": "www", "target": "web-1", "directory": "other", "files": {}}

    assert "secret www is there twice for one target" in changed(["bundles", 1], again)


@pytest.mark.parametrize("keys", [("local", "local"), ("local", "delivered"), ("delivered", "local")])
def test_the_keys_of_one_secret_are_one_targets(read, keys):
    raw = yaml.safe_load(WHOLE)
    raw["bundles"][1]["secret"] = "www"
    for bundle, key in zip(raw["bundles"], keys, strict=True):
        bundle["key"] = key
    with pytest.raises(ConfigError, match="its keys are one target's"):
        read(yaml.safe_dump(raw))


def test_keys_are_delivered_unless_they_are_made_here(read):
    raw = yaml.safe_load(WHOLE)
    raw["bundles"][1]["key"] = "local"

    assert ["delivered", "local"] == [bundle.key for bundle in read(yaml.safe_dump(raw)).bundles]


def test_all_errors_come_at_once_with_their_lines(read):
    text = WHOLE.replace("https://", "ftp://").replace("timeout: 10s", "timeout: x").replace("debug", "loud")
    with pytest.raises(ConfigError) as refused:
        read(text)

    lines = refused.value.message.splitlines()
    assert ["(line 1)", "(line 11)", "(line 13)"] == [
        next(word for word in (f"(line {n})" for n in (1, 11, 13)) if word in line) for line in lines
    ]


def test_a_key_is_guessed(changed):
    assert "did you mean command?" in changed(["bundles", 0, "nginx", "comand"], ["x"])


KEYS = """\
server: https://certvoy.example.com:8444
credentials: credentials
keys: [{secret: www, target: edge-1, directory: keys, group: envoy}]
"""


def test_keys_for_an_envoy_need_no_bundle(read, tmp_path):
    (made,) = read(KEYS).keys

    assert ("www", "edge-1", tmp_path / "keys", "envoy") == (
        made.secret,
        made.target,
        made.directory,
        made.group,
    )
    assert timedelta(minutes=1) == made.every


@pytest.mark.parametrize(
    ("bundles", "why"),
    [
        ("[{secret: mail, directory: keys, files: {}}]", "keys[0].directory: "),
        ("[{secret: www, directory: pair, key: local, files: {}}]", "the keys of secret www are made twice"),
    ],
)
def test_keys_are_made_once_and_in_a_directory_of_their_own(read, bundles, why):
    with pytest.raises(ConfigError, match=re.escape(why)):
        read(f"{KEYS}bundles: {bundles}\n")
