"""An issuer's `limits`: the CA's own by its directory, those of another, none, or yours."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from sds_server.config.values import Wrong, duration, spelt
from sds_server.config.yaml_lines import shown
from sds_server.limits import PRESETS, Counted, Exempt, Limit, Preset

AUTO: Final = "auto"

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(.+)")
_EXEMPT: Final = {
    Counted.ORDERS: Exempt.RENEWING,
    Counted.DOMAIN: Exempt.RENEWING,
    Counted.NAMES: Exempt.REPLACING,
}
_SAID: Final = {what: limit.said for what, limit in PRESETS["letsencrypt"].limits.items()}


def _limits(raw: Any) -> Preset | None:
    if raw is None or raw == AUTO:
        return None
    if isinstance(raw, Preset):
        return raw
    if isinstance(raw, str) and raw in PRESETS:
        return PRESETS[raw]
    if not isinstance(raw, dict):
        known = ", ".join([AUTO, *PRESETS])
        raise Wrong(
            f"must be a CA's name or limits of your own, got {shown(raw)}",
            f"write one of {known}, or for example `{{orders: 300/3h, domain: 50/7d}}`",
        )
    unknown = [key for key in raw if key not in {*Counted}]
    if unknown:
        raise Wrong(f"counts no {shown(unknown[0])}", f"it counts: {', '.join(Counted)}")
    return Preset({Counted(key): _limit(Counted(key), rate) for key, rate in raw.items()})


def _limit(what: Counted, rate: Any) -> Limit:
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if found is None:
        raise Wrong(f"{what}: must be a rate, got {shown(rate)}", "write a number and a time: 50/7d, 300/3h")
    return Limit(int(found[1]), duration(found[2]), _EXEMPT.get(what, Exempt.NONE), _SAID.get(what))


def _written(preset: Preset | None) -> str | Mapping[str, str]:
    names = [name for name, known in PRESETS.items() if known is preset]
    if preset is None or names:
        return names[0] if names else AUTO
    return {what: f"{limit.count}/{spelt(limit.period)}" for what, limit in preset.limits.items()}


LimitsOf = Annotated[
    Preset | None,
    PlainValidator(_limits),
    PlainSerializer(_written),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": [AUTO, *PRESETS]},
                {
                    "type": "object",
                    "properties": {what: {"type": "string", "pattern": "^[1-9][0-9]*/"} for what in Counted},
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
