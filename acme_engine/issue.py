"""From names and a signing request to a chain: order, authorizations, challenges, finalize, download.

The order's state at the CA, and not a memory of ours, says what is next. So an order that a crash left
behind is resumed from its URL alone, at any point, and is finalized once:

| the order is | what is done                                            | committed before it  |
|--------------|---------------------------------------------------------|----------------------|
| (none)       | newOrder                                                |                      |
| pending      | prove every name                                        | `Journal.ordered`    |
| ready        | finalize                                                | `Journal.finalizing` |
| processing   | wait                                                    |                      |
| valid        | download                                                | `Journal.issued`     |
| invalid      | fail, in the CA's words                                 |                      |
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from typing import Protocol, TypeVar

from cryptography import x509

from acme_engine import chain as chains
from acme_engine import keys
from acme_engine import names as dns_names
from acme_engine.alternates import download
from acme_engine.client import Client
from acme_engine.errors import (
    Action,
    BadIdentifier,
    BadReply,
    OrderFailed,
    Problem,
    Refused,
    Unfinished,
    Unreachable,
)
from acme_engine.looks import Wait
from acme_engine.messages import Authorization, Challenge, Identifier, Order
from acme_engine.ordering import NO_TERMS, Admit, Terms, dates_ignored, freely, place
from acme_engine.solver import Solver, Solvers

PARALLEL = 8
"""Requests of one order in flight: many names must not spend a CA's limit per second."""

ANSWER_AGAIN_S = (0.4, 1.0)
"""Before a challenge is answered again that the CA leaves pending with an error (Caddy and step-ca do)."""

MAX_ANSWERS = 1 + len(ANSWER_AGAIN_S)

MAX_FINALIZES = 3
"""How often one attempt finalizes an order that the CA calls ready and then does not finalize."""

CLEANUP_TIMEOUT_S = 10.0
"""For one name; what is not gone by then is left to its time limit."""

STOPPED_CLEANUP_S = 4.0
"""For all names together of an issuance that is stopped: a process that ends is killed after 10 s or more."""

S = TypeVar("S")
T = TypeVar("T")
Step = Callable[[str, Mapping[str, object]], None]

_STATES = {"pending", "ready", "processing", "valid", "invalid"}


class Journal(Protocol):
    """Where the steps of one order are committed.

    Each is awaited, and has committed, before the next step is taken. A resumed order may report a step
    again. Raising stops the issuance there; nothing is lost by it.
    """

    async def ordered(self, order_url: str) -> None:
        """Keep the URL: from here on a crash resumes this order instead of starting a second one."""
        ...

    async def finalizing(self) -> None:
        """Note that the CA may issue from now on."""
        ...

    async def issued(self, certificate_url: str) -> None:
        """Note where the certificate, now issued, can be had."""
        ...


async def obtain(
    client: Client,
    *,
    names: Sequence[str],
    csr: bytes,
    solver: Solver | Solvers,
    journal: Journal,
    order_url: str | None = None,
    deadline_s: float = 300,
    on_step: Step | None = None,
    terms: Terms = NO_TERMS,
    admit: Admit = freely,
) -> chains.Chain:
    """Get a certificate for ``names`` and the key that signed ``csr`` (DER).

    ``solver`` proves all names; `Solvers` has one for each. ``order_url`` resumes that order, whatever state
    it is in. ``on_step`` hears of each step by its dotted name. ``terms``: what a new order asks for besides.
    ``admit`` is asked before each newOrder, and raises what shall be raised instead of one.
    The chain returned passed `chain.check` against key, names and dates; not against roots, which only the
    caller knows.

    Raises:
        BadIdentifier, BadSigningRequest, Unsolvable: before anything is sent.
        OrderFailed: this order is dead; start a new one, with ``order_url`` None.
        Unfinished: the time is up; the same call with the order's URL goes on.
        ChainError: the CA issued something else than was asked for.
        Refused, Unreachable, Untrusted, BadReply: as `Client`; ``retryable`` says whether to come back.
    """
    wanted = dns_names.normalise_all(names)
    if not wanted:
        raise BadIdentifier("", "no name was given")
    if len(wanted) > dns_names.MAX_NAMES:
        raise BadIdentifier(
            wanted[0], f"is one of {len(wanted)} names; a certificate has {dns_names.MAX_NAMES} at most"
        )
    solvers = solver if isinstance(solver, Solvers) else Solvers([solver])
    solvers.check(wanted)
    keys.check_csr(csr, wanted)
    issuance = _Issuance(
        client,
        wanted,
        csr,
        solvers=solvers,
        journal=journal,
        on_step=on_step or (lambda _name, _fields: None),
        deadline_s=deadline_s,
        terms=terms,
        admit=admit,
    )
    try:
        async with asyncio.timeout(deadline_s) as limit:
            return await issuance.run(order_url)
    except TimeoutError as e:
        if not limit.expired():
            raise  # somebody else's: the journal's, say
        raise issuance.unfinished() from e


