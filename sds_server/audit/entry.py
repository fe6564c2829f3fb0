"""An audit entry as its leaf: every column of the row in one canonical text, so that no edit is silent."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sds_server.audit import tree

VERSION: Final = 1
"""Of the leaf's form: another one gets another number, and old leaves keep theirs."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the audit. ``payload`` is its exact text, not what that means.

    ``cluster`` is the system identifier of the PostgreSQL in which transaction ``xid`` wrote it: numbers of
    transactions mean nothing in another one.
    """

    id: int
    cert_id: str | None
    action: str
    actor: str
    timestamp: datetime
    xid: int
    cluster: int
    subject: str
    payload: str

    @property
    def document(self) -> dict[str, Any]:
        """The leaf as a JSON object; numbers are text, as JSON's are doubles (RFC 8785 section 3.2.2.3)."""
        return {
            "v": VERSION,
            "id": str(self.id),
            "cert_id": self.cert_id,
            "action": self.action,
            "actor": self.actor,
            "timestamp": self.timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "xid": str(self.xid),
            "cluster": str(self.cluster),
            "subject": self.subject,
            "payload": self.payload,
        }

    @property
    def leaf(self) -> bytes:
        """Its hash in the tree."""
        return hash_of(self.document)


def hash_of(document: dict[str, Any]) -> bytes:
    """Return the leaf hash of a document: sorted keys, no white space, UTF-8 (RFC 8785)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # What no database can hold is some hash all the same, and not the one of anything that it can.
    return tree.leaf_hash(text.encode(errors="surrogatepass"))
