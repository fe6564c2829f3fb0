"""Suspicions: rows that are not as certvoy wrote them, each said once, in the log and in the audit.

A key that does not open was moved, damaged, or wrapped by a KEK that is not here. A Secret whose newest
generation is older than the audit's was put back, or its newest taken out, by somebody who writes to the
tables past us. Neither is published from here; what is in the Catalog stays.
"""

from collections.abc import Collection, Sequence

from sds_server.errors import CustodyError
from sds_server.inventory import suspicions
from sds_server.inventory.database import Database
from sds_server.log import get
from sds_server.model import CertificateId, KeyId, SealedKey

HINT = "find out who writes to the database; `certvoy rotate NAME` then gives it a new generation"

_log = get("publisher")


class Suspicions:
    """Says each of them once for as long as the name is watched."""

    def __init__(self, *, database: Database, actor: str) -> None:
        self._database = database
        self._actor = actor
        self._unopened: dict[str, KeyId] = {}
        self._rolled_back: dict[str, int] = {}

    async def rolled_back(
        self, *, certificates: Sequence[str] = (), payloads: Sequence[str] = ()
    ) -> Collection[str]:
        """Return those of these Secrets that were rolled back.

        Raises:
            Unavailable: the database does not answer.
        """
        found = await suspicions.rolled_back(self._database, certificates=certificates, payloads=payloads)
        for one in found:
            if self._rolled_back.get(one.secret) == one.told:
                continue
            await suspicions.tell_rolled_back(self._database, one, actor=self._actor)
            self._rolled_back[one.secret] = one.told
            _log.error(
                "secret.rolled_back",
                secret=one.secret,
                generation=one.served,
                audited=one.told,
                hint=HINT.replace("NAME", one.secret),
            )
        return {one.secret for one in found}

    async def unopened(
        self, secret: str, key: SealedKey, error: CustodyError, *, cert_id: CertificateId | None = None
    ) -> bool:
        """Say that a key does not open; return whether that is news.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._unopened.get(secret) == key.key_id:
            return False
        await suspicions.tell_unopened(
            self._database,
            secret,
            key,
            cert_id=cert_id,
            rule=error.rule,
            why=error.message,
            actor=self._actor,
        )
        self._unopened[secret] = key.key_id
        return True

    def forget(self, secret: str) -> None:
        """Keep nothing of a name that nobody wants, or that is well."""
        self._unopened.pop(secret, None)
        self._rolled_back.pop(secret, None)
