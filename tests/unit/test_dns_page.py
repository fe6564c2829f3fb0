"""docs/how-to/dns-01.md: each configuration of it is read, and gives the provider that it names."""

import json
import textwrap

import pytest

from acme_engine.dns.table import PROVIDERS, provider_of
from sds_server.config.certvoy_yaml import load
from tests.support.dns_apis import AcmeDns
from tests.support.pages import DOCS, blocks

PAGE = DOCS / "how-to" / "dns-01.md"
AROUND = """\
database: postgresql://certvoy@db/certvoy
issuers:
  internal:
    directory: https://ca.example.test/dir
{dns}
http01: {{listen: "127.0.0.1:8080"}}
sds: {{listen: "127.0.0.1:8443"}}
"""
EXAMPLES = blocks(PAGE.read_text(), "yaml")
FILES = {
    "tsig.key": "c2VjcmV0LXNlY3JldA==",
    "cloudflare.token": "token",
    "hetzner.env": "HETZNER_API_TOKEN=token",
    "aws.secret": "secret",
    "pdns.key": "key",
    "account.json": json.dumps(AcmeDns("acme-dns.example.net").account("d420c923")),
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load an example in a file beside which every file that it names lies."""
    monkeypatch.setenv("HOOK_PASSWORD", "password")

    def read(text):
        for name, content in FILES.items():
            (tmp_path / name).write_text(content)
        filled = AROUND.format(dns=textwrap.indent(text, "    "))
        (tmp_path / "certvoy.yaml").write_text(filled)
        return load(tmp_path / "certvoy.yaml").issuers["internal"].dns

    return read


@pytest.mark.parametrize("text", EXAMPLES)
async def test_a_configuration_of_the_page_loads_and_gives_a_provider(read, text):
    dns = read(text)
    provider = provider_of(dns.provider, dns.settings())
    await provider.close()

    assert dns.provider in text


def test_the_policy_for_aws_names_the_zone_of_the_example_and_what_is_asked(read):
    (policy,) = [json.loads(block) for block in blocks(PAGE.read_text(), "json")]
    (zone,) = {
        found for text in EXAMPLES if (found := read(text).settings().get("hosted_zone_id")) is not None
    }
    changes, *_ = [each for each in policy["Statement"] if "Condition" in each]

    assert f"arn:aws:route53:::hostedzone/{zone}" == changes["Resource"]
    assert {"GetChange", "ListResourceRecordSets", "ChangeResourceRecordSets"} == {
        each["Action"].removeprefix("route53:") for each in policy["Statement"]
    }


def test_every_provider_has_an_example_and_a_line_in_the_overview(read):
    assert set(PROVIDERS) == {read(text).provider for text in EXAMPLES}
    assert all(f"| [`{name}`](#" in PAGE.read_text() for name in PROVIDERS)
