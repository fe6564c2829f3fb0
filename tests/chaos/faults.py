"""What goes wrong during a rotation: each fault is a block, at whose end it is healed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random

from sds_server.demo.sabotage import Flaw, store_broken_pair
from sds_server.errors import CertvoyError
from sds_server.inventory.database import open_database
from tests.chaos.clients import Clients
from tests.chaos.impostors import Conduct
from tests.chaos.stage import AGENT, ENVOYS, REPLICAS, XDS, Stage
from tests.support.control_plane import until
from tests.support.fault_proxy import Fault, FaultProxy

Inject = Callable[[Stage, Clients, Random, str], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def nothing(_stage: Stage, _clients: Clients, _rng: Random, _secret: str) -> AsyncIterator[None]:
    """Nothing goes wrong."""
    yield


@asynccontextmanager
async def frozen_proxy(stage: Stage, clients: Clients, rng: Random, secret: str) -> AsyncIterator[None]:
    """An Envoy stops in the middle of whatever it does: SIGSTOP, and SIGCONT."""
    name = _envoy(rng, secret)
    target, process = stage.targets[name], stage.envoys[name].child
    await clients.look(target)  # what it served last is on record
    target.falls()
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        target.rises()
        process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def dead_proxy(stage: Stage, clients: Clients, rng: Random, secret: str) -> AsyncIterator[None]:
    """An Envoy is killed, and started again with nothing in its memory."""
    name = _envoy(rng, secret)
    target = stage.targets[name]
    await clients.look(target)
    target.falls()
    stage.envoys[name].child.kill()
    try:
        yield
    finally:
        target.rises()
        await stage.start_envoy(name)


@asynccontextmanager
async def refusing_client(stage: Stage, _clients: Clients, _rng: Random, _secret: str) -> AsyncIterator[None]:
    """A client says no to the new pair."""
    with_conduct = stage.impostors[XDS]
    with_conduct.conduct = Conduct.REFUSE
    try:
        yield
    finally:
        with_conduct.heal()


@asynccontextmanager
async def stale_listener(stage: Stage, _clients: Clients, _rng: Random, _secret: str) -> AsyncIterator[None]:
    """A client ACKs the new pair, and its listener serves the old one."""
    stage.impostors[XDS].conduct = Conduct.DEAF
    try:
        yield
    finally:
        stage.impostors[XDS].heal()


@asynccontextmanager
async def ignored_reload(stage: Stage, _clients: Clients, rng: Random, _secret: str) -> AsyncIterator[None]:
    """An agent says that the new pair was accepted, or even that it saw it served; it is not."""
    stage.impostors[AGENT].conduct = rng.choice([Conduct.DEAF, Conduct.LIAR])
    try:
        yield
    finally:
        stage.impostors[AGENT].heal()


@asynccontextmanager
async def broken_pair(stage: Stage, _clients: Clients, rng: Random, secret: str) -> AsyncIterator[None]:
    """A pair whose key is another's, or that is for other names, gets into the inventory."""
    flaw = rng.choice(list(Flaw))
    database = await open_database(stage.postgres.connect, size=1)
    try:

        async def stored() -> bool:
            try:
                await store_broken_pair(database, secret, flaw)
            except CertvoyError:  # a worker has the Rotation, or the database is away
                return False
            return True

        await until(stored)
        yield
    finally:
        await database.close()


@asynccontextmanager
async def killed_replica(stage: Stage, _clients: Clients, rng: Random, _secret: str) -> AsyncIterator[None]:
    """A replica is killed -9, and started again."""
    name = rng.choice(REPLICAS)
    child = stage.replicas[name].child
    assert child is not None
    child.kill()
    try:
        yield
    finally:
        await stage.start_replica(name)


@asynccontextmanager
async def killed_database(stage: Stage, _clients: Clients, _rng: Random, _secret: str) -> AsyncIterator[None]:
    """PostgreSQL is killed -9, and started again on what is left."""
    stage.postgres.kill()
    try:
        yield
    finally:
        await stage.start_database()


@asynccontextmanager
async def bad_link(stage: Stage, _clients: Clients, rng: Random, _secret: str) -> AsyncIterator[None]:
    """The network between proxies and replicas, or between replicas and the database, misbehaves."""
    links: Mapping[str, FaultProxy] = rng.choice([stage.xds_links, stage.database_links])
    chosen = [links[name] for name in rng.sample(REPLICAS, rng.randint(1, len(REPLICAS)))]
    fault = rng.choice([Fault.LATENCY, Fault.RESET, Fault.BLACK_HOLE, Fault.HALF_CLOSE])
    for link in chosen:
        link.become(fault)
    try:
        yield
    finally:
        for link in chosen:
            link.heal()


KINDS: Mapping[str, Inject] = {
    inject.__name__: inject
    for inject in (
        nothing,
        frozen_proxy,
        dead_proxy,
        refusing_client,
        stale_listener,
        ignored_reload,
        broken_pair,
        killed_replica,
        killed_database,
        bad_link,
    )
}
ROTATES = {"broken_pair"}
"""It is the rotation itself that is at fault."""

ONLY_WWW = {"refusing_client", "stale_listener", "ignored_reload"}
"""The impostors serve that one."""

HOLDS_BACK = {"frozen_proxy", "dead_proxy", "refusing_client", "stale_listener", "ignored_reload"}


async def random_kill(stage: Stage, rng: Random, spared: asyncio.Lock) -> str:
    """SIGKILL something, and start it again."""
    async with spared:
        victim = rng.choice([*ENVOYS, *REPLICAS, "postgres"])
        if victim in ENVOYS:
            target = stage.targets[victim]
            target.falls()
            stage.envoys[victim].child.kill()
            target.rises()
            await stage.start_envoy(victim)
        elif victim in REPLICAS:
            child = stage.replicas[victim].child
            assert child is not None
            child.kill()
            await stage.start_replica(victim)
        else:
            stage.postgres.kill()
            await stage.start_database()
    return victim


def _envoy(rng: Random, secret: str) -> str:
    return rng.choice([name for name, (_, serves) in ENVOYS.items() if serves == secret])
