"""YAML with its lines: plain values, and where in the file each of them begins."""

import json
import re
from typing import Any

import yaml

SHOWN_CHARACTERS = 100

Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can hold themselves, and which make a line's error appear elsewhere."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-pyyaml
            raise yaml.MarkedYAMLError(problem="aliases are not read here", problem_mark=mark)
        return super().compose_node(parent, index)


class Reader:
    """YAML to plain values, remembering on which line each begins; what YAML would let pass is an error."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {(): 1}
        self.errors: list[tuple[int, str]] = []

    def read(self, text: str) -> Any:
        """Return the document as plain values; `lines` and `errors` are filled meanwhile."""
        self._loader = _Loader(text)
        try:
            node = self._loader.get_single_node()
            return None if node is None else self._plain(node, ())
        finally:
            self._loader.dispose()

    def _plain(self, node: yaml.Node, place: Place) -> Any:
        if place not in self.lines:
            self.lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, index)) for index, item in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            # The text as written: YAML would make a boolean of `on` and a number of `12`.
            key = str(key_node.value)
            here = (*place, key)
            if key in values:
                first = self.lines[here]
                twice = f"{dotted(here)}: is there twice (line {line}); the first is on line {first}"
                self.errors.append((line, twice))
                continue
            self.lines[here] = line
            values[key] = self._plain(value, here)
        return values


def dotted(place: Place) -> str:
    """Write a place as ``secrets.www.domains[0]``."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}"
        else:
            text += f"[{shown(part)}]"
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """Write a value as the file might, on one line and not too long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def problem(error: Exception) -> str:
    """Say what is wrong with the syntax, and on which line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return str(error)
