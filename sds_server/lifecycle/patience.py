"""Patience with a CA: one that is away, or wants to be left alone, is asked by nobody, on any replica.

Whether an error is the CA's or one order's is decided by asking: where its directory does not come either,
the CA is away. Then Rotations wait as they are, nearest expiry first, and none of them is counted a failure
or sent into a long pause of its own: when the CA answers again, they go on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Final

from acme_engine.errors import AcmeError, Action, BadReply, Refused, Unreachable, Untrusted
from sds_server.inventory import pauses, troubles
from sds_server.inventory.database import Database
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.fallback import by_the_ca
from sds_server.lifecycle.told import told
from sds_server.log import get

AWAY_PAUSE: Final = timedelta(seconds=3)
"""Between two looks at a CA that is away: one small request, of one replica."""

LOOK_HOLDS: Final = timedelta(seconds=10)
"""How long a look is one replica's: longer than it can last."""

LONGEST_LIMIT: Final = timedelta(hours=1)
"""A limit that lasts longer is believed to be of the order's names, as Let's Encrypt has some of days: its
Rotation waits for all of it, and the CA is asked for others' after this."""

_NOT_NOW: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}

_log = get("issuer")


class Verdict(Enum):
    """Whose fault an error is."""

    ORDERS = auto()
    """The order's, or nobody can tell: it waits alone, longer each time."""
    LIMIT = auto()
    """The CA wants to be left alone for a while: so do all."""
    SPENT = auto()
    """A limit of the CA's of this order alone, or of its names: others go on."""
    AWAY = auto()
    """The CA's, or the network's: nothing could have succeeded."""


class Patience:
    """Judges errors; `step` looks after the CAs that are left alone.

    ``answers`` asks a CA for its directory, and raises what came instead.
    """

    def __init__(
        self,
        *,
        database: Database,
        issuers: Mapping[str, Issuer],
        answers: Callable[[Issuer], Awaitable[object]],
        actor: str,
    ) -> None:
        self._database = database
        self._issuers = issuers
        self._answers = answers
        self._actor = actor
        self.paused: Mapping[str, pauses.Pause] = {}
        """Those of this replica's issuers that were left alone when this was read last."""

    async def judge(self, issuer_name: str, error: Exception) -> Verdict:
        """Say whose fault it is, and let all replicas leave the CA alone if it is the CA's.

        Raises:
            Unavailable: the database does not answer.
        """
        issuer = self._issuers.get(issuer_name)
        if issuer is None or not isinstance(error, AcmeError):
            return Verdict.ORDERS
        limit = _limit(error)
        if limit is not None or _wants_a_person(error):
            await self._pause(issuer, None if limit is None else min(limit, LONGEST_LIMIT), error)
            return Verdict.LIMIT
        if not _suspicious(error):
            if by_the_ca(error):
                await troubles.note(self._database, self._same(issuer), error=_why(issuer, error))
            return Verdict.ORDERS
        try:
            await self._answers(issuer)
        except AcmeError as e:
            await self._pause(issuer, min(_limit(e) or AWAY_PAUSE, LONGEST_LIMIT), e)
            await troubles.note(self._database, self._same(issuer), error=_why(issuer, e))
            return Verdict.AWAY
        if by_the_ca(error):
            await troubles.note(self._database, self._same(issuer), error=_why(issuer, error))
        return Verdict.ORDERS

    async def delivered(self, issuer_name: str) -> None:
        """The CA has issued: whatever failed before, it is in no trouble any more."""
        issuer = self._issuers.get(issuer_name)
        if issuer is not None:
            await troubles.end(self._database, self._same(issuer))

    async def step(self) -> None:
        """Ask each CA whose pause is over whether it answers; when it does, its work goes on everywhere.

        Raises:
            Unavailable: the database does not answer.
        """
        found = await pauses.of(self._database, self._issuers)
        for pause in found:
            if pause.over:
                await self._look(self._issuers[pause.issuer])
        if any(pause.over for pause in found):
            found = await pauses.of(self._database, self._issuers)
        self.paused = {pause.issuer: pause for pause in found}

    async def _look(self, issuer: Issuer) -> None:
        taken = await pauses.take(self._database, issuer.name, hold_for=LOOK_HOLDS)
        if taken is None:
            return
        try:
            await self._answers(issuer)
        except AcmeError as e:
            lasts = min(_limit(e) or AWAY_PAUSE, LONGEST_LIMIT)
            await pauses.prolong(self._database, issuer.name, taken, lasts=lasts, error=_why(issuer, e))
            await troubles.note(self._database, self._same(issuer), error=_why(issuer, e))
        else:
            await troubles.end(self._database, self._same(issuer))
            since = await pauses.end(self._database, issuer.name, taken, actor=self._actor)
            if since is not None:
                _log.info("issuer.resumed", issuer=issuer.name, since=since.isoformat())

    async def _pause(self, issuer: Issuer, lasts: timedelta | None, error: AcmeError) -> None:
        await pauses.begin(
            self._database, self._same(issuer), lasts=lasts, error=_why(issuer, error), actor=self._actor
        )
        if lasts is None:
            _log.error("issuer.held", issuer=issuer.name, error=str(error), hint=_why(issuer, error)["hint"])
        else:
            _log.warning("issuer.paused", issuer=issuer.name, seconds=lasts.total_seconds(), error=str(error))

    def _same(self, issuer: Issuer) -> Sequence[str]:
        """Return all issuers with its directory: they are one CA."""
        return [name for name, other in self._issuers.items() if other.directory_url == issuer.directory_url]


def _wants_a_person(error: AcmeError) -> bool:
    """Whether the account is on hold until somebody has visited the CA's page: no order of it can succeed."""
    return isinstance(error, Refused) and error.problem.code == "userActionRequired"


def _limit(error: AcmeError) -> timedelta | None:
    """Return for how long the CA wants to be left alone, by whoever asks."""
    problem = error.problem
    if not isinstance(error, Refused) or problem is None or problem.status not in _NOT_NOW:
        return None
    if problem.rule.action is Action.HOLD:
        return None  # a name that is paused, in the words of a limit: the others go on
    return problem.retry_after


def _suspicious(error: AcmeError) -> bool:
    """Whether the CA may be away, so that it is worth looking."""
    if isinstance(error, Refused):
        status = error.problem.status
        return status is not None and (status in _NOT_NOW or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return isinstance(error, Unreachable | Untrusted | BadReply)


def _why(issuer: Issuer, error: AcmeError) -> dict[str, Any]:
    words = told(error)
    hint = words["hint"]
    if _wants_a_person(error):
        visited = error.problem.instance if error.problem is not None else None
        hint = f"visit {visited or 'the page that the CA names'}, then `certvoy issuers resume {issuer.name}`"
    return {**words, "hint": hint, "what": f"the CA of {issuer.name} is left alone: {words['what']}"}
