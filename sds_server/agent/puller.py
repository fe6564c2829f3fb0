"""The loop of one bundle: wait for a new pair, bring it in, report until the control plane has taken it.

What is served needs nobody: while the control plane is away all stays as it is, and is told of later.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from typing import Final, Protocol

from sds_server.agent.delivery import Delivery, Outcome, Result
from sds_server.agent.door import Report
from sds_server.agent.pair import Bundle, Pair
from sds_server.agent.requester import Requester
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import CallerError, CertvoyError, Conflict, OperatorError, Unavailable
from sds_server.log import get
from sds_server.model import TargetKind

WAIT_S: Final = 55
"""How long the control plane is asked to wait for news; proxies between cut off after 60 s."""

WATCH_S: Final = 300.0
"""How often it is looked whether what was proved is served still."""

SAY_AGAIN_S: Final = 3600.0
"""How often it is said though nothing has changed: of a target that was removed there, and came back with our
next question, nothing else would tell before the next certificate."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

FIRST_RETRY_S: Final = 30.0
LONGEST_RETRY_S: Final = 3600.0
"""A refused pair is tried again, less and less often: the fault may have been the program's own files."""

WAITING_RETRY_S: Final = 15.0
"""A program that did not run may do so soon."""

SOON_TRIES: Final = 8
"""So often that is tried at this pace, and then less often, down to once in `WATCH_S`: it loads each time."""

FIRST_TRIES: Final = 3
"""So often a first pair is tried before a refusal is told of: another bundle's files may be missing still."""

_log = get("bundle")


class Source(Protocol):
    """The control plane, as the loop of a bundle knows it. Both may raise any `CertvoyError`."""

    async def bundle(
        self, secret: str, *, target: str | None, kind: TargetKind, etag: str | None, wait_s: int
    ) -> Bundle | None:
        """Return what is current once it is not ``etag``'s; None: it is that still, after ``wait_s``."""

    async def report(self, report: Report) -> None:
        """Say what became of it."""


def retry_s(tries: int, *, first: bool) -> float:
    """Return when a pair that was refused so often is tried again; ``first``: there was none before."""
    if first and tries < FIRST_TRIES:
        return FIRST_PAUSE_S * 2.0 ** (tries - 1)
    return float(min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 10), LONGEST_RETRY_S))


def waiting_s(tries: int) -> float:
    """Return when a program is told again that was told so often, and at which nobody answers still."""
    return min(WAITING_RETRY_S * 2.0 ** min(max(tries - SOON_TRIES, 0), 10), WATCH_S)


