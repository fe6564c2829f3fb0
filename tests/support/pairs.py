"""Pairs as an agent has them: judged by the gate, and lying in their place."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives import hashes

from acme_engine.hidden import Hidden
from sds_server.agent.installers.installer import CHAIN, COMBINED, KEY, Placed
from sds_server.agent.pair import Bundle, Pair, judge
from sds_server.agent.versions import CURRENT, Versions
from sds_server.config.file import Model
from sds_server.config.values import File
from tests.support import pki

DOMAIN = "www.example.test"
Section = TypeVar("Section", bound=Model)


class Issuer:
    """Issues pairs of the secret `www`, one generation after another."""

    def __init__(self, names: Sequence[str] = (DOMAIN,)) -> None:
        self._ca = pki.authority("root").intermediate("intermediate")
        self._names = list(names)
        self._generation = 0

    def next(self, key: pki.PrivateKey | None = None) -> Pair:
        self._generation += 1
        issued = self._ca.issue(dns=self._names, key=key)
        bundle = Bundle(
            secret="www",
            generation=self._generation,
            version=f"v{self._generation}",
            etag=f'"v{self._generation}"',
            fingerprint=issued.certificate.fingerprint(hashes.SHA256()).hex(),
            chain_pem=issued.chain_pem,
            key_pem=Hidden(issued.key_pem),
        )
        return judge(bundle, secret="www", wanted=[self._names[0]], now=datetime.now(UTC))


def settings(model: type[Section], **values: Any) -> Section:
    """Read a section of agent.yaml, as if it lay in the root."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return model.model_validate(given, context=File(Path("/"), []))


def place(directory: Path, pair: Pair) -> Placed:
    """Put it in its place as an agent does."""
    versions = Versions(directory)
    version = versions.add(
        {
            CHAIN: (pair.chain_pem, 0o600),
            KEY: (pair.key_pem.reveal(), 0o600),
            COMBINED: (pair.combined_pem, 0o600),
        }
    )
    versions.point(CURRENT, version)
    return Placed(directory / CURRENT)
