"""Takes secrets out of what is logged: private keys, tokens, authorization headers, JWS, passwords. Pure.

The last line of defence, not the first: nothing logs key material on purpose. So it rather takes too much
than too little, and whatever is no plain value is looked at as the text that would be printed of it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

REMOVED: Final = "<removed>"
TEXT_MAX: Final = 32 * 1024
"""Of one value: a long traceback fits, a dump of everything does not."""

DEPTH_MAX: Final = 8
ITEMS_MAX: Final = 1000

_NAMES: Final = (
    r"(?:authorization|cookie|dek|hmac_?key|jws|passphrase|passwd|password|pgpassword|pkcs8"
    r"|private_?key|secret_?key|signature|token)"
)
_PREFIX: Final = r"(?:[\w.-]*[_.-])?"
_JWK_PRIVATE: Final = r"d|k|p|q|dp|dq|qi"  # RFC 7518 section 6

_SECRET_NAME = re.compile(rf"(?:{_PREFIX}{_NAMES}|{_JWK_PRIVATE})", re.IGNORECASE)

_QUOTE: Final = r"(?<!\\)\\*[\"']"  # JSON within JSON escapes it
_PATTERNS: Final = (
    # What is logged may be a stranger's words, and no words may hold the loop up: a pattern begins at few
    # places of any text, and none of its parts runs over the same characters from many of them.
    # A block that was cut has no end: all that follows goes with it.
    (
        re.compile(r"-----BEGIN[^-]*PRIVATE(?: |\+|%20)KEY-----.*?(?:-----END[^-]*-----|\Z)", re.DOTALL),
        REMOVED,
    ),
    # A header or a field, and not ACME's noun in the name of an event: authorization.valid.
    (re.compile(r"\b(authorization(?!\.[a-z])\W{1,8}).*", re.IGNORECASE), rf"\1{REMOVED}"),
    (re.compile(r"\b(bearer\s+)[^\s\"',]+", re.IGNORECASE), rf"\1{REMOVED}"),
    (re.compile(r"certvoy_(?:enrol_)?[A-Za-z0-9_-]{43}"), f"certvoy_{REMOVED}"),
    (re.compile(r"(?<![\w-])((?:(?!eyJ)[\w-])*)eyJ[\w-]+\.[\w-]*\.[\w-]+"), rf"\1{REMOVED}"),
    # What stands before the last @ of a word, as a password may hold any other character.
    (
        re.compile(r"(?<!\S)((?:(?!\w://[^\s/@:]*:)\S)*\w://[^\s/@:]*:)\S+@"),
        rf"\1{REMOVED}@",
    ),
    # To the last quote of the line, as one within the value cannot be told from its end, and who has printed
    # it, and how often, has chosen which quotes are escaped.
    (
        re.compile(
            rf"({_QUOTE}(?:{_PREFIX}{_NAMES}|{_JWK_PRIVATE}){_QUOTE}\s*:\s*({_QUOTE})).*[\"']", re.IGNORECASE
        ),
        rf"\1{REMOVED}\2",
    ),
    (re.compile(rf"(?<![^\W_])({_NAMES}\s*=\s*)(?:{_QUOTE}.*[\"']|[^\s&]+)", re.IGNORECASE), rf"\1{REMOVED}"),
    # No fingerprint, serial number or URL of ours has so many in a row; a bare key in base64 has.
    # Its lines may be broken, escaped, or made fit for a URL.
    (re.compile(r"(?:[A-Za-z0-9+/_=\r\n-]|\\{1,8}[nr]|%[0-9A-Fa-f]{2}){120,}"), REMOVED),
    # PKCS#8 of Ed25519 is shorter than that, and begins as no other thing does.
    (re.compile(r"MC4CAQAwBQYDK2Vw[A-Za-z0-9+/_=-]*"), REMOVED),
    # What Python prints of bytes: a key in DER has an escape every few characters.
    (
        re.compile(r"(?<!\\)(?:\\{1,8}x[0-9a-fA-F]{2}(?:[^\\\n]|\\{1,8}[^x\\\n]){0,60}){4,}"),
        REMOVED,
    ),
)


def redact(value: object, *, depth: int = 0) -> Any:
    """Return the value as plain JSON, without what looks secret in it, at any depth."""
    match value:
        case None | bool() | int():
            plain: Any = value
        case float():
            plain = value if math.isfinite(value) else str(value)
        case str():
            plain = text(value)
        case bytes() | bytearray() | memoryview():
            plain = f"<{len(value)} bytes>"
        case Mapping() | list() | tuple() | set() | frozenset() if depth >= DEPTH_MAX:
            plain = "..."
        case Mapping():
            items = list(value.items())[:ITEMS_MAX]
            plain = {text(str(key)): _named(key, item, depth) for key, item in items}
        case list() | tuple() | set() | frozenset():
            plain = _sequence(list(value)[:ITEMS_MAX], depth)
        case _:
            plain = text(_printed(value))
    return plain


def text(said: str) -> str:
    """Return the text without what looks secret in it."""
    said = said[:TEXT_MAX]
    for pattern, replacement in _PATTERNS:
        said = pattern.sub(replacement, said)
    return said


def _named(name: object, value: object, depth: int) -> Any:
    if _SECRET_NAME.fullmatch(str(name)):
        return REMOVED
    return redact(value, depth=depth + 1)


def _sequence(values: list[object], depth: int) -> list[Any]:
    match values:
        case [str() as name, value] if _SECRET_NAME.fullmatch(name):  # a header
            return [name, _named(name, value, depth)]
        case _:
            return [redact(value, depth=depth + 1) for value in values]


def _printed(value: object) -> str:
    """Return what would be printed of an object; one that cannot be printed must not end the logging."""
    try:
        return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
    except Exception:  # noqa: BLE001 - anything may go wrong in a foreign __str__
        return f"<{type(value).__name__}>"
