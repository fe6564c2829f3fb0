"""What CAs wish of renewals (RFC 9773): whom to ask, what was drawn, and when a Certificate is renewed.

The draw is made in the transaction that keeps it: a window has one, whichever replica asked.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from acme_engine import renewal
from acme_engine.ari import RenewalInfo, Window
from acme_engine.renewal import Decision, Wish
from sds_server.inventory import audit, secrets
from sds_server.inventory.certificates import RENEWABLE
from sds_server.inventory.database import Database, Row, Transaction
from sds_server.model import CertificateId, CertificateStatus, SecretName


@dataclass(frozen=True, slots=True)
class Question:
    """A Certificate whose CA is to be asked; ``failures``: so often in a row it was asked in vain."""

    cert_id: CertificateId
    secret: SecretName
    issuer: str
    chain_pem: bytes
    failures: int


@dataclass(frozen=True, slots=True)
class Planned:
    """When a Certificate is renewed now, and why; ``changed``: that was something else before."""

    decision: Decision
    window: Window | None
    changed: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a CA's wish; ``ask_at`` None: nobody asks any more."""

    window: Window | None
    pick_at: datetime | None
    explanation_url: str | None
    answered_at: datetime | None
    ask_at: datetime | None
    error: str | None


async def claim(
    database: Database, issuers: Collection[str], *, hold_for: timedelta, limit: int
) -> Sequence[Question]:
    """Take those of these issuers that are due; for ``hold_for`` no other replica asks for them."""
    async with database.transaction() as tx:
        rows = await tx.rows("claim_renewal_infos", sorted(issuers), hold_for, limit)
    return [
        Question(
            CertificateId(row["id"]),
            SecretName(row["secret"]),
            row["issuer"],
            row["chain_pem"].encode(),
            row["failures"],
        )
        for row in rows
    ]


async def known(database: Database, cert_id: CertificateId) -> Known | None:
    """Return what is known of a Certificate's; None: its pairs are uploaded."""
    async with database.transaction() as tx:
        row = await tx.row("renewal_info", cert_id)
    if row is None:
        return None
    return Known(
        _window(row),
        row["pick_at"],
        row["explanation_url"],
        row["answered_at"],
        row["ask_at"],
        row["error"],
    )


async def answered(
    database: Database,
    question: Question,
    info: RenewalInfo,
    *,
    draw: Callable[[Window], datetime],
    ask_in: timedelta,
    now: datetime,
    actor: str,
) -> Planned | None:
    """Keep the CA's window, and plan the renewal by it; None: it is not to be renewed any more.

    The pick stays for as long as the window does, and is drawn anew with it.
    """
    async with database.transaction() as tx:
        row = await _lock(tx, question)
        if row is None:
            return None
        same = _window(row) == info.window
        pick_at = row["pick_at"] if same else draw(info.window)
        await tx.rows(
            "answered_renewal_info",
            question.cert_id,
            ask_in,
            info.window.start,
            info.window.end,
            pick_at,
            info.explanation_url,
        )
        wish = Wish(pick_at, past=info.window.end <= now)
        planned = await _plan(tx, question, row, wish, window=info.window)
        if not same or info.explanation_url != row["explanation_url"]:
            await _tell(tx, question, planned, info, actor)
        return planned


async def unanswered(
    database: Database, question: Question, *, error: str | None, forget: bool, ask_in: timedelta
) -> Planned | None:
    """Plan the renewal without the CA's word; None: it is not to be renewed any more.

    ``error`` None: it offers no such word. ``forget``: it has answered, with nothing of use. Else its last
    word may bring the renewal forward.
    """
    async with database.transaction() as tx:
        row = await _lock(tx, question)
        if row is None:
            return None
        await tx.rows("unanswered_renewal_info", question.cert_id, ask_in, forget, error)
        wish = None if forget or row["pick_at"] is None else Wish(row["pick_at"], doubtful=True)
        return await _plan(tx, question, row, wish, window=None if forget else _window(row))


async def _lock(tx: Transaction, question: Question) -> Row | None:
    if await secrets.lock_if_there(tx, question.secret) is None:
        await tx.rows("end_renewal_info", question.cert_id)
        return None
    row = await tx.row("renewal_info", question.cert_id)
    return row if row is not None and CertificateStatus(row["status"]) in RENEWABLE else None


async def _plan(
    tx: Transaction, question: Question, row: Row, wish: Wish | None, *, window: Window | None
) -> Planned:
    dates = {"not_before": row["not_before"], "not_after": row["not_after"]}
    earlier = await tx.rows("wished_renewals", question.secret, renewal.ARI_DAY)
    decision = renewal.tempered(
        renewal.decide(**dates, wish=wish),
        issued_at=row["issued_at"],
        **dates,
        earlier=[renewed["triggered_at"] for renewed in earlier],
    )
    if wish is None and window is None and row["pick_at"] is None:
        # Never a word of its CA: what was decided when it was issued stands.
        return Planned(Decision(row["renew_at"], row["renew_reason"]), None, changed=False)
    changed = await tx.value("plan_renewal", question.cert_id, decision.at, decision.reason)
    return Planned(decision, window, changed=changed is not None)


async def _tell(tx: Transaction, question: Question, planned: Planned, info: RenewalInfo, actor: str) -> None:
    await audit.append(
        tx,
        action="renewal.wished",
        actor=actor,
        subject=question.secret,
        cert_id=question.cert_id,
        detail={
            "window_start": info.window.start.isoformat(),
            "window_end": info.window.end.isoformat(),
            "explanation_url": info.explanation_url,
            "renew_at": planned.decision.at.isoformat(),
            "reason": planned.decision.reason,
        },
    )


def _window(row: Row) -> Window | None:
    return None if row["window_start"] is None else Window(row["window_start"], row["window_end"])
