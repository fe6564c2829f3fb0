"""The agent: one process beside a proxy, that keeps its own credential and brings pairs to programs."""

import asyncio
import grp
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random

from sds_server.agent.config import AgentConfig, BundleConfig, KeysConfig, KeySource
from sds_server.agent.credential import Keeper
from sds_server.agent.delivery import Delivery
from sds_server.agent.door import HttpsDoor
from sds_server.agent.files import CredentialFiles
from sds_server.agent.installers.table import installer_of
from sds_server.agent.key_maker import KeyMaker
from sds_server.agent.local_keys import LocalKeys
from sds_server.agent.looker import Looker
from sds_server.agent.proxy_keys import ProxyKeys
from sds_server.agent.puller import Puller
from sds_server.agent.pushed import Endpoint, Pushable
from sds_server.agent.requester import Requester
from sds_server.agent.versions import Versions
from sds_server.clock import Clock
from sds_server.errors import CertvoyError, ConfigError, OperatorError, Unavailable
from sds_server.log import get
from sds_server.targets.probe import Way

_log = get("agent")


class Agent:
    """Everything that one agent.yaml asks for."""

    def __init__(self, config: AgentConfig, *, token: str | None = None, clock: Clock, rng: Random) -> None:
        """Build it; ``token`` is one from elsewhere than its file.

        Raises:
            ConfigError: a group does not exist, or a file cannot be read.
        """
        files = CredentialFiles(config.credentials)
        door = HttpsDoor(config.server, roots=roots_of(config.ca), held=files.held)
        self.keeper = Keeper(
            files,
            door,
            token=token or token_of(config.token_file),
            token_file=config.token_file,
            clock=clock,
            rng=rng,
        )
        self._turns: dict[str, asyncio.Lock] = {}
        self.pullers = [self._puller(bundle, door, clock, rng) for bundle in config.bundles]
        self.makers = [self._maker(made, door, clock, rng) for made in config.keys]
        self._endpoint = None if config.listen is None else self._listener(config, files, clock)
        self._has_credential = asyncio.Event()

    async def run(self, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Go on until cancelled; ``on_ready`` is called once there is a credential, and every pair is there.

        Raises:
            CertvoyError: there is no credential that works, and none can be had by trying again; or a
                directory is not the agent's alone.
        """
        missing = 1 + len(self.pullers) + len(self.makers)

        def has_credential() -> None:
            self._has_credential.set()
            is_there()

        def is_there() -> None:
            nonlocal missing
            missing -= 1
            if missing == 0:
                on_ready()

        with self._alone():
            await self._resume()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.keeper.run(on_ready=has_credential))
                    if self._endpoint is not None:
                        group.create_task(self._listen(self._endpoint))
                    for puller in self.pullers:
                        group.create_task(puller.run(on_placed=is_there))
                    for maker in self.makers:
                        group.create_task(maker.run(on_ready=is_there))
            except* CertvoyError as e:
                raise e.exceptions[0] from None

    async def once(self) -> None:
        """Do what is due now, for the credential and for each bundle.

        Raises:
            CertvoyError: the first failure; the other bundles had their turn.
        """
        failures = []
        with self._alone():
            await self._resume()
            await self.keeper.once()
            steps: list[Callable[[], Awaitable[bool]]] = [partial(_made, maker) for maker in self.makers]
            steps += [partial(puller.step, wait_s=0) for puller in self.pullers]
            for step in steps:
                try:
                    await step()
                except CertvoyError as e:
                    failures.append(e)
        if failures:
            raise failures[0]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Work on every directory, and nobody else.

        Raises:
            OperatorError: another agent works there, or others may write there.
        """
        with ExitStack() as held:
            for puller in self.pullers:
                held.enter_context(puller.alone())
            for maker in self.makers:
                held.enter_context(maker.alone())
            yield

    async def _listen(self, endpoint: Endpoint) -> None:
        """Take pushed bundles, from when there is a credential to show."""
        await self._has_credential.wait()
        await endpoint.start()
        try:
            await asyncio.Event().wait()
        finally:
            await endpoint.stop()

    async def _resume(self) -> None:
        """Go on with what an earlier process left, before anything else is judged beside it."""
        for puller in self.pullers:
            try:
                await puller.resume()
            except OperatorError as e:
                _log.error("pair.not_resumed", secret=puller.secret, error=str(e), hint=e.next_step)

    def _listener(self, config: AgentConfig, files: CredentialFiles, clock: Clock) -> Endpoint:
        assert config.listen is not None  # noqa: S101 - asked before
        pushable = [
            Pushable(bundle.secret, bundle.target, deliver=puller.pushed, check=puller.check)
            for bundle, puller in zip(config.bundles, self.pullers, strict=True)
        ]
        return Endpoint(pushable, files, listen=config.listen, clock=clock)

    def _puller(self, bundle: BundleConfig, door: HttpsDoor, clock: Clock, rng: Random) -> Puller:
        installer = installer_of(bundle.program)
        probe = bundle.probe
        looker = None
        if probe is not None:
            way = Way(probe.address, proxy_protocol=probe.proxy_protocol, http3=probe.http3)
            looker = Looker(way, names=probe.names, within=probe.within, clock=clock)
        own = LocalKeys(bundle.directory) if bundle.key is KeySource.LOCAL else None
        delivery = Delivery(
            secret=bundle.secret,
            versions=Versions(bundle.directory, group=_gid(bundle.group)),
            installer=installer,
            looker=looker,
            clock=clock,
            wanted=bundle.names,
            own=own,
        )
        requester = None if own is None else Requester(bundle.secret, own, door, target=bundle.target)
        return Puller(
            delivery,
            door,
            target=bundle.target,
            address=None if probe is None else probe.address,
            turn=self._turns.setdefault(installer.kind, asyncio.Lock()),
            clock=clock,
            rng=rng,
            requester=requester,
        )

    def _maker(self, made: KeysConfig, door: HttpsDoor, clock: Clock, rng: Random) -> KeyMaker:
        group = _gid(made.group)
        kept = ProxyKeys(made.directory, group=group)
        return KeyMaker(
            made.secret,
            kept,
            Requester(made.secret, kept, door, target=made.target),
            alone=Versions(made.directory, group=group).alone,
            every=made.every,
            clock=clock,
            rng=rng,
        )


async def _made(maker: KeyMaker) -> bool:
    """Have the next key made and asked for.

    Raises:
        CertvoyError: it was not, though nothing is lost by that: the log says why.
    """
    if not await maker.step():
        raise Unavailable(f"secret {maker.secret}: its next key is not asked for", hint="see what is logged")
    return True


def roots_of(path: Path | None) -> str | None:
    """Return the roots that a file holds; None for no file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return None if path is None else path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise _unreadable(path, e, hint="name a PEM file that the agent's user may read") from e


def token_of(path: Path | None) -> str | None:
    """Return the token that a file holds; once it was used, its file may be gone or empty.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return None if path is None else path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        raise _unreadable(path, e, hint="let the agent's user read it") from e


def _unreadable(path: Path | None, error: OSError | UnicodeDecodeError, *, hint: str) -> ConfigError:
    said = error.strerror if isinstance(error, OSError) else "it is not text"
    return ConfigError(f"cannot read {path}: {said}", hint=hint)


def _gid(name: str | None) -> int | None:
    try:
        return None if name is None else grp.getgrnam(name).gr_gid
    except KeyError as e:
        raise ConfigError(
            f"group: there is no group {name}", hint="name the one of the program's user"
        ) from e
