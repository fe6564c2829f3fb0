"""What a roll-out does next: wait, ask another canary, fan out, go back, complete. Pure, with its reasons.

A new Certificate is offered to a few Targets first, the canaries; all others keep the one before until those
have been seen to serve the new one. What a Target says counts by whose voice it is: an identity may name as
many nodes as it likes and still has one, so that one broken or hostile proxy can veto nobody's renewal. A
Target that cannot be reached says nothing, and never takes anything back.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Final

from acme_engine import backoff
from sds_server.model import Proof, Stage, TargetId

CANARY_SHARE: Final = Fraction(1, 20)
CANARIES_MAX: Final = 20
TWO_CANARIES_FROM: Final = 4  # a fleet so large asks two at once: a refusal of one is judged without delay

PATIENCE: Final = timedelta(seconds=10)
"""A canary that says nothing for so long is passed over, and another asked: it may be off, or cut off."""

SWITCHING: Final = timedelta(milliseconds=750)
"""A proxy that took a Certificate serves it within milliseconds. A handshake that shows the one before after
this time means that it does not: it is offered the Certificate again, as other bytes, and the same after as
long again counts as a refusal. Twice that, and a second canary, stay under 5 s."""

REFUSERS_MIN: Final = 2
REFUSERS_SHARE: Final = Fraction(1, 20)


class Standing(StrEnum):
    """What is known of a Target about the new Certificate."""

    PROVED = "proved"
    ACCEPTED = "accepted"  # it said yes, and nobody can look
    REFUSED = "refused"
    DIFFERENT = "different"  # it said yes twice, and serves the one before
    SILENT = "silent"


class WayBack(StrEnum):
    """Whether the Certificate before can be gone back to."""

    OPEN = "open"
    NEARING_END = "nearing-end"  # past its renewal floor: going back could end in an outage
    NONE = "none"  # there is none, or it is expired, revoked or compromised


class Action(StrEnum):
    """What is done."""

    WAIT = "wait"
    ASK_MORE = "ask-more"  # these Targets are canaries as well
    FAN_OUT = "fan-out"
    ROLL_BACK = "roll-back"
    ASK_OPERATOR = "ask-operator"
    COMPLETE = "complete"
    COMPLETE_UNOBSERVED = "complete-unobserved"


REFUSING: Final = frozenset({Standing.REFUSED, Standing.DIFFERENT})


@dataclass(frozen=True, slots=True)
class Voice:
    """A Target of the live set, and what it says.

    ``speaker`` is whose voice it is. ``witness``: it is known to serve the Certificate before, so that its
    word about the new one tells something about that. ``asked_for``: how long it has been a canary; None: it
    is none.
    """

    target: TargetId
    speaker: str
    standing: Standing
    witness: bool
    asked_for: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision depends on.

    ``known``: an empty live set may be believed. ``overruled``: an operator said to go on despite refusals.
    """

    stage: Stage
    voices: Sequence[Voice]
    proof: Proof
    way_back: WayBack
    known: bool
    frozen: bool = False
    overruled: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, why (a fixed word for logs and the audit), and which Targets it is about."""

    action: Action
    reason: str
    targets: tuple[TargetId, ...] = ()


def first_canaries(voices: Sequence[Voice], order: Iterable[TargetId]) -> tuple[TargetId, ...]:
    """Return who is asked first, in this order; nobody: there is no fleet, or nobody knows the one before."""
    if len(voices) < 2 or not any(voice.witness for voice in voices):  # noqa: PLR2004 - one is no fleet
        return ()
    least = 1 if len(voices) < TWO_CANARIES_FROM else 2
    count = min(max(least, math.ceil(len(voices) * CANARY_SHARE)), CANARIES_MAX)
    return _candidates([voice for voice in voices if voice.witness], order)[:count]


def decide(situation: Situation) -> Decision:
    """Say what is done next."""
    if situation.frozen:
        return Decision(Action.WAIT, "frozen")
    return _canary(situation) if situation.stage is Stage.CANARY else _fleet(situation)


def pause(attempts: int) -> timedelta:
    """How long a Rotation waits whose Certificate was rejected: each one cost the CA an order."""
    return backoff.ATTEMPTS[attempts - 1] if attempts <= len(backoff.ATTEMPTS) else backoff.DAILY


def _canary(situation: Situation) -> Decision:
    if situation.way_back is WayBack.NONE or situation.overruled:
        return Decision(Action.FAN_OUT, "overruled" if situation.overruled else "no-way-back")
    asked = [voice for voice in situation.voices if voice.asked_for is not None]
    count = _count(asked, situation)
    no = _refusers(asked)
    if count.refusing >= min(REFUSERS_MIN, count.all) and count.refusing > count.agreeing:
        return _back(situation, "canaries-refused", no)
    yes = [voice for voice in asked if _enough(voice, situation.proof)]
    silent = [voice for voice in asked if voice not in yes and voice not in no]
    patient = [voice for voice in silent if (voice.asked_for or timedelta()) < PATIENCE]
    if count.agreeing > count.refusing and not patient:
        return Decision(Action.FAN_OUT, "canaries-proved", _ids(yes))
    hurried = situation.way_back is WayBack.NEARING_END
    if no or (silent and not patient) or not asked:
        others = [voice for voice in situation.voices if voice.asked_for is None]
        more = _candidates(others, [voice.target for voice in sorted(others, key=_by_witness)])[:1]
        if more:
            return Decision(Action.ASK_MORE, "canary-refused" if no else "canary-silent", more)
        if yes or hurried or not asked:
            why = "canaries-divided" if yes else "end-nears" if hurried else "nobody-to-ask"
            return Decision(Action.FAN_OUT, why)
    return Decision(Action.WAIT, "canaries", _ids([*silent, *no]))


def _fleet(situation: Situation) -> Decision:
    voices, proof = situation.voices, situation.proof
    if not voices:
        if situation.known:
            return Decision(Action.COMPLETE_UNOBSERVED, "no-target")
        return Decision(Action.WAIT, "live-set-unknown")
    count = _count(voices, situation)
    limit = min(max(REFUSERS_MIN, math.ceil(count.all * REFUSERS_SHARE)), count.all)
    if count.refusing >= limit and not situation.overruled:
        return _back(situation, "targets-refused", _refusers(voices))
    missing = [voice for voice in voices if not _enough(voice, proof)]
    if _share_reached(voices, proof):
        return Decision(Action.COMPLETE, "quorum" if missing else "all")
    return Decision(Action.WAIT, "targets", _ids(missing))


@dataclass(frozen=True, slots=True)
class _Count:
    """How many say what, and how many there are."""

    refusing: int
    agreeing: int
    all: int


def _count(some: Sequence[Voice], situation: Situation) -> _Count:
    """Count what some of the live set say: a speaker once, by what more of its own Targets say.

    Where all of the live set are one speaker's, as in a mesh whose pods share an identity, its Targets count.
    """
    everybody = {voice.speaker for voice in situation.voices}
    votes: dict[str, int] = {}
    refusing = agreeing = 0
    for voice in some:
        vote = _enough(voice, situation.proof) - (voice.standing in REFUSING)
        votes[voice.speaker] = votes.get(voice.speaker, 0) + vote
        agreeing, refusing = agreeing + (vote > 0), refusing + (vote < 0)
    if len(everybody) == 1:
        return _Count(refusing, agreeing, len(situation.voices))
    said = votes.values()
    return _Count(sum(vote < 0 for vote in said), sum(vote > 0 for vote in said), len(everybody))


def _share_reached(voices: Sequence[Voice], proof: Proof) -> bool:
    """Whether the share is proved: of the Targets, and of the speakers too, each with its own.

    So nobody reaches it with nodes that it has made up.
    """
    of: dict[str, list[bool]] = {}
    for voice in voices:
        of.setdefault(voice.speaker, []).append(_enough(voice, proof))

    def reached(enough: int, everybody: int) -> bool:
        return enough * 100 >= proof.percent * everybody

    speakers = sum(reached(sum(own), len(own)) for own in of.values())
    return reached(sum(map(sum, of.values())), len(voices)) and reached(speakers, len(of))


def _back(situation: Situation, reason: str, refusers: Sequence[Voice]) -> Decision:
    match situation.way_back:
        case WayBack.OPEN:
            return Decision(Action.ROLL_BACK, reason, _ids(refusers))
        case WayBack.NEARING_END:
            return Decision(Action.ASK_OPERATOR, reason, _ids(refusers))
        case WayBack.NONE:
            return Decision(Action.WAIT, "no-way-back", _ids(refusers))


def _enough(voice: Voice, proof: Proof) -> bool:
    return voice.standing is Standing.PROVED or (proof.accepted and voice.standing is Standing.ACCEPTED)


def _refusers(voices: Iterable[Voice]) -> list[Voice]:
    return [voice for voice in voices if voice.standing in REFUSING]


def _candidates(voices: Sequence[Voice], order: Iterable[TargetId]) -> tuple[TargetId, ...]:
    """Return Targets in this order, but a second one of a speaker behind the first ones of all."""
    by_target = {voice.target: voice for voice in voices}
    heard: dict[str, int] = {}
    ranked: list[tuple[int, TargetId]] = []
    for target in order:
        if (voice := by_target.get(target)) is not None:
            rank = heard[voice.speaker] = heard.get(voice.speaker, -1) + 1
            ranked.append((rank, target))
    return tuple(target for _, target in sorted(ranked, key=lambda item: item[0]))


def _by_witness(voice: Voice) -> tuple[bool, TargetId]:
    return not voice.witness, voice.target


def _ids(voices: Iterable[Voice]) -> tuple[TargetId, ...]:
    return tuple(voice.target for voice in voices)