class Puller:
    """One bundle's. ``turn`` is held while a program is worked on: two bundles may be of one program."""

    def __init__(
        self,
        delivery: Delivery,
        source: Source,
        *,
        target: str | None,
        address: str | None,
        turn: asyncio.Lock,
        clock: Clock,
        rng: Random,
        requester: Requester | None = None,
    ) -> None:
        """``requester`` brings what is to be signed, where the keys are this host's own."""
        self._delivery = delivery
        self._source = source
        self._target = target
        self._address = address
        self._turn = turn
        self._clock = clock
        self._rng = rng
        self._requester = requester
        self._report: Report | None = None
        self._last: Result | None = None
        self._told: Result | None = None
        self._say_again_at = 0.0
        self._refused: str | None = None
        """The ETag of what was refused last, for as long as it need not be tried again."""
        self._tries = 0
        """How often in a row the same became of the same pair."""
        self._again_at = clock.monotonic() + WATCH_S
        self._failures = 0

    @property
    def secret(self) -> str:
        """The secret whose pair it is."""
        return self._delivery.secret

    @property
    def last(self) -> Result | None:
        """What became of the pair that was looked after last."""
        return self._last

    async def run(self, *, on_placed: Callable[[], None] = lambda: None) -> None:
        """Go on until cancelled; ``on_placed`` is called when a pair lies in its place, once."""
        told = False
        while True:
            if not told and self._is_placed():
                told = True
                on_placed()
            await self._clock.sleep(await self._try())

    def alone(self) -> AbstractContextManager[None]:
        """Let no second agent work on these files meanwhile.

        Raises:
            OperatorError: one does already.
        """
        return self._delivery.alone()

    async def resume(self) -> None:
        """Go on with what an earlier process left; needs no control plane.

        Raises:
            OperatorError: the files cannot be read or written.
        """
        async with self._turn:
            pair = self._delivery.held
            result = await self._delivery.resume()
        self._again_at = self._clock.monotonic() + WATCH_S
        if result is not None:
            # What is refused here is not to be fetched and brought in once more at once.
            self._note(result, etag=None if pair is None else pair.etag)

    async def deliver(self, bundle: Bundle) -> Result:
        """Bring a bundle in, whoever brought it here; the result is reported by the loop as well.

        Raises:
            OperatorError: the files cannot be written.
        """
        async with self._turn:
            result = await self._delivery.take(bundle)
        if self._requester is not None:
            self._requester.lost = result.generation if result.key_missing else None
        self._note(result, etag=bundle.etag)
        return result

    async def pushed(self, bundle: Bundle) -> Report:
        """Bring in what the control plane has pushed, and return what it wants to know of it.

        Raises:
            Unavailable: a first pair is not taken yet, which another bundle's may mend: push it again.
            OperatorError: the files cannot be written.
        """
        result = await self.deliver(bundle)
        if self._is_early(result):
            raise Unavailable(f"not taken yet: {result.reason}", hint="it is tried again")
        return self._report_of(result)

    async def check(self) -> None:
        """Let the program judge its files as they lie.

        Raises:
            Rejected: it would not take them, or there are none.
            OperatorError: the files cannot be read.
        """
        async with self._turn:
            await self._delivery.check()

    async def step(self, *, wait_s: int = WAIT_S) -> bool:
        """Look again if it is time, say what is not said yet, then wait for what is new and bring it in.

        Returns whether there was something new.

        Raises:
            CertvoyError: it failed; what is served is served still.
        """
        if self._clock.monotonic() >= self._again_at:
            await self._again()
        await self._say()
        held = await self._request()
        left_s = max(self._again_at - self._clock.monotonic(), 0.0)
        bundle = await self._source.bundle(
            self._delivery.secret,
            target=self._target,
            kind=self._delivery.installer.kind,
            etag=self._refused or (None if held is None else held.etag),
            wait_s=min(wait_s, int(left_s) + 1),
        )
        if bundle is None:
            return False
        result = await self.deliver(bundle)
        if result.key_missing:
            await self._request()
        await self._say()
        return held is None or held.version != bundle.version

    async def _request(self) -> Pair | None:
        """Bring what is to be signed next, if anything is; returns the pair that lies in its place."""
        held = self._delivery.held
        if self._requester is not None:
            await self._requester.step(None if held is None else held.spki_sha256)
        return held

    async def _again(self) -> None:
        """Try again what was refused, or look whether what lies there is served."""
        if self._refused is not None and not self._delivery.unproved:
            self._refused = None  # the control plane still has it, or something better
            self._again_at = self._clock.monotonic() + WATCH_S
        else:
            await self.resume()

    async def _try(self) -> float:
        """Take a step and return how long to sleep."""
        started = self._clock.monotonic()
        try:
            news = await self.step()
        except CertvoyError as e:
            self._failures += 1
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
            _log.warning(
                "bundle.not_fetched",
                secret=self._delivery.secret,
                failures=self._failures,
                error=str(e),
                hint=e.next_step,
            )
            return pause_s * self._rng.uniform(0.5, 1.0)
        self._failures = 0
        # Whoever answers at once without news does not wait as it was asked to: that is no reason to spin.
        return 0.0 if news else max(FIRST_PAUSE_S - (self._clock.monotonic() - started), 0.0)

    def _is_placed(self) -> bool:
        try:
            return self._delivery.held is not None
        except OperatorError:  # the step says so
            return False

    def _note(self, result: Result, *, etag: str | None) -> None:
        """Keep what is to be said and when to look again."""
        now, secret = self._clock.monotonic(), self._delivery.secret
        before = self._last
        again = before is not None and (before.outcome, before.version) == (result.outcome, result.version)
        self._tries = self._tries + 1 if again else 1
        self._last = result
        if result.outcome is Outcome.REFUSED:
            self._refused = etag or self._refused
            wait_s = retry_s(self._tries, first=result.kept)
            self._again_at = now + wait_s
            _log.error(
                "pair.refused",
                secret=secret,
                generation=result.generation,
                reason=result.reason,
                tries=self._tries,
                again_s=round(wait_s),
            )
            if self._is_early(result):
                return
        else:
            self._refused = None
            waiting = result.outcome is Outcome.ACCEPTED and self._address is not None
            self._again_at = now + (waiting_s(self._tries) if waiting else WATCH_S)
            if result != self._told:
                _log.info(
                    "pair.delivered",
                    secret=secret,
                    generation=result.generation,
                    state=result.outcome.value,
                    reason=result.reason,
                )
        if result == self._told and (result.outcome is Outcome.REFUSED or now < self._say_again_at):
            return
        self._told, self._say_again_at = result, now + SAY_AGAIN_S
        self._report = self._report_of(result)

    def _is_early(self, result: Result) -> bool:
        """Whether a first pair that was refused is tried again before that is told of."""
        return result.outcome is Outcome.REFUSED and result.kept and self._tries < FIRST_TRIES

    def _report_of(self, result: Result) -> Report:
        return Report(
            secret=self._delivery.secret,
            state=result.outcome.value,
            kind=self._delivery.installer.kind,
            target=self._target,
            generation=result.generation,
            served=result.served,
            address=self._address if result.served is not None else None,
            detail=result.reason if result.outcome is Outcome.REFUSED else "",
        )

    async def _say(self) -> None:
        """Report what is not reported yet; of what is not current any more nobody wants to know."""
        if self._report is None:
            return
        try:
            await self._source.report(self._report)
        except Conflict as e:
            _log.info("report.outdated", secret=self._report.secret, error=str(e))
        except CallerError as e:  # asked again, it would say the same
            _log.warning("report.not_taken", secret=self._report.secret, error=str(e), hint=e.next_step)
            self._told = None
        self._report = None
        crashpoint("agent.reported")
