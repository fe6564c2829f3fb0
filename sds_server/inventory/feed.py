"""What changed, as a hint: NOTIFY tells at once, and who listens polls anyway, because a NOTIFY can be lost.

Every few seconds the listener tells itself something, and the feed is lost when it does not hear that: a
connection that a network cut, or one that a pooler lends out by the transaction, looks alive for ever.

A message is ``secret:NAME`` (what is served under the name may have changed), ``work`` (a Rotation wants a
worker) or ``rights`` (who may come, or what they may see, has changed).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from sds_server.clock import Clock
from sds_server.errors import Unavailable
from sds_server.inventory.database import UNREACHABLE, Database, Transaction, said

CHANNEL: Final = "certvoy"
HEARTBEAT_S: Final = 5.0
HEARD_WITHIN_S: Final = 5.0
"""Then the feed counts as lost."""


async def tell_secret(tx: Transaction, secret: str) -> None:
    """Tell every replica, at commit, that what is served under the name may have changed."""
    await tx.rows("notify", f"secret:{secret}")


async def tell_work(tx: Transaction) -> None:
    """Tell every replica, at commit, that there is work."""
    await tx.rows("notify", "work")


async def tell_rights(tx: Transaction) -> None:
    """Tell every replica, at commit, that who may come, or what they may see, has changed."""
    await tx.rows("notify", "rights")


class Feed:
    """Calls ``on_secret(name)``, ``on_work()``, ``on_rights()`` as told, ``on_gap()`` after a silence.

    ``on_beat()`` says that it listens: `step` itself does not end while it does.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        on_secret: Callable[[str], None],
        on_work: Callable[[], None],
        on_gap: Callable[[], None],
        on_rights: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._on_secret = on_secret
        self._on_work = on_work
        self._on_gap = on_gap
        self._on_rights = on_rights
        self.on_beat: Callable[[], None] = lambda: None

    async def step(self) -> None:
        """Listen until the connection is lost.

        Raises:
            Unavailable: it was lost, or cannot be made.
        """
        connection = await self._database.listen()
        own, heard = f"{CHANNEL}_{connection.get_server_pid()}", asyncio.Event()
        try:
            await connection.add_listener(CHANNEL, self._heard)
            await connection.add_listener(own, lambda *_message: heard.set())
            self._on_gap()
            while True:
                self.on_beat()
                await self._clock.sleep(HEARTBEAT_S)
                heard.clear()
                async with asyncio.timeout(HEARD_WITHIN_S):
                    await connection.execute(f"NOTIFY {own}")
                    await heard.wait()
        except (*UNREACHABLE, asyncpg.PostgresError) as e:
            raise Unavailable(f"database: the feed was lost: {said(e)}") from e
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, message: object) -> None:
        kind, _, name = str(message).partition(":")
        if kind == "secret":
            self._on_secret(name)
        elif kind == "rights":
            self._on_rights()
        else:
            self._on_work()
