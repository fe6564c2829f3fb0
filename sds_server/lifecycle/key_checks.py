"""A drill of custody: some keys by chance, opened by the KMS itself, and held against their certificates.

A database without its KEK is worth nothing, and so is one with another's: neither shows before it is needed.
What is opened is compared and forgotten; nothing of it is returned, kept or logged.
"""

import asyncio

from acme_engine import chain as chains
from acme_engine import keys
from sds_server.errors import CustodyError, Unavailable
from sds_server.inventory import sealed_keys
from sds_server.inventory.database import Database
from sds_server.inventory.sealed_keys import Sampled
from sds_server.keys.custody import Checked
from sds_server.keys.kms import Sealer


class KeyChecks:
    """Opens keys by chance; `Sealer.check` asks the KMS for each, whatever is in memory."""

    def __init__(self, *, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def sample(self, count: int, *, actor: str) -> Checked:
        """Open ``count`` keys, or all that there are, and say which do not; audited.

        Raises:
            Unavailable: a KMS or the database does not answer: nobody knows.
        """
        sampled = await sealed_keys.sample(self._database, count)
        found = await asyncio.gather(*map(self._why_not, sampled))
        refused = {one.key.key_id: why for one, why in zip(sampled, found, strict=True) if why is not None}
        checked = Checked(len(sampled) - len(refused), refused)
        await sealed_keys.tell_checked(self._database, checked, kek_uri=self._sealer.kek_uri, actor=actor)
        return checked

    async def _why_not(self, sampled: Sampled) -> str | None:
        try:
            await self._sealer.check(sampled.key)
        except CustodyError as e:
            return e.message
        except Unavailable as e:
            raise Unavailable(f"key {sampled.key.key_id}: {e.message}", hint=e.hint) from e
        if sampled.chain_pem is not None and _spki(sampled.chain_pem) != sampled.key.spki_sha256:
            return f"key {sampled.key.key_id}: certificate: its leaf has another public key"
        return None


def _spki(chain_pem: str) -> bytes:
    return keys.spki_sha256(chains.parse(chain_pem.encode()).leaf.public_key())
