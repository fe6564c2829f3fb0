"""The vocabulary of the logs is the one that the code speaks: nothing is logged under another name."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sds_server.lifecycle.worker import WARNED
from sds_server.log_events import EVENTS

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
STEP_FIELDS = {"secret", "rotation"}
"""What the worker adds to the steps that the engine tells it of."""

TABLE = {event.name: event for event in EVENTS}


@dataclass
class Logged:
    """What the code says of one event, over all places."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    places: list[str] = field(default_factory=list)


def _dotted(node: ast.expr) -> str:
    return ast.unparse(node)


def _calls(tree: ast.AST) -> Iterator[tuple[ast.expr, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.value, node.func.attr, node


def _is_logger(node: ast.expr, bound: dict[str, set[str]]) -> bool:
    name = _dotted(node)
    return name == "_log" or name in bound


def _bound(tree: ast.AST) -> dict[str, set[str]]:
    """Return the loggers of a module that carry fields (``log = _log.bind(...)``), and which."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else []
        value = getattr(node, "value", None)
        if not targets or not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
            continue
        if value.func.attr == "bind" and _dotted(value.func.value).endswith("_log"):
            found.setdefault(_dotted(targets[0]), set()).update(k.arg or "**" for k in value.keywords)
    return found


def _extra(call: ast.Call) -> set[str]:
    """Return the call's fields; the engine, which logs by the standard library, has them in ``extra``."""
    fields = {keyword.arg or "**" for keyword in call.keywords}
    for keyword in call.keywords:
        if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
            fields = {key.value for key in keyword.value.keys if isinstance(key, ast.Constant)}
    return fields


def _level(step: str) -> str:
    return "warning" if step in WARNED else "info"


def _spoken() -> tuple[dict[str, Logged], list[str]]:
    """Return what is logged, and the places where a name is made up at run time."""
    found: dict[str, Logged] = {}
    made_up = []

    def note(name, level, fields, place):
        logged = found.setdefault(name, Logged())
        logged.levels.add(level)
        logged.fields.update(fields)
        logged.places.append(place)

    for path in sorted([*(ROOT / "sds_server").rglob("*.py"), *(ROOT / "acme_engine").rglob("*.py")]):
        text = path.read_text()
        if "_log" not in text and "on_step" not in text:
            continue
        tree = ast.parse(text)
        bound = _bound(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "on_step":
                place = f"{path.relative_to(ROOT)}:{call.lineno}"
                keys = {key.value for key in call.args[1].keys}
                note(call.args[0].value, _level(call.args[0].value), keys | STEP_FIELDS, place)
        for owner, method, call in _calls(tree):
            place = f"{path.relative_to(ROOT)}:{call.lineno}"
            first = call.args[0] if call.args else None
            if method == "_on_step" and isinstance(first, ast.Constant):
                assert isinstance(call.args[1], ast.Dict), f"{place}: write its fields as a dict"
                keys = {key.value for key in call.args[1].keys}
                note(first.value, _level(first.value), keys | STEP_FIELDS, place)
            elif method in LEVELS and _is_logger(owner, bound):
                if isinstance(first, ast.Constant):
                    note(first.value, LEVELS[method], _extra(call) | bound.get(_dotted(owner), set()), place)
                else:
                    made_up.append(place.partition(":")[0])
    return found, made_up


SPOKEN, MADE_UP = _spoken()
BY_THE_HANDLER = {"library.said"}


def test_the_code_speaks_only_words_of_the_table():
    strays = {name: logged.places for name, logged in SPOKEN.items() if name not in TABLE}

    assert {} == strays, "give it a line in sds_server/log_events*.py"


def test_the_table_has_no_word_that_nobody_speaks():
    assert set() == set(TABLE) - set(SPOKEN) - BY_THE_HANDLER, "cross it out in sds_server/log_events*.py"


@pytest.mark.parametrize("name", sorted(set(SPOKEN) & set(TABLE)))
def test_level_and_fields_are_those_of_the_table(name):
    logged, event = SPOKEN[name], TABLE[name]
    # What `Addresses` has, by ** of a dataclass, is named in the table.
    fields = logged.fields - {"**"} if "**" not in logged.fields else set(event.fields)

    assert {event.level} == logged.levels, logged.places
    assert set(event.fields) == fields, logged.places


def test_only_the_engines_steps_are_logged_under_a_name_that_comes_from_elsewhere():
    assert {"sds_server/lifecycle/worker.py"} == {*MADE_UP}


def test_each_word_stands_once_in_dotted_lower_case():
    names = [event.name for event in EVENTS]

    assert sorted(set(names)) == sorted(names)
    assert [] == [name for name in names if not re.fullmatch(r"[a-z0-9]+\.[a-z_]+", name)]
