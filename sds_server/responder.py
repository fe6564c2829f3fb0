"""`certvoy responder`: what faces the Internet, as a process and a user of its own.

It reads the answers to challenges in the database, and has neither KMS nor the right to read a key: whoever
breaks into it has what the Internet may have anyway.
"""

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from acme_engine.errors import CannotListen
from sds_server.config.values import Listen
from sds_server.errors import Unavailable
from sds_server.inventory.database import open_database
from sds_server.inventory.schema import responder_role
from sds_server.inventory.tokens import Tokens
from sds_server.listeners import http01_responder, tls_responder
from sds_server.log import get

POOL_SIZE: Final = 2
"""Look-ups in vain are bounded (acme_engine.lookup), and each is a row by its key."""

_log = get("responder")


async def answer(
    connect: Mapping[str, Any],
    *,
    http01: Listen | None,
    tls_alpn01: Listen | None,
    on_ready: Callable[[int | None, int | None], None],
    on_stop: Callable[[], None],
) -> None:
    """Answer challenges until SIGTERM or SIGINT. ``on_ready`` is given the ports: of HTTP-01, TLS-ALPN-01.

    A login that could do more becomes the responder's role; one that reads keys and cannot is warned of.

    Raises:
        OperatorError: the database is not there or has no schema of this release, or an address is taken.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
            stack.callback(loop.remove_signal_handler, sig)
        looking = await open_database(connect, size=1)
        try:
            role = await responder_role(looking)
        finally:
            await looking.close()
        if role.reads_keys:
            _log.warning("responder.overprivileged", login=role.login, role=role.name)
        database = await open_database(connect, size=POOL_SIZE, role=role.become)
        stack.push_async_callback(database.close)
        ports: list[int | None] = []
        try:
            tokens = Tokens(database)
            for responder in (http01_responder(http01, tokens), tls_responder(tls_alpn01, tokens)):
                if responder is not None:
                    stack.push_async_callback(responder.stop)
                ports.append(None if responder is None else await responder.start())
        except CannotListen as e:
            raise Unavailable(e.message, hint=e.hint) from e
        _log.info("responder.ready", http01_port=ports[0], tls_alpn01_port=ports[1])
        on_ready(ports[0], ports[1])
        await stop.wait()
        on_stop()
    _log.info("responder.stopped")
