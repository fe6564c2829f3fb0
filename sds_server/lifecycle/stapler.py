"""The stapler: keeps a fresh OCSP staple for each certificate whose CA has a responder.

A new certificate waits for its first one, for moments; nothing else waits. A responder that is away leaves
what is stapled until that ends, and then certificates go out without, unless they must have one.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from cryptography import x509

from acme_engine import chain as chains
from acme_engine.chain import Chain
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.inventory import staples
from sds_server.inventory.database import Database
from sds_server.inventory.staples import Due, First
from sds_server.lifecycle.together import to_their_ends
from sds_server.log import get
from sds_server.staples import response
from sds_server.staples.responder import ask
from sds_server.staples.response import Finding, Judgement, Responder, responder_of
from sds_server.targets.address import Network
from sds_server.targets.guarded import ANYWHERE, Unanswered

AT_ONCE: Final = 32
BATCH: Final = 128
"""All of it is asked about before `staples.LEASE` is over, should each responder hang to the last."""

FIRST_S: Final = 3.0
"""For so long a new certificate waits for its first staple: longer than a responder takes that has one."""

_log = get("stapler")


class Stapler:
    """Any number of replicas may run one: each certificate is asked about by one of them."""

    def __init__(
        self,
        *,
        database: Database,
        allowed: Sequence[Network],
        without: Sequence[str],
        clock: Clock,
        rng: Random,
        actor: str,
    ) -> None:
        """``allowed``: special addresses at which a responder may be that an uploaded certificate names.

        ``without``: issuers whose certificates are not stapled.
        """
        self._database = database
        self._allowed = tuple(allowed)
        self._without = list(without)
        self._clock = clock
        self._rng = rng
        self._actor = actor
        self.on_answer: Callable[[str], None] = lambda _result: None

    async def step(self) -> None:
        """Ask about all that is due.

        Raises:
            Unavailable: the database does not answer; what was asked about is asked again after its lease.
        """
        while due := await staples.claim(self._database, limit=BATCH, without=self._without):
            limit = asyncio.Semaphore(AT_ONCE)
            await to_their_ends(self._refresh(one, limit) for one in due)
            if len(due) < BATCH:
                break

    async def first(self, chain: Chain, issuer: str, roots: Sequence[x509.Certificate]) -> First | None:
        """Ask for the staple with which a new certificate goes out; None: it goes without, and `step` asks.

        Many responders know of a certificate only some seconds after it was issued: nothing waits for those.
        """
        responder = None if issuer in self._without else responder_of(chain, roots)
        if responder is None:
            return None
        try:
            async with asyncio.timeout(FIRST_S):
                judged = await asked(chain, responder, allowed=ANYWHERE, clock=self._clock)
        except TimeoutError:
            return None
        if judged.staple is None or judged.finding is not Finding.GOOD:
            return None
        again_in = response.refresh_in(judged.staple, now=self._clock.now(), jitter=self._rng.random())
        self.on_answer("good")
        return First(judged.staple, again_in)

    async def _refresh(self, due: Due, limit: asyncio.Semaphore) -> None:
        chain = chains.parse(due.chain_pem)
        allowed = self._allowed if due.uploaded else ANYWHERE
        log = _log.bind(secret=due.secret, generation=due.generation, url=due.responder.url)
        async with limit:
            judged = await asked(chain, due.responder, allowed=allowed, clock=self._clock)
        crashpoint("staple.answered")
        match judged.finding:
            case Finding.GOOD:
                assert judged.staple is not None  # noqa: S101 - or it is not good
                now = self._clock.now()
                staple = response.newer(judged.staple, due.staple, now=now)
                again_in = response.refresh_in(staple, now=now, jitter=self._rng.random())
                changed = await staples.good(self._database, due, staple, again_in=again_in)
                self.on_answer("good" if changed else "unchanged")
                log.info("staple.fetched", next_update=staple.next_update.isoformat(), changed=changed)
            case Finding.REVOKED:
                told = await staples.revoked(
                    self._database, due, reason=judged.reason, code=judged.code, actor=self._actor
                )
                self.on_answer("revoked")
                if told:
                    log.error("staple.revoked", error=judged.reason)
            case Finding.UNUSABLE:
                again_in = response.retry_in(
                    attempts=due.attempts + 1,
                    next_update=None if due.staple is None else due.staple.next_update,
                    now=self._clock.now(),
                )
                error = {
                    "what": judged.reason,
                    "hint": "is the CA's responder well? `staple: off` of its issuer asks it no more",
                }
                await staples.failed(self._database, due, error=error, again_in=again_in)
                self.on_answer("failed")
                log.warning("staple.failed", error=judged.reason, again_s=round(again_in.total_seconds()))


async def asked(chain: Chain, responder: Responder, *, allowed: Sequence[Network], clock: Clock) -> Judgement:
    """Ask the responder about the chain's leaf, and judge its answer."""
    issuer = x509.load_der_x509_certificate(responder.issuer)
    try:
        answer = await ask(responder.url, response.request(chain.leaf, issuer), allowed=allowed)
    except Unanswered as e:
        return Judgement(Finding.UNUSABLE, str(e))
    return response.judge(answer, leaf=chain.leaf, issuer=issuer, now=clock.now())
