"""Private keys that can be found again: each scalar begins and ends with bytes that only canaries have.

So one look for a few patterns finds every one of them, whole or in pieces: as bare bytes, as OpenSSL holds a
number (backwards), within PKCS#8 and SEC 1, and in hex and base64 at any alignment, whatever is around it.
"""

import base64
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

_SCALAR: Final = 32
_BEGIN: Final = 12
"""In the PEM of PKCS#8 the scalar begins at the 48th character of a line of 64: so many are on that line."""

_END: Final = 12


class Canaries:
    """Makes keys, and knows them again."""

    def __init__(self) -> None:
        # Below the curve's order, which begins with 32 one-bits.
        self._begin = b"\x7f" + secrets.token_bytes(_BEGIN - 1)
        self._end = secrets.token_bytes(_END)
        self.signs: Final[Mapping[bytes, str]] = dict(self._signs())

    def key(self) -> ec.EllipticCurvePrivateKey:
        """Make one more."""
        middle = secrets.token_bytes(_SCALAR - _BEGIN - _END)
        return ec.derive_private_key(int.from_bytes(self._begin + middle + self._end), ec.SECP256R1())

    def find(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Return where in the data a piece of a key begins, and in which form it is."""
        for sign, form in self.signs.items():
            at = data.find(sign)
            while at >= 0:
                yield at, form
                at = data.find(sign, at + 1)

    def _signs(self) -> Iterator[tuple[bytes, str]]:
        for part, name in ((self._begin, "begin"), (self._end, "end")):
            yield part, f"{name}, bare"
            yield part[::-1], f"{name}, backwards"
            yield part.hex().encode(), f"{name}, hex"
            yield repr(part)[2:-1].encode(), f"{name}, escaped"
            for before in range(3):
                encoded = base64.b64encode(bytes(before) + part)
                inside = encoded[(before * 8 + 5) // 6 : (before + len(part)) * 8 // 6]
                yield inside, f"{name}, base64"
                urlsafe = base64.urlsafe_b64encode(base64.b64decode(encoded))
                yield urlsafe[(before * 8 + 5) // 6 : (before + len(part)) * 8 // 6], f"{name}, base64url"
