"""Named points at which a test lets the process die as by `kill -9`; nothing at all unless asked for.

``CERTVOY_CRASHPOINT=order.saved`` kills the process when it comes there, ``order.saved:3`` the third time;
with ``CERTVOY_CRASHPOINT_SIGNAL=SIGSTOP`` it is frozen instead. A test holds this table against the code, and
kills at each of its points.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

POINTS: Final[Mapping[str, str]] = {
    # A name is asked for
    "name.creating": "Secret and Rotation of a name on demand are written and not committed",
    "name.created": "they are committed, and nobody who asked knows",
    # A Rotation begins
    "rotation.opening": "the Rotation is written and not committed",
    "rotation.claiming": "the Lease is written and not committed",
    "rotation.claimed": "the Rotation is leased, and nothing is done",
    # The order: key, account, CA
    "key.generated": "the key is in memory only",
    "key.sealed": "the key is sealed, in memory only",
    "order.planning": "sealed key and CSR are written and not committed",
    "order.planned": "sealed key and CSR are committed, and the CA knows nothing",
    "account.begun": "the account's key is committed, and the CA knows nothing",
    "account.answered": "the CA has the account, and its URL is in memory only",
    "account.ready": "the account is committed",
    # The CA's limits
    "budget.reserving": "what the order takes of the CA's limits is written and not committed",
    "budget.reserved": "what the order takes is committed, and the CA knows nothing",
    # The order at the CA
    "order.answered": "the CA has the order, and its URL is in memory only",
    "order.saved": "the order's URL is committed",
    "order.created": "the order is begun, and nothing is proved",
    "order.resumed": "the order of an earlier attempt is read from the CA",
    "token.saved": "the answer to a challenge is committed",
    "challenge.presented": "the answer can be had from any replica",
    "challenge.answered": "the CA was told to look",
    "authorization.valid": "the CA has looked, and believes",
    "finalize.saved": "the intent is committed, and the CA is not told",
    "order.finalizing": "the CSR is about to be sent",
    "finalize.answered": "the CA has issued, and we have committed nothing of it",
    "issued.saved": "the certificate's URL is committed",
    "certificate.downloaded": "the chain is in memory only, and checked by the engine",
    "chain.downloaded": "the engine has ended",
    "certificate.checked": "the content gate has passed the pair",
    "certificate.storing": "the Certificate is written and not committed",
    "certificate.stored": "the Certificate is committed, and nobody is offered it",
    # Distribution
    "pair.loaded": "chain and sealed key are read",
    "pair.opened": "the key is open in memory",
    "pair.checked": "the content gate has passed the pair again",
    "certificate.published": "the pair is in the Catalog of this replica",
    "secret.sending": "the pair is encoded for a peer, and not written",
    "secret.sent": "the pair is written to a peer's stream",
    "secret.accepted": "a peer has ACKed, and that is in memory only",
    "secret.refused": "a peer has NACKed, and that is in memory only",
    "deliveries.writing": "what the streams told is about to be written",
    "deliveries.marked": "what the streams told is written and not committed",
    "deliveries.written": "what the streams told is committed, and still held in memory",
    # Push
    "push.claimed": "a push is leased, and nothing is sent",
    "push.sending": "a bundle is about to leave for an agent",
    "push.answering": "an agent has answered, and that is in memory only",
    # Proof
    "targets.looked": "every Target was probed, and nothing of it is written",
    "delivery.proving": "a proof is written and not committed",
    "rotation.ending": "the Rotation's end is written and not committed",
    "rotation.ended": "the Rotation's end is committed",
    # The next one, to canaries first
    "canaries.asking": "who is offered it first is written and not committed",
    "rotation.fanning_out": "that all are offered it is written and not committed",
    # Targets refuse it
    "rotation.rolling_back": "what was refused is taken back, written and not committed",
    "rotation.rolled_back": "that it is taken back is committed",
    # Later: a Target that lost what it had, a key that nobody needs
    "delivery.staling": "that a Target serves something else is written and not committed",
    "delivery.healing": "that it serves what it should again is written and not committed",
    "key.destroying": "a key's destruction is written and not committed",
    # The account gets another key
    "account.key_planning": "the next key is written and not committed",
    "account.key_planned": "the next key is committed, and the CA knows nothing",
    "account.key_answered": "the CA has the next key, and we have committed nothing of it",
    "account.key_changing": "that the CA has it is written and not committed",
    "account.key_changed": "that the CA has it is committed, and whoever asked for it does not know",
    # Keys go to another KEK
    "deks.rewrapped": "a batch of data keys is wrapped anew, in memory only",
    "deks.storing": "it is written and not committed",
    "deks.stored": "it is committed, and nobody was told how far that is",
    # A pair that must not be served
    "certificate.refusing": "the content gate has refused what is in the inventory, in memory only",
    "certificate.rejecting": "the refusal is written and not committed",
    "certificate.rejected": "the refusal is committed",
    # A name that is proved by DNS
    "value.saved": "what is published is committed, and the provider knows nothing",
    "value.added": "the provider has the value, and the zone's servers may not",
    "challenge.ready": "every server of the zone has the value, and the CA is not told",
    "value.removing": "the names are proved, and what proved them is still in DNS",
    "value.withdrawn": "what an attempt left in DNS is removed, and still committed",
    "value.removed": "what proved a name is removed, and still committed",
    # A staple is fetched
    "staple.answered": "the CA's responder has answered, and that is in memory only",
    "staple.keeping": "a staple is written and not committed",
    # What is no certificate: a version is put, goes to canaries and to all
    "payload.storing": "a version, and its canaries, are written and not committed",
    "payload.stored": "a version is committed, and whoever brought it does not know",
    "payload.published": "a version is in the Catalog of this replica",
    "payload.asking": "who is offered it first is written and not committed",
    "payload.fanning_out": "that all are offered it is written and not committed",
    "payload.ending": "its end is written and not committed",
    "payload.ended": "its end is committed",
    # Targets refuse it
    "payload.rejecting": "that it is taken back is written and not committed",
    "payload.rolled_back": "that it is taken back is committed",
    # A session ticket key is due
    "tickets.made": "the next key is sealed, in memory only, and leased",
    "tickets.rotating": "the next key is written and not committed",
    "tickets.rotated": "the next key is committed",
    # Audit
    "audit.appended": "an entry is written, and its change is not committed",
    "audit.sealing": "leaves and their checkpoint are written and not committed",
    "audit.sealed": "they are committed, and the checkpoint has not left the database",
    "audit.checkpointed": "the checkpoint is in this replica's file",
}
"""The control plane's points, in the order in which a Rotation comes to them: what is so then."""

