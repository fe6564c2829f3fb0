"""The worker: takes a Rotation under a Lease and brings it its next Certificate, or says why not.

The order in which things become durable is the promise: the sealed key and the CSR before the CA is asked,
the order's URL before anything is proved, the intent before finalize. Killed between any two lines, the next
worker resumes the same order, so no second certificate is bought.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, Final
from uuid import uuid4

from cryptography.x509 import Certificate as Certificate509

from acme_engine import renewal
from acme_engine.chain import Chain
from acme_engine.errors import AcmeError, Action, Refused
from acme_engine.issue import obtain
from acme_engine.relinquish import relinquish
from sds_server.clock import Clock
from sds_server.crashpoint import crashpoint
from sds_server.errors import (
    CertvoyError,
    CustodyError,
    GateRefused,
    NotFound,
    StaleLease,
    Unavailable,
)
from sds_server.gate import check_pair
from sds_server.inventory import certificates, issuances, orders, rotations, secrets
from sds_server.inventory.database import Database
from sds_server.inventory.orders import Order
from sds_server.inventory.rotations import Claim
from sds_server.inventory.staples import First
from sds_server.keys.kms import Sealer
from sds_server.lifecycle import retry
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.chooser import Chooser
from sds_server.lifecycle.failure import Ended, ended
from sds_server.lifecycle.journal import Journal
from sds_server.lifecycle.keeper import Keeper
from sds_server.lifecycle.patience import Patience, Verdict
from sds_server.lifecycle.phases import Phase, Phases
from sds_server.lifecycle.planner import Planner
from sds_server.lifecycle.told import told
from sds_server.lifecycle.treasurer import Treasurer
from sds_server.lifecycle.waiting_room import Visit, WaitingRoom
from sds_server.log import get
from sds_server.model import (
    Certificate,
    CertificateId,
    CertificateStatus,
    Identity,
    Lease,
    Reason,
    RotationId,
    Secret,
)

ORDER_DEADLINE_S: Final = 300.0
"""After that the order is parked and resumed later: a CA may take days (RFC 8555 section 7.4)."""

RELINQUISH_S: Final = 30.0
"""For how long a CA is told that an order is wanted no more: it forgets it by itself, in some days."""

RELEASE_S: Final = 2.0
"""For how long a process that is stopped tries to leave a Rotation to others: their wait is the Lease."""

URGENT: Final = frozenset({Reason.OPERATOR, Reason.REVOKED})
"""What does not wait for a CA's count: a person wants it, or what is served must not be."""

WARNED: Final = frozenset({"chain.unmatched", "order.dates_ignored"})
"""Steps of an order by which it gets something else than was asked for: someone should look."""

_log = get("worker")


FirstStaple = Callable[[Chain, str, Sequence[Certificate509]], Awaitable[First | None]]
"""Asks for the staple of a new chain of an issuer with these roots: see `Stapler.first`."""


async def without_staple(_chain: Chain, _issuer: str, _roots: Sequence[Certificate509]) -> None:
    """Let it go out without: it follows."""


