"""A secret as a value that shows itself to nobody: not in a message, a log, a traceback or a file.

It becomes readable by `Hidden.reveal` alone, so that a search for that word finds every place where one does.
"""

import hmac
from typing import Any, Final, Generic, Never, TypeVar

SHOWN: Final = "<secret>"

T = TypeVar("T", bytes, str)


class Hidden(Generic[T]):
    """A private key, a token, a password: bytes or text.

    ``repr``, ``str`` and every format give ``<secret>``. It is not pickled, and no JSON is made of it. A copy
    is itself, so that `dataclasses.asdict` shows no more either. Two that hide the same are equal; compared
    in constant time, and not hashed, as a hash of a short secret tells it.
    """

    __slots__ = ("_value",)
    _value: T
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: T) -> None:
        if not isinstance(value, bytes | str):
            raise TypeError(f"a secret is bytes or text, not {type(value).__name__}")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> T:
        """Return the secret itself, for whoever needs it now; it is not to be kept."""
        return self._value

    def __repr__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hidden):
            return NotImplemented
        ours, theirs = self.reveal(), other.reveal()
        return type(ours) is type(theirs) and hmac.compare_digest(_raw(ours), _raw(theirs))

    def __bool__(self) -> bool:
        return bool(self.reveal())

    def __copy__(self) -> "Hidden[T]":
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Hidden[T]":
        return self

    def __setattr__(self, name: str, _value: object) -> Never:
        raise AttributeError(f"a secret does not change: {name}")

    def __reduce_ex__(self, _protocol: object) -> Never:
        raise TypeError("a secret is not pickled: reveal it where it is needed")


def _raw(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
