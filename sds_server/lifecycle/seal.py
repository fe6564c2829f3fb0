"""The seal on a replica: it gives nothing away and opens nothing until somebody breaks it.

For whoever sees a replica's machine, its KMS or its database in wrong hands: delivery ends at once, and what
was opened is forgotten. What proxies have they keep, and serve on; their streams go to replicas that are not
sealed. It needs neither database nor KMS, and is kept in a file, so that a restart does not break it.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Final

from sds_server.clock import Clock
from sds_server.errors import CertvoyError, OperatorError
from sds_server.inventory import audit
from sds_server.inventory.database import Database
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Accounts
from sds_server.lifecycle.publisher import Publisher
from sds_server.log import get
from sds_server.xds.catalog import Catalog

FILE: Final = "sealed"
"""In ``state_dir``. That it is there is what counts: one that cannot be read is a seal all the same."""

Change = Callable[[], None]

_log = get("seal")


@dataclass(frozen=True, slots=True)
class Sealed:
    """Who sealed the replica, when (RFC 3339, UTC) and why; None: the file does not say any more."""

    by: str | None = None
    at: str | None = None
    reason: str | None = None


class Seal:
    """One replica's. Belongs to one event loop."""

    def __init__(
        self,
        *,
        path: Path,
        replica: str,
        database: Database,
        sealer: Sealer,
        catalog: Catalog,
        publisher: Publisher,
        accounts: Accounts,
        clock: Clock,
    ) -> None:
        """Take up the seal that an earlier life of this replica had, if any."""
        self._path = path
        self._replica = replica
        self._database = database
        self._sealer = sealer
        self._catalog = catalog
        self._publisher = publisher
        self._accounts = accounts
        self._clock = clock
        self.on_change: Change = lambda: None
        """Told that the replica is sealed, or not any more."""

        self.state = _read(path)
        if self.state is not None:
            self._shut()
            _log.warning("replica.sealed", by=self.state.by, at=self.state.at, reason=self.state.reason)

    async def put(self, *, reason: str, actor: str) -> Sealed:
        """Seal it, at once; one that is sealed stays with its first reason.

        The audit is written if the database answers: a seal waits for nobody.

        Raises:
            OperatorError: it is sealed, but a restart would break the seal, as the file cannot be written.
        """
        if self.state is not None:
            return self.state
        self.state = Sealed(actor, self._clock.now().isoformat(timespec="seconds"), reason)
        self._shut()
        self.on_change()
        _log.warning("replica.sealed", by=actor, at=self.state.at, reason=reason)
        try:
            _write(self._path, self.state)
        except OSError as e:
            raise OperatorError(
                f"{self._path}: {e.strerror}: the replica is sealed until it is started again",
                hint="do not start it again, and let certvoy's user write there",
            ) from e
        try:
            await self._audit("replica.sealed", actor, reason)
        except CertvoyError as e:
            _log.error("seal.unaudited", by=actor, error=str(e), hint="write down who sealed it, and when")
        return self.state

    async def lift(self, *, actor: str) -> None:
        """Break the seal: what is wanted is loaded anew. Who did it is in the audit first.

        Raises:
            Unavailable: the database does not answer; it stays sealed.
            OperatorError: the file cannot be removed; it stays sealed.
        """
        if self.state is None:
            return
        await self._audit("replica.unsealed", actor, self.state.reason)
        try:
            self._path.unlink(missing_ok=True)
            _sync(self._path.parent)
        except OSError as e:
            raise OperatorError(
                f"{self._path}: {e.strerror}: the replica stays sealed", hint="let certvoy's user write there"
            ) from e
        self.state = None
        self._sealer.unlock()
        self._catalog.open()
        self._publisher.missed()
        self.on_change()
        _log.info("replica.unsealed", by=actor)

    def _shut(self) -> None:
        """Forget what was opened, and let nothing be opened or given away."""
        self._sealer.lock()
        self._catalog.close()
        self._publisher.empty()
        self._accounts.empty()

    async def _audit(self, action: str, actor: str, reason: str | None) -> None:
        async with self._database.transaction() as tx:
            await audit.append(
                tx, action=action, actor=actor, subject=self._replica, detail={"reason": reason}
            )


def _read(path: Path) -> Sealed | None:
    try:
        said = json.loads(path.read_bytes())
        return Sealed(*(str(said[key]) for key in ("by", "at", "reason")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return Sealed()


def _write(path: Path, sealed: Sealed) -> None:
    partial = path.with_name(f".{path.name}.{token_hex(8)}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(sealed), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
