"""Renewals: asks CAs when they would like Certificates renewed (RFC 9773), and plans by what they say.

No renewal waits for an answer: without one of use it is planned by the Certificate's dates alone.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from random import Random
from typing import Final

from acme_engine import ari, renewal
from acme_engine import chain as chains
from acme_engine.errors import AcmeError, Unsupported
from sds_server.clock import Clock
from sds_server.inventory import renewal_infos
from sds_server.inventory.database import Database
from sds_server.inventory.renewal_infos import Planned, Question
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get

BATCH: Final = 100
PARALLEL: Final = 8
"""Questions to one CA at once; Let's Encrypt takes a thousand a second."""

HOLD: Final = timedelta(minutes=10)
"""How long a batch is one replica's: longer than all its questions can take."""

_log = get("renewals")


class Answer(StrEnum):
    """What came of a question. ``unsupported``: the CA has no RenewalInfo; ``useless``: it is none."""

    ANSWERED = "answered"
    UNSUPPORTED = "unsupported"
    USELESS = "useless"
    FAILED = "failed"


class Renewals:
    """Any number of replicas may run one: each Certificate is asked for by one of them."""

    def __init__(
        self,
        *,
        database: Database,
        issuers: Mapping[str, Issuer],
        clock: Clock,
        rng: Random,
        actor: str,
        allow_http: bool = False,
    ) -> None:
        """``allow_http`` is for tests, on loopback only."""
        self._database = database
        self._issuers = issuers
        self._clock = clock
        self._rng = rng
        self._actor = actor
        self._allow_http = allow_http
        self.on_answer: Callable[[str, Answer], None] = lambda _issuer, _answer: None
        self.on_held_back: Callable[[str], None] = lambda _issuer: None
        self.on_date: Callable[[str, timedelta], None] = lambda _issuer, _ahead: None

    async def step(self) -> None:
        """Ask all that is due.

        Raises:
            Unavailable: the database does not answer.
        """
        while questions := await renewal_infos.claim(
            self._database, self._issuers, hold_for=HOLD, limit=BATCH
        ):
            by_issuer: dict[str, list[Question]] = defaultdict(list)
            for question in questions:
                by_issuer[question.issuer].append(question)
            await to_their_ends(self._ask(issuer, asked) for issuer, asked in by_issuer.items())
            if len(questions) < BATCH:
                break

    async def _ask(self, name: str, questions: Sequence[Question]) -> None:
        issuer, slots = self._issuers[name], asyncio.Semaphore(PARALLEL)

        async def one(inquiry: ari.Inquiry, question: Question) -> None:
            async with slots:
                await self._ask_one(inquiry, question)

        async with ari.Inquiry(
            issuer.directory_url,
            ca_file=issuer.ca_file,
            allow_http=self._allow_http,
            on_date=lambda ahead: self.on_date(name, ahead),
        ) as inquiry:
            await to_their_ends(one(inquiry, question) for question in questions)

    async def _ask_one(self, inquiry: ari.Inquiry, question: Question) -> None:
        try:
            identifier = ari.certificate_id(chains.parse(question.chain_pem).leaf)
            if identifier is None:
                raise Unsupported("the certificate names no key of its CA, so that it has no identifier")
            info = await inquiry.ask(identifier)
        except AcmeError as e:
            await self._unanswered(question, e)
            return
        planned = await renewal_infos.answered(
            self._database,
            question,
            info,
            draw=lambda window: ari.pick(window, self._rng),
            ask_in=ari.next_question(info.retry_after, self._rng),
            now=self._clock.now(),
            actor=self._actor,
        )
        self.on_answer(question.issuer, Answer.ANSWERED)
        if planned is not None and planned.changed:
            self._tell(question, planned, info.explanation_url)

    async def _unanswered(self, question: Question, error: AcmeError) -> None:
        unsupported = isinstance(error, Unsupported)
        ask_in = (
            ari.LONGEST_INTERVAL * self._rng.uniform(*ari.SPREAD)
            if unsupported
            else ari.after_failure(question.failures + 1, error.retry_after, self._rng)
        )
        forget = ari.useless(error)
        planned = await renewal_infos.unanswered(
            self._database,
            question,
            # That a CA offers none is no trouble, and nobody is told of it.
            error=None if unsupported else str(error),
            forget=forget,
            ask_in=ask_in,
        )
        answer = Answer.UNSUPPORTED if unsupported else Answer.USELESS if forget else Answer.FAILED
        self.on_answer(question.issuer, answer)
        if not unsupported and not question.failures:
            _log.warning(
                "renewal.unanswered", secret=question.secret, issuer=question.issuer, error=str(error)
            )
        if planned is not None and planned.changed:
            self._tell(question, planned, None)

    def _tell(self, question: Question, planned: Planned, explanation_url: str | None) -> None:
        decision, window = planned.decision, planned.window
        _log.info(
            "renewal.decided",
            secret=question.secret,
            at=decision.at.isoformat(),
            reason=decision.reason,
            window_start=None if window is None else window.start.isoformat(),
            window_end=None if window is None else window.end.isoformat(),
            explanation_url=explanation_url,
        )
        if decision.reason == renewal.HELD:
            self.on_held_back(question.issuer)
            _log.error(
                "renewal.held_back",
                secret=question.secret,
                issuer=question.issuer,
                until=decision.at.isoformat(),
                hint="its CA wants each new certificate replaced at once: ask it whether its window is stale",
            )
