"""A pair's way into a program: gate, files, the program's check, load, handshake; or back to the one before.

While `PREVIOUS` is there, what `CURRENT` names is not proved: who is killed in between goes on from the files
alone, and ends with the new pair served or the one before.
"""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sds_server.agent.installers.installer import (
    CHAIN,
    COMBINED,
    KEY,
    Installer,
    NotRunning,
    Placed,
    Rejected,
)
from sds_server.agent.local_keys import LocalKeys
from sds_server.agent.looker import Looker, Sight
from sds_server.agent.pair import Bundle, KeyMissing, Pair, judge
from sds_server.agent.versions import CURRENT, NOTHING, PREVIOUS, Versions
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import GateRefused, OperatorError
from sds_server.log import get

ABOUT: Final = "pair.json"

_log = get("delivery")


class Outcome(StrEnum):
    """What became of a pair. The values are what is reported."""

    PROVED = "proved"
    ACCEPTED = "accepted"
    """It lies in its place, and whoever loads it would take it; nobody has shown it yet."""

    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a pair, and of which one.

    ``kept``: it lies there still, as there was none before. ``key_missing``: it is of a key that this host
    should have, and has not.
    """

    outcome: Outcome
    generation: int
    version: str
    reason: str = ""
    served: str | None = None
    kept: bool = False
    key_missing: bool = False


class Delivery:
    """Brings pairs of one Secret into one program. One call at a time: its caller sees to that."""

    def __init__(
        self,
        *,
        secret: str,
        versions: Versions,
        installer: Installer,
        looker: Looker | None,
        clock: Clock,
        wanted: Sequence[str] = (),
        own: LocalKeys | None = None,
    ) -> None:
        """``looker`` is None where nobody can look; ``wanted`` are DNS names that a pair must cover.

        ``own`` are the keys of this host, where those are what is served; None: they come with the bundles.
        """
        self.secret = secret
        self.installer = installer
        self._versions = versions
        self._looker = looker
        self._clock = clock
        self._wanted = wanted
        self._own = own
        self._at = Placed(versions.directory / CURRENT)

    @property
    def held(self) -> Pair | None:
        """The pair that lies in its place, if one does. Its dates may be over.

        Raises:
            OperatorError: what lies there was put there by somebody else.
        """
        return self._stored(CURRENT)

    @property
    def unproved(self) -> bool:
        """Whether nobody has shown yet what lies in its place."""
        return self.held is not None and self._versions.named(PREVIOUS) is not None

    def alone(self) -> AbstractContextManager[None]:
        """Let no second agent work on these files meanwhile.

        Raises:
            OperatorError: one does already.
        """
        return self._versions.alone()

    async def take(self, bundle: Bundle) -> Result:
        """Bring a bundle into the program, or leave all as it was.

        Raises:
            OperatorError: the files cannot be written; what was there stays.
        """
        crashpoint("agent.fetched")
        try:
            pair = judge(
                bundle, secret=self.secret, wanted=self._wanted, now=self._clock.now(), own=self._own
            )
        except GateRefused as e:
            return Result(
                Outcome.REFUSED,
                bundle.generation,
                bundle.version,
                f"content gate: {e.rule}: {e.message}",
                key_missing=isinstance(e, KeyMissing),
            )
        if self._is_held(pair):
            again = await self.resume()
            assert again is not None  # noqa: S101 - there is a pair
            return again
        # Who answered before and does not afterwards was stopped by it; who did not was not running.
        answered = await self._answers(pair)
        self._place(pair)
        return await self._bring(pair, answered=answered, anew=True)

    async def check(self) -> None:
        """Let the program judge the files that lie in their place; nothing is changed.

        Raises:
            Rejected: it would not take them, or there are none.
            OperatorError: the files cannot be read.
        """
        pair = self.held
        if pair is None:
            raise Rejected(f"no pair of {self.secret} lies in {self._at.directory} yet")
        await self.installer.check(pair, self._at)

    async def resume(self) -> Result | None:
        """Look after what lies there: go on where we were killed, mend what is not served; None: nothing is.

        Raises:
            OperatorError: the files cannot be read or written.
        """
        pair = self.held
        if pair is None:
            if self._versions.directory.is_dir() and self._versions.named(PREVIOUS) is not None:
                self._settle()
            return None
        if self._versions.named(PREVIOUS) is not None:
            return await self._bring(pair, answered=False, anew=False)
        if self._looker is None:
            return _of(pair, Outcome.ACCEPTED)
        seen = await self._looker.look(pair, once=True)
        match seen.sight:
            case Sight.WANTED:
                return _of(pair, Outcome.PROVED)
            case Sight.NOBODY:
                return _of(pair, Outcome.ACCEPTED, seen.words)
            case Sight.OTHER:
                _log.warning(
                    "pair.not_served", secret=self.secret, generation=pair.generation, seen=seen.words
                )
                return await self._bring(pair, answered=True, anew=False)

    def _is_held(self, pair: Pair) -> bool:
        held = self.held
        return held is not None and (held.version, held.fingerprint) == (pair.version, pair.fingerprint)

    def _place(self, pair: Pair) -> None:
        """Put the files in place. The one before is named first, so that it is never lost."""
        version = self._versions.add(
            {
                CHAIN: (pair.chain_pem, 0o600),
                KEY: (pair.key_pem.reveal(), 0o600),
                COMBINED: (pair.combined_pem, 0o600),
                ABOUT: (pair.about, 0o600),
            }
        )
        crashpoint("agent.written")
        if self._versions.named(PREVIOUS) is None:  # else what lies there is not proved, and not to be kept
            self._versions.point(PREVIOUS, self._versions.named(CURRENT) or NOTHING)
        crashpoint("agent.remembered")
        self._versions.point(CURRENT, version)
        crashpoint("agent.placed")

    async def _bring(self, pair: Pair, *, answered: bool, anew: bool) -> Result:
        """Have the pair in place served. ``anew``: the program cannot have read it yet."""
        try:
            await self.installer.check(pair, self._at)
        except Rejected as e:
            return await self._back(pair, str(e), load=not anew)
        crashpoint("agent.checked")
        try:
            await self.installer.load(pair, self._at)
        except Rejected as e:
            return await self._back(pair, str(e), load=True)
        except NotRunning as e:
            answered = False  # it has not been told, so it was not stopped by it either
            told = str(e)
        else:
            told = ""
        crashpoint("agent.loaded")
        if self._looker is None:
            self._settle()
            return _of(pair, Outcome.ACCEPTED, told)
        seen = await self._looker.look(pair, once=bool(told), patient=answered)
        crashpoint("agent.seen")
        match seen.sight:
            case Sight.WANTED:
                self._settle()
                return _of(pair, Outcome.PROVED)
            case Sight.NOBODY if not answered:
                return _of(pair, Outcome.ACCEPTED, seen.words)
            case _:
                words = f"{told}; {seen.words}" if told else seen.words
                return await self._back(pair, words, load=True)

    async def _back(self, pair: Pair, reason: str, *, load: bool) -> Result:
        """Put the one before back into its place, and have it loaded where the new one may have been."""
        before = self._versions.named(PREVIOUS)
        refused = Result(Outcome.REFUSED, pair.generation, pair.version, reason)
        if before is None or before == self._versions.named(CURRENT):
            self._settle()
            return refused
        if before == NOTHING:
            # No pair is worse than this one, which the gate has passed: what is wrong may be another's fault.
            return Result(Outcome.REFUSED, pair.generation, pair.version, reason, kept=True)
        crashpoint("agent.restoring")
        self._versions.point(CURRENT, before)
        crashpoint("agent.restored")
        held = self.held
        if load and held is not None:
            await self._load_again(held)
        crashpoint("agent.reloaded")
        self._settle()
        return refused

    async def _load_again(self, pair: Pair) -> None:
        try:
            await self.installer.load(pair, self._at)
        except Rejected as e:
            words = str(e)
        except NotRunning:
            return
        else:
            if self._looker is None:
                return
            seen = await self._looker.look(pair, once=False, patient=True)
            if seen.sight is Sight.WANTED:
                return
            words = seen.words
        _log.error("pair.not_restored", secret=self.secret, generation=pair.generation, error=words)

    def _settle(self) -> None:
        """What lies in its place is what is served: the one before may go, and keys from before that."""
        self._tidy_keys()
        self._versions.point(PREVIOUS, None)
        crashpoint("agent.settled")
        self._versions.tidy(keep=(self._versions.named(CURRENT),))

    def _tidy_keys(self) -> None:
        """Remove keys that nothing can ask for, while it is known which pair was before this one."""
        pair, before = self.held, self._stored(PREVIOUS)
        if self._own is None or pair is None or (before is not None and before.version == pair.version):
            return
        removed = self._own.tidy(
            current=pair.spki_sha256, before=None if before is None else before.spki_sha256
        )
        crashpoint("agent.keys_removed")
        if removed:
            _log.info("keys.removed", secret=self.secret, keys=removed)

    async def _answers(self, pair: Pair) -> bool:
        if self._looker is None:
            return False
        seen = await self._looker.look(pair, once=True)
        return seen.sight is not Sight.NOBODY

    def _stored(self, link: str) -> Pair | None:
        if not self._versions.directory.is_dir():
            return None
        version = self._versions.named(link)
        if version is None or version == NOTHING:
            return None
        chain, key, about = (self._versions.read(version, name) for name in (CHAIN, KEY, ABOUT))
        if chain is None or key is None or about is None:
            return None
        try:
            return Pair.stored(chain_pem=chain, key_pem=key, about=json.loads(about))
        except (ValueError, KeyError) as e:
            raise OperatorError(
                f"{self._versions.directory / version}: cannot be read: {e}",
                hint="remove the directory: the agent fetches the pair again",
            ) from e


def _of(pair: Pair, outcome: Outcome, reason: str = "") -> Result:
    served = pair.fingerprint if outcome is Outcome.PROVED else None
    return Result(outcome, pair.generation, pair.version, reason, served)
