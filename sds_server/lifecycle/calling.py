"""As whom the control plane calls agents: a certificate of its own CA, kept in memory."""

import asyncio
import ssl

from sds_server.clock import Clock
from sds_server.credentials import caller_context
from sds_server.errors import CustodyError, Unavailable
from sds_server.lifecycle.enroller import Enroller, OwnPair


class CallerCredential:
    """One replica's. Made when it is first needed, and anew before it ends, which takes the KMS."""

    def __init__(self, enroller: Enroller, clock: Clock) -> None:
        self._enroller = enroller
        self._clock = clock
        self._made: tuple[OwnPair, ssl.SSLContext] | None = None
        self._making = asyncio.Lock()

    async def context(self) -> ssl.SSLContext:
        """Return TLS with it.

        Raises:
            Unavailable: the database or the KMS does not answer, and there is none yet.
            CustodyError: the key of our CA does not open.
        """
        async with self._making:
            if self._made is None or self._clock.now() >= self._made[0].renew_at:
                try:
                    pair = await self._enroller.caller_pair()
                except (Unavailable, CustodyError):
                    if self._made is None:
                        raise
                    return self._made[1]  # agents take it until it ends
                self._made = pair, caller_context(pair.chain_pem, pair.key_pem.reveal())
            return self._made[1]
