"""What an agent answers to a push, read from what may be anything: the body of a report. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from sds_server.inventory.reports import Said
from sds_server.model import TargetKind
from sds_server.xds.scrub import scrub

ADDRESS_MAX: Final = 300
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class Unreadable(ValueError):
    """It is no report; the message quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a pair: see `reports.Report`. ``refusal`` is scrubbed.

    ``kind``: which program serves it; None: it does not say, or says what is none.
    """

    said: Said
    kind: TargetKind | None
    generation: int
    fingerprints: tuple[str, ...]
    refusal: str | None
    address: str | None


def read(body: bytes) -> Answer:
    """Read an agent's answer.

    Raises:
        Unreadable: it is none, or says too little.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(content, dict):
        raise Unreadable("it is no report")
    said = content.get("state")
    if not isinstance(said, str) or said not in set(Said):
        raise Unreadable("its state is none of accepted, proved, refused")
    generation = content.get("generation")
    if type(generation) is not int or generation < 1:
        raise Unreadable("it does not say of which generation")
    prints = tuple(_fingerprint(content, key) for key in ("fingerprint", "served_fingerprint"))
    if said == Said.PROVED and prints[1] is None:
        raise Unreadable("proved needs served_fingerprint")
    refusal = scrub(" ".join(_text(content, "detail").split())) if said == Said.REFUSED else None
    if refusal == "":
        raise Unreadable("refused needs a detail: why")
    address = _text(content, "address")[:ADDRESS_MAX]
    return Answer(
        said=Said(said),
        kind=_kind(content),
        generation=generation,
        fingerprints=tuple(print_ for print_ in prints if print_ is not None),
        refusal=refusal,
        address=address if address and address.isascii() and address.isprintable() else None,
    )


def words(body: bytes) -> str:
    """Return the words of an error (problem+json), safe to keep; empty: it has none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    detail = content.get("detail") if isinstance(content, dict) else None
    return scrub(" ".join(detail.split())) if isinstance(detail, str) else ""


def _kind(content: dict[str, Any]) -> TargetKind | None:
    said = _text(content, "kind")
    # An Envoy fetches, and is pushed nothing.
    return TargetKind(said) if said in {*TargetKind} - {TargetKind.ENVOY} else None


def _fingerprint(content: dict[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not _FINGERPRINT.fullmatch(value):
        raise Unreadable(f"its {key} is no SHA-256 in hex")
    return value


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""
