"""The control plane as a process: starts its parts, runs until it is told to stop, stops in order."""

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from acme_engine.errors import CannotListen
from sds_server import lookups
from sds_server.clock import Clock, SystemClock
from sds_server.config.certvoy_yaml import Config
from sds_server.errors import ConfigError, Unavailable
from sds_server.foundation import open_inventory
from sds_server.lifecycle.loop import Loop
from sds_server.log import get
from sds_server.parts import STREAM_GRACE_S, Parts

_log = get("app")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running control plane listens; None: it does not."""

    sds_port: int
    http01_port: int | None
    admin_port: int | None
    probes_port: int | None
    rest_port: int | None = None
    tls_alpn01_port: int | None = None


async def serve(
    config: Config,
    *,
    on_ready: Callable[[Addresses], None] | None = None,
    on_stop: Callable[[], None] | None = None,
    reload: Callable[[], Config] | None = None,
    accept_fork: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT, then stop in order. At SIGHUP take whom a ``reload`` denies.

    ``accept_fork``: somebody knows why the audit is not the one that was witnessed here.

    Raises:
        OperatorError: something that we depend on is not there; nothing is left running.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    try:
        async with AsyncExitStack() as stack:
            parts, addresses = await stack.enter_async_context(
                _running(config, SystemClock(), accept_fork=accept_fork)
            )
            if reload is not None:
                loop.add_signal_handler(signal.SIGHUP, _reload, reload, parts, config)
                stack.callback(loop.remove_signal_handler, signal.SIGHUP)
            if on_ready is not None:
                on_ready(addresses)
            await stop.wait()
            _log.info("app.stopping")
            if on_stop is not None:
                on_stop()
    finally:
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(sig)
    _log.info("app.stopped")


@asynccontextmanager
async def running(config: Config, *, clock: Clock | None = None) -> AsyncIterator[Addresses]:
    """Run a control plane for the length of the block."""
    async with _running(config, clock or SystemClock()) as (_, addresses):
        yield addresses


def _reload(reload: Callable[[], Config], parts: Parts, config: Config) -> None:
    """Take what can be taken without a restart, and name the rest; a file that is wrong changes nothing."""
    try:
        now = reload()
    except ConfigError as e:
        _log.error("config.kept", reason=str(e))
        return
    parts.admission.deny(now.sds.deny)
    if changed := needs_restart(config, now):
        _log.warning("config.needs_restart", changed=changed)


def needs_restart(running: Config, now: Config) -> list[str]:
    """Return the keys of the file that are others ``now``, and are read at a start alone."""
    alike = now.model_copy(update={"sds": now.sds.model_copy(update={"deny": running.sds.deny})})
    return [key for key in Config.model_fields if getattr(alike, key) != getattr(running, key)]


def _make(state_dir: Path) -> None:
    """Make the directory of our own, before anything is started that would fail for want of it.

    Raises:
        Unavailable: it cannot be made, or we may not write there.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(state_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        raise Unavailable(
            f"state_dir: cannot keep anything in {state_dir}: {e.strerror}",
            hint="name a directory that this user may make and write to, or give it to this user",
        ) from e


@asynccontextmanager
async def _running(
    config: Config, clock: Clock, *, accept_fork: bool = False
) -> AsyncIterator[tuple[Parts, Addresses]]:
    async with AsyncExitStack() as stack:
        stack.enter_context(lookups.apart())
        _make(config.state_dir)
        database, postgres = await open_inventory(config, stack)
        parts = await Parts.build(config, database, clock, stack, accept_fork=accept_fork)
        stack.push_async_callback(parts.withdrawer.close)
        stack.push_async_callback(parts.worker.close)
        if postgres is not None:
            parts.loops.append(Loop("postgres", postgres.keep, every=config.rotation.poll))
        try:
            http01_port = tls_alpn01_port = None
            if parts.responder is not None:
                http01_port = await parts.responder.start()
                stack.push_async_callback(parts.responder.stop)
            if parts.tls_responder is not None:
                tls_alpn01_port = await parts.tls_responder.start()
                stack.push_async_callback(parts.tls_responder.stop)
        except CannotListen as e:
            raise Unavailable(e.message, hint=e.hint) from e
        stack.push_async_callback(parts.asker.close)
        ports = await parts.admin.start()
        stack.push_async_callback(parts.admin.stop)
        rest_port = None
        if parts.rest is not None:
            rest_port = await parts.rest.start()
            stack.push_async_callback(parts.rest.stop)
        sds_port = await parts.sds.start()
        addresses = Addresses(
            sds_port=sds_port,
            http01_port=http01_port,
            admin_port=ports.api,
            probes_port=ports.probes,
            rest_port=rest_port,
            tls_alpn01_port=tls_alpn01_port,
        )
        async with asyncio.TaskGroup() as group:
            tasks = {loop: group.create_task(loop.run(), name=loop.name) for loop in parts.loops}
            _log.info("app.ready", replica=config.replica, **asdict(addresses))
            try:
                yield parts, addresses
            finally:
                # Orders first: while streams end, what proves names is taken away, and others go on.
                for loop in parts.working:
                    tasks.pop(loop).cancel()
                await asyncio.gather(parts.sds.stop(STREAM_GRACE_S), parts.worker.close())
                await parts.record_last()
                for task in tasks.values():
                    task.cancel()
