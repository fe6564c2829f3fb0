"""The one way to PostgreSQL: a pool with deadlines, named statements, transactions.

asyncpg's errors end here: what cannot be reached or answers too late is `Unavailable`. A connection on which
anything failed is terminated, because a half-dead one given back to the pool hangs whoever takes it next.

A COMMIT whose answer is lost may have happened. So a transaction that has written knows its own number, and
the server is asked by that, on another connection, what became of it: who called hears of a success or of a
failure, and not of a doubt.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from sds_server.errors import Unavailable

COMMAND_TIMEOUT_S: Final = 10.0
BEGIN_TIMEOUT_S: Final = 3.0
"""For the first word on a connection of the pool, which may be dead without anybody having said so."""

CONNECT_TIMEOUT_S: Final = 5.0
MIGRATION_TIMEOUT_S: Final = 600.0
"""For one migration, which may have to write a million rows, and for whoever waits for its turn behind it."""

FATE_WITHIN_S: Final = 5.0
"""So long is asked what became of a COMMIT that was not answered; after that its caller is told so."""

FATE_POLL_S: Final = 0.1
POOL_SIZE: Final = 10
SESSION_SETTINGS: Final[Mapping[str, str]] = {
    "application_name": "certvoy",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
    # What was committed is on the disk before anybody is told, whatever a server's own setting is.
    "synchronous_commit": "on",
}
WRITABLE: Final = "read-write"
"""Of several hosts the one that takes writes: nothing is ever decided by what a replica has."""

KEEPALIVE: Final[Mapping[str, int]] = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 30_000,
}
"""An idle connection that a network has cut ends after 30 s (tcp(7)), before somebody waits for it."""

_PACKAGE: Final = Path(__file__).resolve().parent
UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut in the middle of an answer
    asyncpg.PostgresConnectionError,
)
_OUT_OF_ORDER: Final = (
    asyncpg.CannotConnectNowError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)

Row = Mapping[str, Any]


def session_settings(role: str | None = None) -> dict[str, str]:
    """Return what each session is told when it begins."""
    return {**SESSION_SETTINGS, **({} if role is None else {"role": role})}


@cache
def statements() -> Mapping[str, str]:
    """Read queries.sql: the statement below each ``-- name: NAME``."""
    text = (_PACKAGE / "queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (body.strip() for body in parts[1::2]), strict=True))


@cache
def _writes(statement: str) -> bool:
    """Whether a statement may write; what locks alone, or calls a function that writes, need not count."""
    return re.search(r"\b(INSERT|UPDATE|DELETE)\b", statements()[statement]) is not None


class Connection(asyncpg.Connection):
    """One that notices by itself that the network between is gone, where there is a network."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        at: socket.socket | None = transport.get_extra_info("socket")
        if at is None or at.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        at.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not every system has all of them
                at.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Transaction:
    """One transaction on one connection, speaking in statement names."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.wrote = False
        """Whether it may have written."""

    async def rows(self, statement: str, *arguments: object) -> list[Row]:
        """Run the statement and return every row."""
        self.wrote |= _writes(statement)
        rows: list[Row] = await self._connection.fetch(statements()[statement], *arguments)
        return rows

    async def row(self, statement: str, *arguments: object) -> Row | None:
        """Run the statement and return its first row."""
        self.wrote |= _writes(statement)
        row: Row | None = await self._connection.fetchrow(statements()[statement], *arguments)
        return row

    async def value(self, statement: str, *arguments: object) -> Any:
        """Run the statement and return the first column of its first row; None without one."""
        self.wrote |= _writes(statement)
        return await self._connection.fetchval(statements()[statement], *arguments)

    async def run_script(self, sql: str) -> None:
        """Run a migration, for which the deadlines of statements are too short."""
        await self._run_long(sql, "statement_timeout")

    async def wait(self, statement: str) -> None:
        """Run a statement that waits for a lock, as long as a migration may take that holds it."""
        await self._run_long(statements()[statement], "statement_timeout", "lock_timeout")

    async def _run_long(self, sql: str, *deadlines: str) -> None:
        for deadline in deadlines:
            await self._connection.execute(f"SET LOCAL {deadline} = '{MIGRATION_TIMEOUT_S:.0f}s'")
        await self._connection.execute(sql, timeout=MIGRATION_TIMEOUT_S)
        for deadline in deadlines:
            await self._connection.execute(f"SET LOCAL {deadline} TO DEFAULT")


class Database:
    """A pool of connections. Open it with `open_database`."""

    def __init__(self, connect: Mapping[str, Any], *, role: str | None = None) -> None:
        self._connect = {**connect, "server_settings": session_settings(role), **_CONNECTION}
        self._pool: Any = None
        self._made: WeakSet[Any] = WeakSet()
        self._busy: set[int] = set()

    async def open(self, *, size: int) -> None:
        """Open the pool.

        Raises:
            Unavailable: nobody answers there, or it lets us not in.
        """
        await (await _connect(self._connect)).close()  # one clear error before a pool's retries blur it
        self._pool = await asyncpg.create_pool(
            **self._connect,
            min_size=1,
            max_size=size,
            command_timeout=COMMAND_TIMEOUT_S,
            timeout=CONNECT_TIMEOUT_S,
            init=self._prepare,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One transaction: committed at the end of the block, rolled back by any exception.

        Nothing inside may wait for a network other than the database's.

        Raises:
            Unavailable: the database cannot be reached, is starting or stopping, or did not answer in time.
        """
        try:
            connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)
        except (*UNREACHABLE, *_OUT_OF_ORDER) as e:
            raise Unavailable(f"database: {said(e)}") from e
        self._busy.add(pid := connection.get_server_pid())
        try:
            # By hand, and not by asyncpg's own block: that one says ROLLBACK, without a limit, to a
            # connection that has just failed to answer.
            await connection.execute("BEGIN", timeout=BEGIN_TIMEOUT_S)
            tx = Transaction(connection)
            yield tx
            number = await tx.row("transaction_number") if tx.wrote else None
            try:
                await connection.execute("COMMIT")
            except (*UNREACHABLE, asyncpg.OperatorInterventionError) as e:
                if isinstance(e, TimeoutError):
                    self._distrust()
                _terminate(connection)
                if number is None or not await self._came_to_pass(number):
                    raise
        except (*UNREACHABLE, *_OUT_OF_ORDER) as e:
            if isinstance(e, TimeoutError):
                self._distrust()
            _terminate(connection)
            raise Unavailable(f"database: {said(e)}") from e
        except Exception:
            await self._roll_back(connection)
            raise
        except BaseException:  # cancelled, mostly in the middle of an answer
            _terminate(connection)
            raise
        finally:
            self._busy.discard(pid)
            # The connection may break when it is given back; what was committed before is done all the same.
            with suppress(*UNREACHABLE, *_OUT_OF_ORDER):
                await self._pool.release(connection, timeout=CONNECT_TIMEOUT_S)

    async def _came_to_pass(self, number: Row) -> bool:
        """Ask what became of a transaction whose COMMIT was not answered.

        Raises:
            Unavailable: nobody can say in time; or another server is there now, which may not have it.
        """
        unknown = "whether it was committed is not known: look before you do it again"
        try:
            async with asyncio.timeout(FATE_WITHIN_S):
                while True:
                    with suppress(Unavailable):
                        fate = await self._ask_what_became_of(number)
                        if fate is not None:
                            return fate
                    await asyncio.sleep(FATE_POLL_S)
        except TimeoutError as e:
            raise Unavailable(f"database: no answer to a COMMIT; {unknown}") from e

    async def _ask_what_became_of(self, number: Row) -> bool | None:
        """Return whether it was committed; None: it is at it still, or this server cannot know."""
        connection = await _connect(self._connect)
        try:
            tx = Transaction(connection)
            fate = await tx.value("transaction_fate", number["number"], number["timeline"])
        except (*UNREACHABLE, asyncpg.PostgresError):
            return None
        finally:
            _terminate(connection)
        return {"committed": True, "aborted": False}.get(fate)

    async def listen(self) -> Any:
        """Open a connection of its own for LISTEN; the caller closes it.

        Raises:
            Unavailable: the database cannot be reached.
        """
        return await _connect(self._connect)

    async def close(self) -> None:
        """Close every connection, by force where one does not end in time."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def _distrust(self) -> None:
        """End the idle connections too: where one fell silent, each of them would cost a wait to find out."""
        for connection in [*self._made]:
            if not connection.is_closed() and connection.get_server_pid() not in self._busy:
                _terminate(connection)

    async def _roll_back(self, connection: Any) -> None:
        try:
            await connection.execute("ROLLBACK", timeout=BEGIN_TIMEOUT_S)
        except (*UNREACHABLE, asyncpg.PostgresError):
            _terminate(connection)

    async def _prepare(self, connection: Any) -> None:
        self._made.add(connection)
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads, format="text"
        )


_CONNECTION: Final[Mapping[str, Any]] = {
    "connection_class": Connection,
    "target_session_attrs": WRITABLE,
}


async def open_database(
    connect: Mapping[str, Any], *, size: int = POOL_SIZE, role: str | None = None
) -> Database:
    """Open a pool; ``connect`` holds asyncpg's connection arguments (a ``dsn``, or host, user, ...).

    Its sessions act as the ``role``, where one is named, and have no other rights than that.

    Raises:
        Unavailable: nobody answers there, or it lets us not in.
    """
    database = Database(connect, role=role)
    await database.open(size=size)
    return database


async def _connect(connect: Mapping[str, Any]) -> Any:
    try:
        return await asyncpg.connect(
            **connect,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
        )
    except (*UNREACHABLE, *_OUT_OF_ORDER) as e:
        raise Unavailable(
            f"database: {said(e)}", hint="start PostgreSQL, or correct the address that was given of it"
        ) from e


def _terminate(connection: Any) -> None:
    # A connection that the server closed may have left the pool already.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def said(error: BaseException) -> str:
    """Return an error's words, also where it has none."""
    return str(error) or f"no answer in time ({type(error).__name__})"
