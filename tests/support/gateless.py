"""`python -m tests.support.gateless`: certvoy with a content gate that lets everything through.

As a bug in the gate would do, or a rule of Envoy's that it does not know: what Envoy refuses reaches it.
"""

import sys
from typing import Any

from acme_engine import chain as chains
from sds_server import gate
from sds_server.cli.main import main


def _everything(*, chain_pem: bytes, **_rules: Any) -> chains.Chain:
    return chains.parse(chain_pem)


if __name__ == "__main__":
    gate.check_pair = _everything  # before anybody has imported it by name
    sys.exit(main())
