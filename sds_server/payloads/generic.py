"""Generic secrets: bytes that a filter of Envoy's takes by name, such as an API key or an HMAC key. Pure."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from sds_server.errors import GateRefused

BYTES_MAX: Final = 64 * 1024
PARTS_MAX: Final = 100
NAME_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class GenericSecret:
    """One value, or named ones; Envoy's filters say which of both they take."""

    value: bytes | None = field(default=None, repr=False)
    parts: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read what `raw` writes."""
        fields = json.loads(raw)
        value = fields["value"]
        return cls(
            value=None if value is None else base64.b64decode(value),
            parts={name: base64.b64decode(part) for name, part in fields["parts"].items()},
        )

    @property
    def raw(self) -> bytes:
        """Return it as it is sealed."""
        value = None if self.value is None else base64.b64encode(self.value).decode()
        parts = {name: base64.b64encode(part).decode() for name, part in sorted(self.parts.items())}
        return json.dumps({"value": value, "parts": parts}).encode()


def check(secret: GenericSecret) -> None:
    """Let one pass that is neither nothing nor too much; a refusal quotes nothing of it.

    Raises:
        GateRefused: ``rule`` is empty or size.
    """
    if (secret.value is None) == (not secret.parts):
        raise GateRefused("empty", "there must be a value, or named ones", hint="send one of both")
    values = [*secret.parts.values()] if secret.value is None else [secret.value]
    if not all(values):
        raise GateRefused("empty", "a value is empty", hint="a filter would go on with nothing: send bytes")
    if len(values) > PARTS_MAX or sum(map(len, values)) > BYTES_MAX:
        said = f"at most {BYTES_MAX >> 10} KiB in {PARTS_MAX} values are taken"
        raise GateRefused("size", said, hint="keep what is larger elsewhere")
    if any(not 0 < len(name) <= NAME_MAX for name in secret.parts):
        raise GateRefused("size", f"a name must have 1 to {NAME_MAX} characters", hint="take another name")
