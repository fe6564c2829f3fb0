"""What a million certificates cost whoever wants few of them; each ratio is to a thousand in the same run.

One PostgreSQL holds both inventories, and everything is measured in turns. The work is the product's own: due
renewals are opened, claimed, planned, stored and confirmed by its functions, with the CA alone left out; each
periodic query is asked as its loop asks it; and a real `certvoy serve` is started, left idle, and subscribed
to by 3,000 streams over mutual TLS.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import grpc
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse

from acme_engine import keys
from benchmarks import filling
from benchmarks.filling import Pair
from benchmarks.report import Figures, Goals
from sds_server import authority
from sds_server.clock import SystemClock
from sds_server.errors import Unavailable
from sds_server.inventory import (
    deliveries,
    deployment,
    facts,
    issuances,
    offers,
    orders,
    proxies,
    revocations,
    roll_outs,
    rotations,
    secrets,
)
from sds_server.inventory.database import COMMAND_TIMEOUT_S, Database, open_database
from sds_server.inventory.deliveries import News
from sds_server.inventory.rotations import Claim
from sds_server.inventory.schema import migrate
from sds_server.inventory.tokens import Tokens
from sds_server.keys.kms import Sealer
from sds_server.keys.local import LocalKms
from sds_server.lifecycle.recorder import BATCH
from sds_server.lifecycle.rollout import Action
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    Identity,
    KeyType,
    Kind,
    Reason,
    Secret,
    SecretName,
)
from sds_server.programs.child import Child, free_port
from sds_server.programs.postgres import EmbeddedPostgres
from sds_server.xds import codec

FEW: Final = 1_000
MANY: Final = 1_000_000

WANTED: Final = 500
"""Real pairs: what somebody subscribes to."""

DUE: Final = 300
"""Renewals a round."""

ROUNDS: Final = 5
ASKED: Final = 15
"""How often each periodic query is asked."""

STARTS: Final = 3
WORKERS: Final = 4
IDLE_S: Final = 10.0
STREAMS: Final = 3_000
ROTATED: Final = 40
"""Rotations of names that are watched; the quickest quarter of them is told of."""

STREAMS_A_CONNECTION: Final = 100
"""What a client of ours can hold: an Envoy has a connection of its own, which costs more."""

STREAMS_AN_IDENTITY: Final = 1_000
"""As many as the inventory takes of one identity."""

PROXIES: Final = 100_000
"""Enrolled, as of a fleet whose other proxies other replicas serve."""

TIMEOUT_S: Final = 120.0
ACTOR: Final = "person:benchmark"
SERVER_NAME: Final = "control-plane.fleet.example.com"
HOST: Final = "127.0.0.1"
STREAM: Final = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"

GOALS: Final[Goals] = {
    "claim and complete, ratio": (">=", 0.8),
    "start-up, ratio": ("<=", 1.25),
    "memory at start, ratio": ("<=", 1.1),
    "memory a stream, ratio": ("<=", 1.1),
    "one rotation to its streams, ratio": ("<=", 1.25),
    "queries of a poll, ratio": ("<=", 1.5),
    "census, ms, many": ("<=", 250.0),
}


def run(many: int = MANY) -> tuple[Figures, Goals]:
    """Run it and return figures and goals."""
    return asyncio.run(_run(many)), GOALS


async def _run(many: int) -> Figures:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="certvoy-bench-")))
        postgres = EmbeddedPostgres(directory / "postgres")
        await postgres.start()
        stack.push_async_callback(postgres.stop)
        few, big = [
            await _Inventory.make(postgres.connect, directory / str(size), size, stack)
            for size in (FEW, many)
        ]
        found: dict[str, float] = {}
        for measure in (_work, _ask, _record, _start, _subscribe, _enrol):
            found |= await measure(few, big)
            print(f"{len(found)} figures", file=sys.stderr)
        found["secrets filled a second"] = big.size / big.seconds
        return found


def _compared(what: str, few: float, many: float, *, of: str = "ratio") -> Figures:
    return {f"{what}, {FEW:,}": few, f"{what}, many": many, f"{what}, {of}": many / few}


class _Inventory:
    """One database of one size, with all that the product needs to work on it."""

    def __init__(self, directory: Path, size: int, database: Database, sql: Any, sealer: Sealer) -> None:
        self.directory = directory
        self.size = size
        self.database = database
        self.sql = sql
        self.sealer = sealer
        self.ca = filling.new_ca("benchmark CA")
        self.url = ""
        self.seconds = 0.0
        self._serial = count(1)

    @classmethod
    async def make(
        cls, connect: Mapping[str, Any], directory: Path, size: int, stack: AsyncExitStack
    ) -> "_Inventory":
        directory.mkdir()  # noqa: ASYNC240 - before anything runs
        name = f"of_{size}"
        admin = await asyncpg.connect(**connect)
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        arguments = {**connect, "database": name}
        database = await open_database(arguments)
        stack.push_async_callback(database.close)
        await migrate(database)
        identity, _ = await deployment.identify(database)
        kms = LocalKms(directory / "kek", create=True)
        sql = await asyncpg.connect(**arguments)
        stack.push_async_callback(sql.close)
        made = cls(directory, size, database, sql, Sealer(kms, deployment=identity, clock=SystemClock()))
        made.url = (
            f"postgresql://{connect['user']}:{connect['password']}@/{name}"
            f"?host={connect['host']}&port={connect['port']}"
        )
        wanted = [await filling.pair(made.sealer, made.ca, number) for number in range(WANTED)]
        started = time.perf_counter()
        await filling.fill(sql, size=size, wanted=wanted, ca=made.ca)
        made.seconds = time.perf_counter() - started
        return made

    # The work: from due to complete, as scheduler, worker and prover do it

    async def rotate(self) -> tuple[float, float, float]:
        """Rotate DUE Secrets; return the seconds of opening, of claiming, and of completing."""
        pairs = {
            filling.name(number): await filling.pair(self.sealer, self.ca, number)
            for number in (WANTED + (self.size - WANTED) * i // DUE for i in range(DUE))
        }
        await self.sql.execute(
            "UPDATE certificate SET renew_at = now() - interval '1 minute' + random() * interval '10 s'"
            " WHERE secret = ANY ($1) AND status = 'active'",
            list(pairs),
        )
        started = time.perf_counter()
        while await rotations.open_due(self.database, limit=100, actor=ACTOR):
            pass
        opened = time.perf_counter()
        claims: list[Claim] = []
        await _at_once(self._claim(claims) for _ in range(WORKERS))
        claimed = time.perf_counter()
        todo = list(claims)
        await _at_once(self._complete(todo, pairs) for _ in range(WORKERS))
        completed = time.perf_counter()
        assert sorted(claim.lease.secret for claim in claims) == sorted(pairs)
        return opened - started, claimed - opened, completed - claimed

    async def _claim(self, claims: list[Claim]) -> None:
        while len(claims) < DUE:
            claim = await rotations.claim(self.database, replica="benchmark", lease_for=timedelta(minutes=5))
            if claim is not None:
                claims.append(claim)

    async def _complete(self, todo: list[Claim], pairs: Mapping[str, Pair]) -> None:
        while todo:
            claim = todo.pop()
            pair = pairs[claim.lease.secret]
            await self.store(claim, pair)
            roll_out = await roll_outs.get(self.database, claim.lease.secret)
            assert roll_out is not None
            decision = await roll_outs.settle(self.database, roll_out, known=True, actor=ACTOR)
            assert decision.action is Action.COMPLETE_UNOBSERVED

    async def store(self, claim: Claim, pair: Pair) -> None:
        """Plan and store, as a worker does before and after the CA."""
        number = int(claim.lease.secret.rpartition("/")[2])
        secret = Secret(
            name=SecretName(claim.lease.secret),
            kind=Kind.TLS_CERTIFICATE,
            domains=(filling.domain(number),),
            issuer=filling.ISSUER,
            key_type=KeyType.ECDSA_P256,
        )
        order = await orders.plan(self.database, claim.lease, secret, csr=b"csr", key=pair.key, actor=ACTOR)
        await issuances.store(
            self.database,
            claim.lease,
            Certificate(
                id=CertificateId(uuid4()),
                secret=secret.name,
                generation=0,
                status=CertificateStatus.ISSUED,
                domains=secret.domains,
                issuer=secret.issuer,
                serial_number=pair.chain.serial_number,
                not_before=pair.chain.not_before,
                not_after=pair.chain.not_after,
                fingerprint=pair.chain.fingerprint,
                key_id=order.key_id,
                key_ref=pair.key.key_ref,
                chain_pem=pair.chain.pem,
                renew_at=pair.chain.not_after - filling.LEFT,
            ),
            spki_sha256=pair.key.spki_sha256,
            order_url="https://ca.fleet.example.com/order/benchmark",
            renew_reason="a third of its life is left",
            actor=ACTOR,
        )

    def news(self) -> Iterable[list[News]]:
        """Return what STREAMS subscriptions tell, in the recorder's batches."""
        every = [
            News(
                identity=_identity(number // STREAMS_AN_IDENTITY),
                node_id=f"edge-{number}",
                secret=filling.name(number % WANTED),
                sent=None,
                accepted=None,
                refused=None,
                refusal=None,
                refused_version=None,
                seen_for=timedelta(minutes=10),
            )
            for number in range(STREAMS)
        ]
        return (every[start : start + BATCH] for start in range(0, STREAMS, BATCH))

    async def wal(self) -> float:
        """Return how many bytes PostgreSQL has logged."""
        logged: float = await self.sql.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return float(logged)

    # What the loops ask, again and again

    def queries(self) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Return each periodic query, where nothing is to be done."""
        database = self.database
        scheduler = Scheduler(database=database, tokens=Tokens(database), clock=SystemClock(), actor=ACTOR)
        wanted = [filling.name(number) for number in range(WANTED)]
        return {
            "scheduler": scheduler.step,
            "worker": lambda: rotations.claim(database, replica="idle", lease_for=timedelta(minutes=1)),
            "revoker": lambda: revocations.claim(database, hold_for=timedelta(minutes=1)),
            "prover": lambda: roll_outs.claim(database, every=timedelta(seconds=1), limit=100),
            "publisher": lambda: offers.of(database, wanted),
            "census": lambda: facts.read(database),
            "admission": lambda: proxies.rights(database),
        }


async def _at_once(work: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*work)


async def _work(few: _Inventory, big: _Inventory) -> Figures:
    """Open, claim, store, confirm."""
    rounds: dict[int, list[tuple[float, float, float]]] = {few.size: [], big.size: []}
    logged = []
    for _ in range(ROUNDS):
        for inventory in (few, big):
            before = await inventory.wal()
            rounds[inventory.size].append(await inventory.rotate())
            logged.append(await inventory.wal() - before)
    found: dict[str, float] = {"WAL of a rotation, kB": statistics.median(logged) / DUE / 1024}
    for what, seconds in {
        "open": lambda took: took[0],
        "claim": lambda took: took[1],
        "complete": lambda took: took[2],
        "claim and complete": lambda took: took[1] + took[2],
    }.items():
        # Each round of the one against the same round of the other: what else the machine does hits both.
        a, b = ([DUE / seconds(took) for took in rounds[inventory.size]] for inventory in (few, big))
        found |= _compared(f"{what} a second", statistics.median(a), statistics.median(b), of="of medians")
        ratio = statistics.median(many / one for one, many in zip(a, b, strict=True))
        found[f"{what}, ratio"] = ratio
    return found


async def _ask(few: _Inventory, big: _Inventory) -> Figures:
    """Ask each periodic query, in turns."""
    took: dict[tuple[str, int], list[float]] = {}
    for _ in range(ASKED):
        for inventory in (few, big):
            for what, ask in inventory.queries().items():
                started = time.perf_counter()
                try:
                    await ask()
                except Unavailable:
                    # It was cut off: it takes at least so long.
                    took.setdefault((what, inventory.size), []).append(COMMAND_TIMEOUT_S * 1000)
                else:
                    ms = (time.perf_counter() - started) * 1000
                    took.setdefault((what, inventory.size), []).append(ms)
    found: dict[str, float] = {}
    # The quickest: what else the machine does only adds.
    best = {key: min(ms) for key, ms in took.items()}
    for what in few.queries():
        found |= _compared(f"{what}, ms", best[what, few.size], best[what, big.size])
    # But the census, every 15 s: it tells of each Secret among a few and of 10,000 among many.
    polled = [what for what in few.queries() if what != "census"]
    a, b = (sum(best[what, inventory.size] for what in polled) for inventory in (few, big))
    return {**found, **_compared("queries of a poll, ms", a, b), "queries of a poll, ratio": b / a}


async def _record(few: _Inventory, big: _Inventory) -> Figures:
    """Write what living subscriptions tell every few minutes: all of them known, none new."""
    took: dict[int, list[float]] = {few.size: [], big.size: []}
    wal: dict[int, list[float]] = {few.size: [], big.size: []}
    for _ in range(ROUNDS):
        for inventory in (few, big):
            written = await inventory.wal()
            started = time.perf_counter()
            for batch in inventory.news():
                await deliveries.write(inventory.database, batch, actor=ACTOR)
            took[inventory.size].append(time.perf_counter() - started)
            wal[inventory.size].append(await inventory.wal() - written)
    a, b = (STREAMS / statistics.median(took[inventory.size][1:]) for inventory in (few, big))
    found = dict(_compared("deliveries written a second", a, b))
    found["WAL of a delivery written, kB"] = statistics.median(wal[big.size][1:]) / STREAMS / 1024
    return found


# A real process


class _Replica:
    """`certvoy serve` on an inventory, and what it takes."""

    def __init__(self, inventory: _Inventory) -> None:
        self.inventory = inventory
        self.port = free_port()
        self._ready = inventory.directory / "ready"
        self.clients = filling.new_ca("clients")
        self._child: Child | None = None

    async def start(self) -> float:
        """Start it and return the seconds until it was ready."""
        self._write()
        self._ready.unlink(missing_ok=True)
        started = time.perf_counter()
        self._child = Child(
            "certvoy",
            [
                *(sys.executable, "-m", "sds_server", "serve"),
                *("--config", self.inventory.directory / "certvoy.yaml", "--ports-file", self._ready),
            ],
            log=self.inventory.directory / "log",
            cwd=Path(__file__).parent.parent,
        )

        async def answers() -> bool:
            return self._ready.exists()

        await self._child.ready(answers, timeout_s=TIMEOUT_S)
        return time.perf_counter() - started

    def _write(self) -> None:
        directory = self.inventory.directory
        key = ec.generate_private_key(ec.SECP256R1())
        server = authority.server_certificate(
            self.clients, key.public_key(), names=[SERVER_NAME], now=datetime.now(UTC), lifetime=filling.LIFE
        )
        (directory / "server.pem").write_text(authority.pem([server]))
        (directory / "server.key").touch(mode=0o600)
        (directory / "server.key").write_bytes(keys.pem(key))
        (directory / "clients.pem").write_text(authority.pem([self.clients.certificate]))
        identities = [_identity(number) for number in range(STREAMS // STREAMS_AN_IDENTITY)]
        settings = {
            "database": self.inventory.url,
            "state_dir": str(directory / "state"),
            "kms": {"provider": "local", "key_file": str(directory / "kek")},
            "issuers": {filling.ISSUER: {"directory": f"https://{HOST}:1/directory"}},
            "http01": {"listen": f"{HOST}:0"},
            "sds": {
                "listen": f"{HOST}:{self.port}",
                "certificate": str(directory / "server.pem"),
                "key": str(directory / "server.key"),
                "client_ca": str(directory / "clients.pem"),
            },
            "grants": [{"identity": identity, "names": ["fleet/*"]} for identity in identities],
        }
        (directory / "certvoy.yaml").write_text(yaml.safe_dump(settings))

    def pss_mb(self) -> float:
        """Return its proportional set size."""
        assert self._child is not None
        rollup = Path(f"/proc/{self._child.pid}/smaps_rollup").read_text()
        (line,) = (line for line in rollup.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1]) / 1024

    def cpu_s(self) -> float:
        """Return the CPU that it has had."""
        assert self._child is not None
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    async def database_s(self) -> tuple[float, int]:
        """Return how long PostgreSQL has been at its statements, and how many it has committed."""
        row = await self.inventory.sql.fetchrow(
            "SELECT active_time / 1000, xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return row[0], row[1]

    async def stop(self) -> None:
        if self._child is not None:
            await self._child.stop(timeout_s=30)


def _identity(number: int) -> Identity:
    return Identity(f"spiffe://fleet.example.com/edge-{number}")


async def _start(few: _Inventory, big: _Inventory) -> Figures:
    """Start it, let it do nothing, stop it."""
    took: dict[tuple[str, int], list[float]] = {}
    for _ in range(STARTS):
        for inventory in (few, big):
            replica = _Replica(inventory)
            try:
                seconds = await replica.start()
                await asyncio.sleep(2.0)  # each loop has taken its first step
                before = replica.cpu_s(), *await replica.database_s()
                await asyncio.sleep(IDLE_S)
                after = replica.cpu_s(), *await replica.database_s()
                for what, value in {
                    "start-up, s": seconds,
                    "memory at start, MB": replica.pss_mb(),
                    "CPU while idle, %": (after[0] - before[0]) / IDLE_S * 100,
                    "database while idle, %": (after[1] - before[1]) / IDLE_S * 100,
                    "transactions while idle, a second": (after[2] - before[2]) / IDLE_S,
                }.items():
                    took.setdefault((what, inventory.size), []).append(value)
            finally:
                await replica.stop()
    found: dict[str, float] = {}
    for what in dict.fromkeys(what for what, _ in took):
        a, b = (min(took[what, inventory.size]) for inventory in (few, big))
        found |= _compared(what, a, b)
    for what in ("start-up, s", "memory at start, MB"):
        found[f"{what.rpartition(', ')[0]}, ratio"] = found.pop(f"{what}, ratio")
    return found


class _Fleet:
    """Streams over mutual TLS, of one name each; each answers what it is sent."""

    def __init__(self, replica: _Replica) -> None:
        self._replica = replica
        self._credentials = [self._credential(n) for n in range(STREAMS // STREAMS_AN_IDENTITY)]
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.received: list[int] = [0] * STREAMS
        self.news = asyncio.Event()

    async def come(self) -> float:
        """Subscribe all, and return the seconds until each has its pair."""
        started = time.perf_counter()
        for number in range(STREAMS):
            if number % STREAMS_A_CONNECTION == 0:
                self._channels.append(
                    grpc.aio.secure_channel(
                        f"{HOST}:{self._replica.port}",
                        self._credentials[number // STREAMS_AN_IDENTITY],
                        options=[
                            ("grpc.ssl_target_name_override", SERVER_NAME),
                            ("grpc.use_local_subchannel_pool", 1),
                        ],
                    )
                )
            self._tasks.append(asyncio.create_task(self._stream(self._channels[-1], number)))
        await self.until(lambda: all(self.received))
        return time.perf_counter() - started

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for it, looking at each arrival."""
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                self.news.clear()
                await self.news.wait()

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def _stream(self, channel: grpc.aio.Channel, number: int) -> None:
        """Come, and come again: a connection that shows no stream for a moment is closed."""
        while True:
            with suppress(grpc.aio.AioRpcError):
                await self._exchange(channel, number)
            await asyncio.sleep(0.1)

    async def _exchange(self, channel: grpc.aio.Channel, number: int) -> None:
        call = channel.stream_stream(
            STREAM,
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )()
        name = filling.name(number % WANTED)
        request = DiscoveryRequest(type_url=codec.TYPE_URL, resource_names=[name])
        request.node.id = f"edge-{number}"
        await call.write(request)
        while isinstance(response := await call.read(), DiscoveryResponse):
            self.received[number] += 1
            self.news.set()
            await call.write(
                DiscoveryRequest(
                    type_url=codec.TYPE_URL,
                    resource_names=[name],
                    version_info=response.version_info,
                    response_nonce=response.nonce,
                )
            )

    def _credential(self, number: int) -> grpc.ChannelCredentials:
        ca = self._replica.clients
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.credential(
            ca,
            key.public_key(),
            identity=_identity(number),
            enrolment=1,
            now=datetime.now(UTC),
            lifetime=timedelta(days=1),
        )
        return grpc.ssl_channel_credentials(
            authority.pem([ca.certificate]).encode(), keys.pem(key), authority.pem([certificate]).encode()
        )


async def _subscribe(few: _Inventory, big: _Inventory) -> Figures:
    """Let a fleet come to each, and rotate in turns what some of it watches."""
    took: dict[int, dict[str, float]] = {}
    latencies: dict[int, list[float]] = {few.size: [], big.size: []}
    async with AsyncExitStack() as stack:
        fleets: dict[int, _Fleet] = {}
        for inventory in (few, big):
            replica = _Replica(inventory)
            stack.push_async_callback(replica.stop)
            await replica.start()
            fleet = fleets[inventory.size] = _Fleet(replica)
            stack.push_async_callback(fleet.leave)
            await asyncio.sleep(2.0)
            alone_mb = replica.pss_mb()
            storm_s = await fleet.come()
            await asyncio.sleep(5.0)  # what the streams told is written
            took[inventory.size] = {
                f"{STREAMS:,} streams come, s": storm_s,
                "memory a stream, kB": (replica.pss_mb() - alone_mb) * 1024 / STREAMS,
            }
        for number in range(ROTATED):
            for inventory in (few, big):
                latencies[inventory.size].append(await _told(inventory, fleets[inventory.size], number))
    for inventory in (few, big):
        quick = statistics.quantiles(latencies[inventory.size])[0] * 1000
        took[inventory.size]["one rotation to its streams, ms"] = quick
    found: dict[str, float] = {}
    for what in took[few.size]:
        found |= _compared(what, took[few.size][what], took[big.size][what])
    found["memory a stream, ratio"] = found.pop("memory a stream, kB, ratio")
    found["one rotation to its streams, ratio"] = found.pop("one rotation to its streams, ms, ratio")
    return found


async def _told(inventory: _Inventory, fleet: _Fleet, number: int) -> float:
    """Rotate one Secret and return the seconds from its commit to its last stream."""
    pair = await filling.pair(inventory.sealer, inventory.ca, number)
    name = filling.name(number)
    # In one transaction: the replica's own workers know no such CA, and must not be quicker.
    async with inventory.database.transaction() as tx:
        await secrets.lock(tx, name)
        opened = await rotations.open_in(tx, name, reason=Reason.OPERATOR, actor=ACTOR)
        claim = await rotations.claim_in(tx, opened, replica="benchmark", lease_for=timedelta(minutes=5))
    assert claim is not None
    watching = range(number, STREAMS, WANTED)
    before = [fleet.received[stream] for stream in watching]
    await inventory.store(claim, pair)
    stored = time.perf_counter()
    await fleet.until(
        lambda: all(fleet.received[stream] > was for stream, was in zip(watching, before, strict=True))
    )
    return time.perf_counter() - stored


async def _enrol(few: _Inventory, big: _Inventory) -> Figures:
    """Enrol very many proxies, each with two grants, a subscription and no stream here."""
    del few
    replica = _Replica(big)
    try:
        await replica.start()
        await asyncio.sleep(2.0)
        alone_mb = replica.pss_mb()
    finally:
        await replica.stop()
    await filling.enrol(big.sql, proxies=PROXIES, wanted=WANTED)
    try:
        seconds = await replica.start()
        await asyncio.sleep(2.0)
        with_mb = replica.pss_mb()
    finally:
        await replica.stop()
    admission, census = [], []
    for _ in range(ROUNDS):
        await big.sql.execute("UPDATE census SET due_at = '-infinity'")
        started = time.perf_counter()
        await facts.read(big.database)
        census.append(time.perf_counter() - started)
        horizon = (await proxies.rights(big.database)).horizon
        started = time.perf_counter()
        await proxies.rights(big.database, since=horizon)
        admission.append(time.perf_counter() - started)
    return {
        f"start-up with {PROXIES:,} proxies, s": seconds,
        f"memory of {PROXIES:,} proxies, MB": with_mb - alone_mb,
        f"census of {PROXIES:,} deliveries, ms": statistics.median(census) * 1000,
        f"admission with {PROXIES:,} proxies, ms": statistics.median(admission) * 1000,
    }
