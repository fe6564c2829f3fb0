"""Certification Authority Authorization: may a CA issue for a name (RFC 8659, RFC 8657)? Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CRITICAL: Final = 128
"""The bit of ``flags`` that forbids issuing where the tag is not understood (RFC 8659 section 4.1)."""

KNOWN_TAGS: Final = frozenset({"issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail"})


@dataclass(frozen=True, slots=True)
class Caa:
    """One record, such as ``0 issue "ca.example; validationmethods=dns-01"``."""

    flags: int
    tag: str
    value: str

    @property
    def issuer(self) -> str:
        """The domain that names the CA; empty: nobody."""
        return self.value.partition(";")[0].strip().lower()

    @property
    def parameters(self) -> dict[str, str]:
        """What else the record asks for (section 4.2), by its name in lower case."""
        pairs = (part.partition("=") for part in self.value.split(";")[1:])
        return {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}

    def __str__(self) -> str:
        return f'{self.flags} {self.tag} "{self.value}"'


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a CA may issue, and why."""

    allowed: bool
    reason: str


def judge(
    records: Sequence[Caa],
    *,
    wildcard: bool,
    identities: Sequence[str],
    method: str,
    account_url: str | None = None,
) -> Judgement:
    """Say whether the relevant records (those of the nearest ancestor that has any) let a CA issue.

    ``identities`` are the domains by which the CA knows itself (``caaIdentities`` of its directory);
    ``method`` is the challenge that is going to be answered. ``account_url`` None: the account is not known
    yet, and a record that is bound to one is believed to mean ours.
    """
    for record in records:
        if record.flags & CRITICAL and record.tag.lower() not in KNOWN_TAGS:
            return _no(f"{record} is critical, and CAs that do not know it must not issue")
    wild = [record for record in records if record.tag.lower() == "issuewild"]
    issue = [record for record in records if record.tag.lower() == "issue"]
    relevant = wild if wildcard and wild else issue
    if not relevant:
        return _yes("no record restricts who may issue")
    if not identities:
        return _no(f"{_listed(relevant)}: the CA does not say by which name it is allowed")
    ours = [record for record in relevant if record.issuer in {name.lower() for name in identities}]
    if not ours:
        return _no(f"{_listed(relevant)} does not allow {' or '.join(identities)}")
    refusals = [refusal for record in ours if (refusal := _refusal(record, method, account_url)) is not None]
    if len(refusals) == len(ours):
        return _no(refusals[0])
    return _yes(f"{_listed(ours)} allows it")


def _yes(reason: str) -> Judgement:
    return Judgement(allowed=True, reason=reason)


def _no(reason: str) -> Judgement:
    return Judgement(allowed=False, reason=reason)


def _refusal(record: Caa, method: str, account_url: str | None) -> str | None:
    """Return what of the record (RFC 8657) forbids this way of asking."""
    parameters = record.parameters
    methods = parameters.get("validationmethods")
    if methods is not None and method not in {name.strip() for name in methods.split(",")}:
        return f"{record} allows the methods {methods}, not {method}"
    account = parameters.get("accounturi")
    if account is not None and account_url is not None and account != account_url:
        return f"{record} is for the account {account}, not for {account_url}"
    return None


def _listed(records: Sequence[Caa]) -> str:
    return ", ".join(str(record) for record in records)
