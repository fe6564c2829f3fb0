"""PEM (RFC 7468): where its blocks begin and end. Pure."""

import re
from typing import Final

# No block holds another's border: a file of beginnings without an end is walked once.
_INSIDE: Final = r"[^-]*(?:-(?!----)[^-]*)*"

BLOCK: Final = re.compile(rf"-----BEGIN ([A-Z0-9 ]+)-----{_INSIDE}-----END \1-----")

PRIVATE_KEY: Final = re.compile(
    rf"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----\r?\n{_INSIDE}-----END \1-----".encode()
)
