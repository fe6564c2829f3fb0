"""A client's refusal text, made safe to keep and show.

Envoy 1.40 puts the whole Secret into `error_detail` when a message fails its validation rules: the private
key in clear, as text format, as JSON or inside the bytes of an `Any`. Until scrubbed, the text is secret.
"""

import re

MAX_INPUT = 16 * 1024  # the reason stands at the beginning; what follows is the dump
MAX_DETAIL = 2 * 1024
REMOVED = "<removed>"

_ESCAPED_NEWLINE = re.compile(r"\\+(?:r\\+)?n")
_PEM = re.compile(r"-----BEGIN.*?(?:-----END[^-]*-----|\Z)", re.DOTALL)
_STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)'  # text cut within a value has no closing quote
_VALUE = re.compile(
    r'"?\b(inline_?(?:bytes|string)|value|keys|secret|password)"?\s*:\s*' + _STRING, re.DOTALL | re.IGNORECASE
)
_RUN = re.compile(r"[A-Za-z0-9+/_=-]{40,}|(?:\\+(?:x[0-9a-fA-F]{2}|[0-7]{3})){4,}")  # encoded bytes


def scrub(detail: str) -> str:
    """Return the first line without PEM blocks, field values and anything that looks like encoded bytes.

    The first line holds the reason, ``caused by`` chain included; a dump in text format starts on the next.
    """
    text = _PEM.sub(REMOVED, detail[:MAX_INPUT])
    text = _ESCAPED_NEWLINE.sub("\n", text) if "BEGIN" in text else text
    text = _VALUE.sub(lambda match: f"{match[1]}: {REMOVED}", text)
    text = _RUN.sub(REMOVED, text)
    first, *_ = text.strip().splitlines() or [""]
    return "".join(c if c.isprintable() else " " for c in first)[:MAX_DETAIL]
