"""A YAML file read into models that cannot be wrong: every error at once, with its line and a next step."""

import difflib
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from sds_server.config.descriptions import descriptions
from sds_server.config.values import File, Wrong, spelt
from sds_server.config.yaml_lines import Place, Reader, dotted, problem, shown
from sds_server.errors import ConfigError


class Model(BaseModel):
    """A section of a file: unknown keys are errors, and a line below a key is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        """Describe each key."""
        described = handler(core_schema)
        keys = handler.resolve_ref_schema(described).get("properties", {})
        for name, words in descriptions(cls).items():
            if name in keys:  # what the type says of itself is of less use here
                keys[name]["description"] = words
        return described


Whole = TypeVar("Whole", bound=Model)
Sections = Mapping[tuple[str, ...], type[Model]]
"""Where each model stands, without the names or numbers below the first key; `("",)` is the whole."""


def read(
    path: Path,
    model: type[Whole],
    *,
    context: Callable[[Mapping[str, Any]], File],
    sections: Sections,
    begin: str,
) -> Whole:
    """Read the file. ``context`` is made of what it holds; ``begin`` is the first line of a good one.

    Raises:
        ConfigError: the message holds all errors, one a line: ``path: message (line N); next step``.
    """
    reader = Reader()
    try:
        with path.open(encoding="utf-8") as file:
            raw = reader.read(file.read())
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}", hint="name a file that exists") from e
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a date in month 13, bytes that are not UTF-8
        raise ConfigError(f"{path} is not YAML: {problem(e)}", hint="mend its syntax") from e
    errors = reader.errors
    if isinstance(raw, dict):
        try:
            whole = model.model_validate(raw, context=context(raw))
        except ValidationError as e:
            errors += [_error(detail, reader.lines, sections) for detail in e.errors()]
    else:
        errors.append((1, f"{path}: must hold keys and values (line 1); begin with `{begin}`"))
    if errors:
        raise ConfigError("\n".join(text for _, text in sorted(errors)), hint=f"mend {path} and try again")
    return whole


def with_durations(described: dict[str, Any], *models: type[Model]) -> None:
    """Write the defaults of durations into a JSON Schema as they are written in a file."""
    for model in models:
        properties = described["$defs"][model.__name__]["properties"]
        for name, field in model.model_fields.items():
            if isinstance(field.default, timedelta):
                properties[name]["default"] = spelt(field.default)


def _error(detail: ErrorDetails, lines: Mapping[Place, int], sections: Sections) -> tuple[int, str]:
    place = tuple(part for part in detail["loc"] if part != "[key]")
    known = place
    while known not in lines:
        known = known[:-1]
    message, hint = _explained(detail, place, sections)
    line = lines[known]
    return line, f"{dotted(place)}: {message} (line {line}); {hint}"


def _explained(detail: ErrorDetails, place: Place, sections: Sections) -> tuple[str, str]:
    """Return what is wrong and what to do."""
    context = detail.get("ctx", {})
    if isinstance(wrong := context.get("error"), Wrong):
        return str(wrong), wrong.hint
    if detail["type"] == "extra_forbidden":
        return "unknown key", _known_keys(place, sections)
    message, hint = _EXPLAINED.get(detail["type"], (detail["msg"], "correct the value"))
    if detail["type"] == "string_type" and detail["input"] is None:
        hint = "write it behind the colon"
    return message.format(got=shown(detail["input"]), **context), hint


_EXPLAINED = {  # pydantic's words for a reader of its documentation, in those of a reader of the file
    "missing": ("is missing", "add it"),
    "string_too_short": ("is empty", "write something"),
    "string_type": ("must be text, got {got}", "put it in quotes"),
    "bool_type": ("must be true or false, got {got}", "choose one of them"),
    "literal_error": ("must be {expected}, got {got}", "choose one of them"),
    "enum": ("must be {expected}, got {got}", "choose one of them"),
    "model_type": ("must hold keys and values, got {got}", "indent them below it"),
    "dict_type": ("must hold keys and values, got {got}", "indent them below it"),
    "mapping_type": ("must hold keys and values, got {got}", "indent them below it"),
    "tuple_type": ("must be a list, got {got}", "write [a, b], or one `- a` a line"),
}


def _known_keys(place: Place, sections: Sections) -> str:
    top, *rest = place[:-1] if len(place) > 1 else ("",)
    # Below the first key stands a name of the user's own, or, in a list, a key and a number.
    keys_below = [str(part) for part in rest if isinstance(part, str)]
    inner = keys_below[1:] if len(keys_below) == len(rest) else keys_below
    keys = sorted(sections[str(top), *inner].model_fields)
    close = difflib.get_close_matches(str(place[-1]), keys, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(keys)}"
