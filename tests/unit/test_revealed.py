"""Where a secret becomes readable: the places are few, and each is known.

A new one is a decision: count it here, after a look at what becomes of what it gives.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

KNOWN = {
    "acme_engine/hidden.py": 3,  # comparing, and whether there is anything
    "acme_engine/jws.py": 1,  # signs the account's binding
    "acme_engine/dns/api.py": 2,  # into a request's header; out of what the API says
    "acme_engine/dns/acme_dns.py": 2,  # the same
    "sds_server/agent/delivery.py": 1,  # into the file that the program reads
    "sds_server/agent/installers/traefik.py": 1,
    "sds_server/agent/pair.py": 2,  # to the gate; chain and key in one
    "sds_server/config/dns.py": 2,  # to a provider of DNS; checked
    "sds_server/credentials.py": 3,  # our own key: checked, to gRPC, to OpenSSL
    "sds_server/keys/kms.py": 1,  # a DEK opens its envelope
    "sds_server/keys/vault.py": 1,  # into a request's header
    "sds_server/lifecycle/calling.py": 1,  # our own key, to OpenSSL
}


def test_a_secret_becomes_readable_in_these_places_alone():
    found = {
        str(path.relative_to(ROOT)): count
        for package in ("acme_engine", "sds_server")
        for path in (ROOT / package).rglob("*.py")
        if (count := len(re.findall(r"\.reveal\(\)|\.get_secret_value\(\)", path.read_text())))
    }

    assert KNOWN == found