@dataclass(frozen=True, slots=True)
class _Proof:
    """A name to be proved, and how."""

    authorization: Authorization
    solver: Solver
    challenge: Challenge
    key_authorization: str


class _Issuance:
    """One order on its way."""

    def __init__(
        self,
        client: Client,
        names: Sequence[str],
        csr: bytes,
        *,
        solvers: Solvers,
        journal: Journal,
        on_step: Step,
        deadline_s: float,
        terms: Terms,
        admit: Admit,
    ) -> None:
        self._admit = admit
        self._terms = terms
        self._order_url: str | None = None
        self._state = "not yet created"
        self._finalizes = 0
        self._ends = asyncio.get_running_loop().time() + deadline_s
        self._client = client
        self._names = names
        self._csr = csr
        self._solvers = solvers
        self._journal = journal
        self._on_step = on_step

    async def run(self, order_url: str | None) -> chains.Chain:
        order = await (self._order() if order_url is None else self._resume(order_url))
        wait = Wait(self._client.habits.issuance)
        to_come = set(_STATES)  # one that comes again, or is none, is no progress: pauses grow on
        while True:
            if order.status in to_come:
                to_come.remove(order.status)
                wait.done()
            self._note(order)
            match order.status:
                case "pending":
                    if await self._prove(order):
                        # By RFC 8555 section 7.1.6 it is ready once every authorization is valid. A CA that
                        # is not so far says orderNotReady, acts on nothing, and is then believed.
                        order = replace(order, status="ready")
                    else:
                        # Authorizations may all be valid, and the order still on its way to "ready".
                        await self._pause(wait, order.retry_after)
                        order = await self._client.order(order.url)
                case "ready":
                    order = await self._finalize(order, wait)
                case "valid":
                    return await self._download(order)
                case "invalid":
                    raise await self._failure(order)
                case _:  # "processing", or a state of tomorrow: both are waited for
                    await self._pause(wait, order.retry_after)
                    order = await self._client.order(order.url)

    def unfinished(self, retry_after: timedelta | None = None) -> Unfinished:
        """Say where the order stands, for whoever resumes it."""
        return Unfinished(
            f"the order for {self._names[0]} is {self._state}",
            order_url=self._order_url,
            retry_after=retry_after,
        )

    async def _order(self) -> Order:
        order = await place(self._client, self._names, self._terms, self._on_step, self._admit)
        self._order_url = order.url
        await self._journal.ordered(order.url)
        self._on_step("order.created", {"order": order.url})
        self._check_identifiers(order)
        return order

    async def _resume(self, url: str) -> Order:
        if not self._client.has(url):  # no fault of this CA's, which would be asked for it again and again
            raise OrderFailed(f"{url[:200]!r} is not an order of this CA", order_url=url)
        self._order_url = url
        try:
            order = await self._client.order(url)
        except Refused as e:
            # Gone, or another account's since the CA was reset: no later try will find it. CAs word that
            # differently (404, 401, "malformed"); what is not our turn to mend is told by its rule.
            if e.problem.rule.action is Action.RETRY:
                raise OrderFailed(
                    "the CA does not have the order any more", order_url=url, problems=[e.problem]
                ) from e
            raise
        self._on_step("order.resumed", {"order": url, "status": order.status})
        self._check_identifiers(order)
        return order

    def _check_identifiers(self, order: Order) -> None:
        """Abandon an order for other names than ours: its certificate would be of no use, or a trick."""
        have = set(order.identifiers)
        if have != set(map(Identifier.of, self._names)) or len(order.identifiers) != len(have):
            theirs = ", ".join(sorted(i.value for i in order.identifiers))
            raise OrderFailed(
                f"the order is for {theirs}, not for {', '.join(sorted(self._names))}", order_url=order.url
            )

    def _check_authorizations(self, order: Order, authorizations: Sequence[Authorization]) -> None:
        """Prove no name that we did not ask for: it would be a CA's trick to have us answer for it."""
        ours = {name.removeprefix("*.") for name in self._names}
        foreign = sorted({a.identifier.value.removeprefix("*.") for a in authorizations} - ours)
        if foreign:
            raise OrderFailed(f"the CA wants {', '.join(foreign)} proved, too", order_url=order.url)

    async def _prove(self, order: Order) -> bool:
        """Prove every name that is not proved yet; False says that there was none."""
        authorizations = await _together(self._client.authorization, order.authorizations)
        self._check_authorizations(order, authorizations)
        problems = [_death(a) for a in authorizations if a.status not in {"pending", "valid"}]
        if problems:
            raise OrderFailed("a name could not be proved", order_url=order.url, problems=problems)
        proofs = [self._choose(a) for a in authorizations if a.status == "pending"]
        if not proofs:
            return False
        within_s = None
        try:
            # Present all, then wait for all, then answer: a slow zone is waited for once and not per name.
            await _together(self._present, proofs)
            await _together(self._ready, proofs)
            outcomes = await _together(self._answer, proofs)
        except asyncio.CancelledError:
            within_s = STOPPED_CLEANUP_S
            raise
        finally:
            await self._cleanup(proofs, within_s)
        failures = [problem for problem in outcomes if problem is not None]
        if failures:
            raise OrderFailed("a name could not be proved", order_url=order.url, problems=failures)
        return True

    def _choose(self, authorization: Authorization) -> _Proof:
        solver, challenge = self._solvers.choose(authorization)
        if challenge.token is None:  # what stands in DNS for the account, and not for this order
            account = challenge.account or self._client.account_url
            # One record stands for both: of a name that is ordered with its wildcard it must permit that too.
            wildcard = authorization.wildcard or f"*.{authorization.identifier.value}" in self._names
            standing = replace(challenge, account=account, wildcard=wildcard)
            return _Proof(authorization, solver, standing, "")
        # The label of dns-account-01 is our account's, whatever the CA says of it.
        ours = replace(challenge, account=self._client.account_url)
        return _Proof(authorization, solver, ours, self._client.key_authorization(challenge))

    async def _present(self, proof: _Proof) -> None:
        name = proof.authorization.name
        await proof.solver.present(proof.authorization.identifier, proof.challenge, proof.key_authorization)
        self._on_step("challenge.presented", {"identifier": name, "type": proof.challenge.type})

    async def _ready(self, proof: _Proof) -> None:
        name = proof.authorization.name
        await proof.solver.ready(proof.authorization.identifier, proof.challenge, proof.key_authorization)
        self._on_step("challenge.ready", {"identifier": name, "type": proof.challenge.type})

    async def _answer(self, proof: _Proof) -> Problem | None:
        """Have the CA validate one name; return its Problem if it could not."""
        name = proof.authorization.name
        last: Problem | None = None
        for answers in range(1, MAX_ANSWERS + 1):
            told = await self._tell(proof)
            self._on_step("challenge.answered", {"identifier": name, "answers": answers})
            authorization, last = await self._verdict(proof, told)
            if authorization.status == "valid":
                self._on_step("authorization.valid", {"identifier": name})
                return None
            if authorization.status != "pending":
                return _death(authorization)
            # Still pending, with an error: the CA waits to be asked again once the cause is mended.
            self._on_step("challenge.refused", {"identifier": name, "problem": str(last)})
            if answers < MAX_ANSWERS:
                await self._wait(ANSWER_AGAIN_S[answers - 1], authorization.retry_after)
        return _naming(proof.authorization, last)

    async def _tell(self, proof: _Proof) -> Challenge:
        """Tell the CA to look; return the challenge as it then is.

        Where an answer was lost it is told twice, and some CAs (Pebble) refuse to hear it of a challenge that
        is not pending any more: then what has become of that decides.
        """
        try:
            return await self._client.answer(proof.challenge)
        except Refused as e:
            if e.problem.rule.action is not Action.RETRY:
                raise  # not now, or never: it says nothing of the challenge
            authorization = await self._client.authorization(proof.authorization.url)
            now = next((c for c in authorization.challenges if c.url == proof.challenge.url), None)
            if now is None or now.status == "pending":
                raise
            return now

    async def _verdict(self, proof: _Proof, told: Challenge) -> tuple[Authorization, Problem | None]:
        """Wait until the authorization is decided, or its challenge shows an error while it stays pending.

        ``told``: the challenge as the CA gave it back. It is hardly ever decided by then, and a look at once
        is a request for nothing. Who validates within the request (Caddy, step-ca) is not waited for.
        """
        wait = Wait(self._client.habits.validation)
        if told.status == "processing" or (told.status == "pending" and told.error is None):
            await self._pause(wait, told.retry_after)
        while True:
            authorization = await self._client.authorization(proof.authorization.url)
            now = next((c for c in authorization.challenges if c.url == proof.challenge.url), None)
            error = now.error if now else None
            # "processing" with an error is the server's own retry (RFC 8555 section 8.2): waited for.
            asks_again = error is not None and now is not None and now.status == "pending"
            if authorization.status != "pending" or asks_again:
                wait.done()
                return authorization, error
            await self._pause(wait, authorization.retry_after)

    async def _cleanup(self, proofs: Sequence[_Proof], within_s: float | None) -> None:
        """Take every answer away. What fails here is told and left to its time limit: it decides nothing."""

        def left(proof: _Proof, why: str) -> None:
            self._on_step("challenge.left", {"identifier": proof.authorization.name, "error": why})

        async def one(proof: _Proof) -> None:
            identifier = proof.authorization.identifier
            try:
                async with asyncio.timeout(CLEANUP_TIMEOUT_S):
                    await proof.solver.cleanup(identifier, proof.challenge, proof.key_authorization)
            except Exception as e:  # noqa: BLE001 - a solver may raise anything
                left(proof, str(e) or "no answer in time")
            except asyncio.CancelledError:
                left(proof, "no time was left")
                raise

        cleaning = asyncio.create_task(_together(one, proofs))
        try:
            await asyncio.wait([cleaning], timeout=within_s)
        except asyncio.CancelledError:
            if within_s is None:  # stopped only now: no shorter than where it is stopped sooner
                await asyncio.wait([cleaning], timeout=STOPPED_CLEANUP_S)
            raise
        finally:
            cleaning.cancel()
            await asyncio.wait([cleaning])
        with suppress(asyncio.CancelledError):  # ours
            cleaning.result()

    async def _finalize(self, order: Order, wait: Wait) -> Order:
        await self._journal.finalizing()
        self._on_step("order.finalizing", {"order": order.url})
        self._finalizes += 1
        try:
            finalized = await self._client.finalize(order, self._csr)
        except (Refused, Unreachable) as e:
            undecided = isinstance(e, Unreachable) or _undecided(e.problem)
            if not undecided or self._finalizes >= MAX_FINALIZES:
                raise  # the next attempt begins with the order's state
            retry_after = e.retry_after
        else:
            if finalized.status not in {"pending", "ready"}:
                return finalized
            if self._finalizes >= MAX_FINALIZES:
                raise self.unfinished(finalized.retry_after)
            retry_after = finalized.retry_after
        # Whether the CA acted, or found the order not ready after all: only the order itself knows.
        await self._pause(wait, retry_after)
        return await self._client.order(order.url)

    async def _download(self, order: Order) -> chains.Chain:
        if order.certificate is None:
            raise BadReply(f"the order {order.url} is valid and names no certificate")
        self._on_step("order.valid", {"order": order.url})
        await self._journal.issued(order.certificate)
        preferred = self._terms.preferred_chain
        chain = await download(self._client, order.certificate, preferred=preferred, on_step=self._on_step)
        chains.check(
            chain,
            spki_sha256=keys.spki_sha256(x509.load_der_x509_csr(self._csr).public_key()),
            names=self._names,
            now=self._client.clock(),
        )
        self._on_step("certificate.downloaded", {"fingerprint": chain.fingerprint})
        ignored = dates_ignored(
            self._terms, not_before=chain.not_before, not_after=chain.not_after, now=self._client.clock()
        )
        if ignored is not None:
            self._on_step("order.dates_ignored", {"certificate": ignored})
        return chain

    async def _failure(self, order: Order) -> OrderFailed:
        """Collect the CA's words: the order's own, and those of each name that could not be proved."""
        authorizations = await _together(self._client.authorization, order.authorizations)
        problems = [_death(a) for a in authorizations if a.status not in {"pending", "valid"}]
        if order.error is not None:
            problems.append(order.error)
        return OrderFailed("the order is invalid", order_url=order.url, problems=problems)

    async def _pause(self, wait: Wait, retry_after: timedelta | None) -> None:
        await self._wait(wait.pause_s(retry_after), retry_after)

    async def _wait(self, pause_s: float, retry_after: timedelta | None) -> None:
        """Wait so long, or as the CA says; not at all for what is beyond our time."""
        if retry_after is not None:
            pause_s = max(pause_s, retry_after.total_seconds())
        if pause_s > self._ends - asyncio.get_running_loop().time():
            raise self.unfinished(retry_after)
        await self._client.sleep(pause_s)

    def _note(self, order: Order) -> None:
        self._order_url, self._state = order.url, order.status


def _undecided(problem: Problem) -> bool:
    busy = problem.status is not None and problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return busy or problem.code == "orderNotReady"


def _death(authorization: Authorization) -> Problem:
    """Say why an authorization is of no use: its challenge's words, else its state."""
    said = next((c.error for c in authorization.challenges if c.error is not None), None)
    return _naming(authorization, said or Problem(detail=f"the authorization is {authorization.status}"))


def _naming(authorization: Authorization, problem: Problem | None) -> Problem:
    return replace(problem or Problem(), identifier=authorization.name)


async def _together(do: Callable[[S], Awaitable[T]], subjects: Iterable[S]) -> list[T]:
    """Do it to all, a few at a time; the first failure cancels the others and is raised as itself."""
    subjects = list(subjects)
    if len(subjects) == 1:  # most orders have one name: five tasks fewer for each
        return [await do(subjects[0])]
    slots = asyncio.Semaphore(PARALLEL)

    async def one(subject: S) -> T:
        async with slots:
            return await do(subject)

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(subject)) for subject in subjects]
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from e
    return [task.result() for task in running]
