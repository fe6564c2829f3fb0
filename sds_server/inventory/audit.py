"""Audit entries: append-only facts, each written in the transaction of the change that it tells of."""

import json
from collections.abc import Mapping
from typing import Any

from sds_server.crashpoint import crashpoint
from sds_server.inventory.database import Transaction
from sds_server.model import CertificateId


async def append(
    tx: Transaction,
    *,
    action: str,
    actor: str,
    subject: str,
    cert_id: CertificateId | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write one entry: ``actor`` did ``action`` to ``subject``.

    ``detail`` becomes canonical JSON text (sorted keys, no white space); it never holds key material.
    """
    payload = json.dumps(
        {"action": action, "actor": actor, "subject": subject, "cert_id": str(cert_id) if cert_id else None}
        | dict(detail or {}),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        default=str,
    )
    await tx.rows("append_audit", cert_id, action, actor, subject, payload)
    crashpoint("audit.appended")
