"""A client's refusal text, made safe to keep and show.

When a message breaks one of its rules, Envoy 1.40 puts the whole Secret into `error_detail`, the private key
in clear: a line that may say something, the dump in text format, and the reason after it on the last line.
Until scrubbed, the text is secret.
"""

import re
from typing import Final

MAX_LINE: Final = 16 * 1024  # of what is looked at
MAX_DETAIL: Final = 2 * 1024
REMOVED: Final = "<removed>"

_DUMP_MARK = re.compile(r"goo\.gle/debug\w+\s*")  # protobuf's, before a dump
_PEM = re.compile(r"-----BEGIN.*?(?:-----END[^-]*-----|\Z)", re.DOTALL)
_STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'  # text that was cut within a value has no closing quote
_VALUE = re.compile(
    r'"?\b(inline_?(?:bytes|string)|value|keys|secret|password)"?\s*:\s*' + _STRING, re.DOTALL | re.IGNORECASE
)
# A line of PEM has 64 characters; the longest word in Envoy's reasons has 43.
# Escaped often, but not so often that a run of backslashes is walked again from each of them.
_ENCODED = re.compile(r"(?:[A-Za-z0-9+/_=-]|\\{1,8}n){48,}|(?:\\{1,8}(?:x[0-9a-fA-F]{2}|[0-7]{3})){4,}")


def scrub(detail: str) -> str:
    """Return the reason only, without PEM blocks, field values and whatever looks like encoded bytes."""
    first, _, rest = detail.strip().partition("\n")
    last = rest[rest.rfind("\n") + 1 :]
    reason = last if last.startswith(": ") else ""  # newlines within the values of a dump are escaped
    text = " ".join(f"{_clean(first)}{_clean(reason)}".split())
    return "".join(c if c.isprintable() else " " for c in text).removeprefix(": ")[:MAX_DETAIL]


def _clean(line: str) -> str:
    line = _DUMP_MARK.sub("", _PEM.sub(REMOVED, line[:MAX_LINE]))
    line = _VALUE.sub(lambda match: f"{match[1]}: {REMOVED}", line)
    return _ENCODED.sub(REMOVED, line)
