"""docs/how-to/kms.md: each configuration of it is read, and the policy is the one that is tried."""

import json
import re
import textwrap

import pytest

from sds_server.config.certvoy_yaml import load
from sds_server.keys.providers import PROVIDERS
from tests.support.openbao import POLICY
from tests.support.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "kms.md"
AROUND = """\
database: postgresql://certvoy@db/certvoy
issuers: {internal: {directory: https://ca.example.test/dir}}
http01: {listen: "127.0.0.1:8080"}
sds: {listen: "127.0.0.1:8443"}
"""
YAML = re.compile(r"^ *```yaml\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [textwrap.dedent(text) for text in YAML.findall(PAGE.read_text())]


@pytest.fixture
def read(tmp_path):
    """Load an example in a file beside which every file that it names lies."""

    def read(text):
        for name in ("vault-ca.pem", "vault-secret-id", "vault-token"):
            (tmp_path / name).write_text("something")
        (tmp_path / "certvoy.yaml").write_text(AROUND + text)
        return load(tmp_path / "certvoy.yaml").kms

    return read


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_configuration_of_the_page_loads_and_gives_a_kms(read, text, tmp_path):
    kms = read(text)
    (tmp_path / "state").mkdir()

    assert PROVIDERS[kms.provider](kms).kek_uri.startswith(f"{kms.provider}:")


def test_every_provider_has_an_example(read):
    assert set(PROVIDERS) == {read(text).provider for text in EXAMPLES}


def test_the_policy_of_the_page_is_the_one_that_a_real_server_is_asked_by():
    assert [POLICY] == blocks(PAGE.read_text(), "hcl")


def test_the_policy_for_aws_names_the_key_of_the_example(read):
    (policy,) = [json.loads(block) for block in blocks(PAGE.read_text(), "json")]
    keys = [kms.key for kms in map(read, EXAMPLES) if kms.provider == "aws"]

    assert [policy["Statement"][0]["Resource"]] == keys
