"""What a test needs to order a certificate: tokens and a journal in memory, a key, a crash."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from acme_engine import Client, Http01Responder, Http01Solver, KeyType, Order, Solver, keys, obtain
from acme_engine.ordering import NO_TERMS, Terms


class Tokens(dict[str, str]):
    """A `TokenStore` of this process; ``reads`` holds every token asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    async def put(self, token: str, key_authorization: str, *, ttl_s: int) -> None:
        assert ttl_s > 0
        self[token] = key_authorization

    async def get(self, token: str) -> str | None:  # type: ignore[override]
        self.reads.append(token)
        return dict.get(self, token)

    async def delete(self, token: str) -> None:
        self.pop(token, None)


class Crash(BaseException):
    """The process died: nothing catches it."""


class MemoryJournal:
    """Keeps the steps; ``crash_after`` names the one after whose commit the process dies."""

    def __init__(self, *, crash_after: str | None = None) -> None:
        self.steps: list[str] = []
        self.order_url: str | None = None
        self._crash_after = crash_after

    async def ordered(self, order_url: str) -> None:
        self.order_url = order_url
        self._step("ordered")

    async def finalizing(self) -> None:
        self._step("finalizing")

    async def issued(self, certificate_url: str) -> None:
        assert certificate_url.startswith("http")
        self._step("issued")

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self._crash_after:
            raise Crash


class Orderer:
    """Orders certificates for one list of names with one key, as often as asked; over HTTP-01 by default."""

    def __init__(
        self,
        client: Client,
        names: list[str],
        tokens: Tokens,
        *,
        solver: Solver | None = None,
        key_type: KeyType = KeyType.ECDSA_P256,
        terms: Terms | None = None,
    ) -> None:
        self.names = names
        self.tokens = tokens
        self._solver = solver
        self.key = keys.generate(key_type)
        self._terms = terms or NO_TERMS
        self.steps: list[tuple[str, dict[str, object]]] = []
        self._client = client

    async def obtain(self, journal: MemoryJournal, *, order_url: str | None = None, deadline_s: float = 60):
        return await obtain(
            self._client,
            names=self.names,
            csr=keys.csr(self.key, self.names),
            solver=self._solver or Http01Solver(self.tokens),
            journal=journal,
            order_url=order_url,
            deadline_s=deadline_s,
            terms=self._terms,
            on_step=lambda name, fields: self.steps.append((name, dict(fields))),
        )


class OneByOne(Client):
    """A client whose newOrder waits for the one before: Pebble, in every version, deadlocks otherwise."""

    def __init__(self, directory_url: str, *, turn: asyncio.Lock | None = None, **more: object) -> None:
        super().__init__(directory_url, **more)  # type: ignore[arg-type]
        self._turn = turn or asyncio.Lock()

    async def new_order(self, names: Sequence[str], more: Mapping[str, object] | None = None) -> Order:
        async with self._turn:
            return await super().new_order(names, more)


async def some_at_once(do: Callable[[int], Awaitable[object]], count: int, *, at_once: int) -> None:
    """Do it ``count`` times, so many at a time; the first failure ends all."""
    limit = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with limit:
            await do(number)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


@asynccontextmanager
async def responding(tokens: Tokens, *, port: int) -> AsyncIterator[None]:
    """Answer HTTP-01 on loopback for a while."""
    responder = Http01Responder(tokens, host="127.0.0.1", port=port)
    await responder.start()
    try:
        yield
    finally:
        await responder.stop()