AGENT_POINTS: Final[Mapping[str, str]] = {
    # A pair comes in
    "agent.fetched": "the bundle is in memory only",
    "agent.written": "the files of the new pair are there, and nothing leads to them",
    "agent.remembered": "the one before is kept in mind, and in its place still",
    "agent.placed": "the new pair is in its place, and the program knows nothing",
    "agent.checked": "the program would take it",
    "agent.loaded": "the program was told",
    "agent.seen": "a handshake has shown what is served, and nothing of it is written",
    "agent.settled": "the new pair is proved, and the one before may go",
    "agent.reported": "the control plane knows",
    # The program does not take it
    "agent.restoring": "the program has said no, and the new pair is in its place still",
    "agent.restored": "the one before is in its place again, and the program knows nothing",
    "agent.reloaded": "the program was told of the one before",
}
"""An agent's, which has neither a database nor a CA: the conformance suite of installers kills there."""

KEY_POINTS: Final[Mapping[str, str]] = {
    "agent.key_made": "a private key is in memory only",
    "agent.key_kept": "the key is on the disk, and nobody has heard of it",
    "agent.key_requested": "the control plane has its signing request, and the agent has not noted that",
    "agent.keys_removed": "keys that nothing can ask for are gone, and the pair in its place is not settled",
}
"""An agent's whose host makes the keys; before and after those of the pair that comes of it."""

_WANTED, _, _NTH = os.environ.get("CERTVOY_CRASHPOINT", "").partition(":")
_SIGNAL: Final = signal.Signals[os.environ.get("CERTVOY_CRASHPOINT_SIGNAL", "SIGKILL")]
_visits: Final[Counter[str]] = Counter()


def _nothing(_name: str) -> None:
    """Do nothing."""


def _armed(name: str) -> None:
    _visits[name] += 1
    if name == _WANTED and _visits[name] == int(_NTH or 1):
        os.kill(os.getpid(), _SIGNAL)


crashpoint: Final[Callable[[str], None]] = _armed if _WANTED else _nothing
"""Die here, if this point is armed."""
