"""Records of challenges that are about an account: dns-account-01's name, and dns-persist-01's standing text.

Both are drafts; `dns_account01` and `dns_persist01` answer their challenges. The text lets a name be proved
without a change of DNS at each renewal: it is written once, by whoever runs the zone.
"""

import hashlib
from base64 import b32encode
from datetime import UTC, datetime
from typing import Final

LABEL_BYTES: Final = 10
PERSIST_LABEL: Final = "_validation-persist"
MAX_STRING: Final = 255
"""Bytes of one string of a TXT record (RFC 1035 section 3.3.14); a longer text is several."""


def account_record_name(domain: str, account_url: str) -> str:
    """Return dns-account-01's name (draft-ietf-acme-dns-account-label): every account has its own.

    So two parties may prove the same domain, each with a CNAME to a zone of theirs.
    """
    digest = hashlib.sha256(account_url.encode("ascii")).digest()[:LABEL_BYTES]
    return f"_{b32encode(digest).decode('ascii').lower()}._acme-challenge.{domain.removeprefix('*.')}"


def persist_record_name(domain: str) -> str:
    """Return dns-persist-01's name (draft-ietf-acme-dns-persist)."""
    return f"{PERSIST_LABEL}.{domain.removeprefix('*.')}"


def persist_record_text(
    issuer: str, account_url: str, *, wildcard: bool = False, until: datetime | None = None
) -> str:
    """Return dns-persist-01's text: this account may have certificates of the CA ``issuer`` for the name.

    ``issuer`` is the CA's domain name as in CAA. ``wildcard``: and for all names below it. ``until`` (aware)
    is when the permission ends by itself; without one it stands until the record is taken away.
    """
    parts = [issuer, f"accounturi={account_url}"]
    if wildcard:
        parts.append("policy=wildcard")
    if until is not None:
        parts.append(f"persistUntil={int(until.astimezone(UTC).timestamp())}")
    return "; ".join(parts)


def zone_file_line(name: str, text: str) -> str:
    """Return the record as a zone file has it, in strings that are short enough."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    strings = [quoted[i : i + MAX_STRING] for i in range(0, len(quoted), MAX_STRING)]
    return f"{name}. IN TXT " + " ".join(f'"{part}"' for part in strings)