class Worker:
    """Works on one Rotation at a time; run several for more."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        issuers: Mapping[str, Issuer],
        accounts: Accounts,
        patience: Patience,
        lease_for: timedelta,
        replica: str,
        clock: Clock,
        rng: Random,
        authorize: Callable[[Identity, str], bool] = lambda _identity, _name: True,
        first_staple: FirstStaple = without_staple,
        clock_said: Callable[[str], str | None] = lambda _issuer: None,
    ) -> None:
        """``authorize``: what an identity may see, where others than this process bring requests.

        ``clock_said``: how far our clock is from an issuer's, in words, where that is too far.
        """
        self._clock_said = clock_said
        self._first_staple = first_staple
        self._database = database
        self._sealer = sealer
        self._issuers = issuers
        self._accounts = accounts
        self._planner = Planner(
            database=database,
            sealer=sealer,
            accounts=accounts,
            authorize=authorize,
            actor=f"replica:{replica}",
        )
        self._patience = patience
        self._treasurer = Treasurer(database=database)
        self._chooser = Chooser(
            database=database,
            issuers=issuers,
            treasurer=self._treasurer,
            clock=clock,
            actor=f"replica:{replica}",
        )
        self._lease_for = lease_for
        self._replica = replica
        self._actor = f"replica:{replica}"
        self._clock = clock
        self._rng = rng
        self._left: list[tuple[Lease, Unavailable]] = []
        self._keeper = Keeper(database=database, lease_for=lease_for, clock=clock)
        self.told = self._keeper.told
        """Call it with the Secret that was changed: work that nobody wants any more is stopped."""

        self.missed = self._keeper.missed
        self._room = WaitingRoom()
        self._attempts = 0

        self.on_attempt: Callable[[str, Ended, float], None] = lambda _issuer, _ended, _seconds: None
        self.on_step: Callable[[str, str], None] = lambda _issuer, _step: None
        self.on_limited: Callable[[str, str | None], None] = lambda _issuer, _limit: None
        self._treasurer.on_limited = self._limited
        self.on_phase: Callable[[str, Phase, float], None] = lambda _issuer, _phase, _seconds: None

    @property
    def busy(self) -> int:
        """How many Rotations hold a worker now."""
        return self._attempts - self.apart

    @property
    def apart(self) -> int:
        """How many wait for DNS, or have waited, and hold none."""
        return self._room.apart

    async def step(self) -> None:
        """Work until nothing is due; what waits for DNS goes on by itself, until `close`.

        Raises:
            Unavailable: the database or the KMS does not answer; the Rotation is free again as soon as the
            database takes that, or when its Lease ends.
        """
        while True:
            # Each once: what the database does not take now is left for the next step.
            left, self._left = self._left, []
            for lease, error in left:
                await self._give_back(lease, error)
            # Without a KMS no order can be begun: what waits is left as it is, and in its order.
            await self._sealer.ready()
            claim = await rotations.claim(
                self._database,
                replica=self._replica,
                lease_for=self._lease_for,
                in_flight={name: issuer.in_flight for name, issuer in self._issuers.items()},
            )
            if claim is None:
                return
            await self._room.hold(partial(self._attempt, claim))

    async def close(self) -> None:
        """Stop what waits for DNS."""
        await self._room.close()

    async def work_on(self, secret: str, rotation: RotationId) -> None:
        """Work on this Rotation, unless it is another's, or wants no worker now.

        Raises:
            Unavailable: as `step`.
        """
        claim = await rotations.claim_this(
            self._database, secret, rotation, replica=self._replica, lease_for=self._lease_for
        )
        if claim is not None:
            await self._attempt(claim, None)

    async def _attempt(self, claim: Claim, visit: Visit | None) -> None:
        self._attempts += 1
        started, how = self._clock.monotonic(), Ended.INTERRUPTED
        try:
            claim, how = await self._work(claim, visit)
        finally:
            self._attempts -= 1
            self.on_attempt(claim.issuer, how, self._clock.monotonic() - started)

    async def _work(self, claim: Claim, visit: Visit | None) -> tuple[Claim, Ended]:
        """Return how it ended, and the claim with the issuer that was asked."""
        lease = claim.lease
        log = _log.bind(secret=lease.secret, rotation=lease.rotation, lease_no=lease.number)
        log.info("rotation.claimed", attempts=claim.attempts)
        crashpoint("rotation.claimed")
        started = self._clock.monotonic()
        try:
            claim = await self._chooser.choose(claim, await secrets.get(self._database, lease.secret))
            generation = await self._keeper.while_leased(lease, self._issue(claim, visit))
        except (StaleLease, NotFound) as e:
            log.warning("lease.lost", error=e.message)
            await self._relinquish(lease)
            return claim, Ended.LEASE_LOST
        except asyncio.CancelledError:
            await self._release(lease)
            raise
        except Unavailable as e:
            await self._give_back(lease, e)
            raise
        except (AcmeError, GateRefused, CustodyError) as e:
            words = told(e, clock=self._clock_said(claim.issuer))
            try:
                await self._put_back(claim, e, words)
            except Unavailable as away:
                await self._give_back(lease, away)
                raise
            log.warning("rotation.failed", error=words["what"], hint=words["hint"])
            return claim, ended(e)
        seconds = round(self._clock.monotonic() - started, 3)
        log.info("certificate.issued", generation=generation, seconds=seconds)
        # It is stored, and its Lease over. That the CA delivers again the next certificate says as well.
        with suppress(Unavailable):
            await self._patience.delivered(claim.issuer)
        return claim, Ended.ISSUED

    async def _issue(self, claim: Claim, visit: Visit | None) -> int:
        lease = claim.lease
        # From here on its issuer is the one that was chosen.
        secret = replace(await secrets.get(self._database, lease.secret), issuer=claim.issuer)
        issuer = self._issuers.get(secret.issuer)
        if issuer is None:
            raise GateRefused(
                "issuer",
                f"secret {secret.name}: the issuer {secret.issuer} is not in this replica's configuration",
                hint="declare it under `issuers:`",
            )
        order = await self._planner.order(lease, secret)
        if order.url is None and (wrong := issuer.refuses(secret.domains)) is not None:
            raise GateRefused("names", f"secret {secret.name}: {wrong.said}", hint=wrong.hint)
        if order.url is None and claim.reason not in URGENT and not claim.by_hand:
            await self._planner.check_spacing(secret, issuer)
        if order.url is None:
            # The key must open before the CA is asked for anything: a KMS that is away, or another KEK, shows
            # here, and not when there is a certificate that nobody can use.
            await self._planner.key(order)
        account = await self._accounts.ensure(issuer)
        crashpoint("account.ready")
        if order.url is None:
            # A CA cannot ask for the Lease's number: whoever was frozen must not order beside its successor.
            await rotations.extend(self._database, lease, lease_for=self._lease_for)
        solvers = issuer.challenges.solvers(
            self._database,
            lease.rotation,
            issuer.name,
            self._clock,
            wait=nullcontext if visit is None else partial(self._waiting, lease, visit),
        )
        async with self._accounts.client(issuer, account) as client:
            terms, replaces = await self._planner.terms(claim, issuer, account)
            journal = Journal(
                self._database,
                lease,
                order,
                self._actor,
                account_url=account.url,
                replaces=replaces,
                profile=None if terms.profile is None else terms.profile.name,
            )
            phases = Phases(self._clock, new=order.url is None)
            try:
                chain = await obtain(
                    client,
                    names=secret.domains,
                    csr=order.csr,
                    solver=solvers,
                    journal=journal,
                    order_url=order.url,
                    deadline_s=ORDER_DEADLINE_S + solvers.patience_s(secret.domains),
                    on_step=lambda name, fields: self._stepped(claim, journal, phases, name, fields),
                    terms=terms,
                    admit=lambda replacing: self._treasurer.admit(
                        lease,
                        order.id,
                        secret,
                        issuer,
                        replacing=replacing,
                        by_hand=claim.by_hand,
                    ),
                )
            except Refused as e:
                if e.problem.rule.action is Action.REREGISTER:
                    await self._accounts.forget(issuer, account)
                raise
        crashpoint("chain.downloaded")
        return await self._store(claim, secret, issuer, replace(order, url=journal.url), chain)

    @asynccontextmanager
    async def _waiting(self, lease: Lease, visit: Visit) -> AsyncIterator[None]:
        """Wait for DNS: meanwhile neither a worker is held, nor one of the issuer's places in flight."""
        if visit.begin():
            await rotations.wait_for_dns(self._database, lease, waits=True)
        yield
        # An attempt that fails while it waits is over, and its Lease with it: nothing is to be noted.
        if visit.end():
            await rotations.wait_for_dns(self._database, lease, waits=False)

    async def _store(self, claim: Claim, secret: Secret, issuer: Issuer, order: Order, chain: Chain) -> int:
        key = await self._planner.key(order)
        previous = await self._previous(claim.replaces, secret)
        check_pair(
            chain_pem=chain.pem,
            key_pkcs8=key.pkcs8,
            spki_sha256=key.spki_sha256,
            names=secret.domains,
            now=self._clock.now(),
            roots=issuer.roots,
            # An operator may go over to shorter lives; a renewal that gains no time is a CA's mistake.
            previous_not_after=previous.not_after if previous and claim.reason is Reason.RENEWAL else None,
        )
        cert_id = CertificateId(uuid4())
        decision = renewal.decide(not_before=chain.not_before, not_after=chain.not_after)
        crashpoint("certificate.checked")
        # Before anybody can be offered it: else each proxy would get it twice, and first without.
        first_staple = await self._first_staple(chain, secret.issuer, issuer.roots)
        async with self._keeper.ending(claim.lease):
            generation = await issuances.store(
                self._database,
                claim.lease,
                Certificate(
                    id=cert_id,
                    secret=secret.name,
                    generation=0,
                    status=CertificateStatus.ISSUED,
                    domains=secret.domains,
                    issuer=secret.issuer,
                    serial_number=chain.serial_number,
                    not_before=chain.not_before,
                    not_after=chain.not_after,
                    fingerprint=chain.fingerprint,
                    key_id=order.key_id,
                    key_ref=key.key_ref,
                    chain_pem=chain.pem,
                    renew_at=decision.at,
                ),
                spki_sha256=key.spki_sha256,
                order_url=order.url,
                renew_reason=decision.reason,
                actor=self._actor,
                roots=issuer.roots,
                first_staple=first_staple,
            )
        crashpoint("certificate.stored")
        return generation

    async def _previous(self, cert_id: CertificateId | None, secret: Secret) -> Certificate | None:
        """Return the Certificate that is replaced, where the new one must not end before it."""
        if cert_id is None:
            return None
        found = await certificates.pairs(self._database, [cert_id])
        same_issuer = [pair.certificate for pair in found if pair.certificate.issuer == secret.issuer]
        return same_issuer[0] if same_issuer else None

    async def _put_back(self, claim: Claim, error: Exception, words: Mapping[str, Any]) -> None:
        try:
            declared = await secrets.get(self._database, claim.lease.secret)
            secret = replace(declared, issuer=claim.issuer)
            issuer = self._issuers.get(claim.issuer)
            spent = None if issuer is None else await self._treasurer.believe(issuer, secret, error)
            verdict = (
                Verdict.SPENT
                if spent is not None
                else await self._keeper.while_leased(claim.lease, self._patience.judge(claim.issuer, error))
            )
            guilty = retry.guilty(error, secret.domains)
            if issuer is not None and guilty:
                await self._treasurer.failed(issuer, {name for name, _ in guilty})
            previous = await self._previous(claim.replaces, secret)
            next_one = retry.after(
                error,
                attempts=claim.attempts,
                verdict=verdict,
                spent=spent,
                not_after=None if previous is None else previous.not_after,
                now=self._clock.now(),
                rng=self._rng,
            )
            await rotations.fail(
                self._database,
                claim.lease,
                error=words if next_one.pause is not None else _held(words, secret.name),
                # The pause, and not the moment: replicas' clocks may differ from the database's.
                pause=timedelta(0) if await self._chooser.another(claim, declared) else next_one.pause,
                abandon_order=next_one.abandon_order,
                counted=next_one.counted,
                guilty=guilty,
                issuer=claim.issuer,
                actor=self._actor,
            )
        except (StaleLease, NotFound) as e:
            _log.warning("lease.lost", secret=claim.lease.secret, error=e.message)

    async def _release(self, lease: Lease) -> None:
        """Leave the Rotation to others, as this process ends; where that fails the Lease ends by itself."""
        try:
            async with asyncio.timeout(RELEASE_S):
                await rotations.release(self._database, lease)
        except (CertvoyError, TimeoutError) as e:
            _log.warning("lease.lost", secret=lease.secret, error=str(e))
        else:
            _log.info("lease.released", secret=lease.secret, rotation=lease.rotation)

    async def _give_back(self, lease: Lease, error: Unavailable) -> None:
        """Free what could not be worked on, at once or, while the database is away, before the next claim."""
        try:
            await rotations.fail(
                self._database,
                lease,
                error=told(error),
                pause=timedelta(0),
                counted=False,
                actor=self._actor,
            )
        except (StaleLease, NotFound) as e:
            _log.warning("lease.lost", secret=lease.secret, error=e.message)
        except Unavailable:
            self._left.append((lease, error))

    async def _relinquish(self, lease: Lease) -> None:
        """Tell the CA that nobody wants what was ordered, if that is why the Lease was lost.

        Best effort, by whoever worked on it: a CA gives up pending authorizations by itself, in some days.
        """
        try:
            order = await orders.given_up(self._database, lease)
            issuer = None if order is None else self._issuers.get(order.issuer)
            if order is None or order.url is None or issuer is None:
                return
            async with asyncio.timeout(RELINQUISH_S):
                account = await self._accounts.ensure(issuer)
                async with self._accounts.client(issuer, account) as client:
                    number = await relinquish(client, order.url)
        except (AcmeError, CertvoyError, TimeoutError) as e:
            _log.warning("order.left", secret=lease.secret, rotation=lease.rotation, error=str(e))
            return
        _log.info("order.relinquished", secret=lease.secret, rotation=lease.rotation, authorizations=number)

    def _stepped(
        self, claim: Claim, journal: Journal, phases: Phases, name: str, fields: Mapping[str, object]
    ) -> None:
        if name == "order.profile_refused":
            journal.went_without()
        self.on_step(claim.issuer, name)
        if (ended := phases.stepped(name)) is not None:
            self.on_phase(claim.issuer, *ended)
        where = {"secret": claim.lease.secret, "rotation": claim.lease.rotation}
        if name in WARNED:
            _log.warning(name, **where, **fields)
        else:
            _log.info(name, **where, **fields)
        crashpoint(name)

    def _limited(self, issuer: str, limit: str | None) -> None:
        self.on_limited(issuer, limit)


def _held(words: Mapping[str, Any], secret: str) -> Mapping[str, Any]:
    return {**words, "hint": f"{words['hint']}; then `certvoy rotate {secret}`: it is not tried before"}
