"""The vocabulary of the audit is the one that the code speaks: nothing is audited under another name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds_server.audit.actions import ACTIONS, NAMES
from sds_server.inventory import audit

ROOT = Path(__file__).resolve().parents[2]
CALLS = {"append", "append_bounded", "_tell", "note", "count"}
CODE = [path for path in sorted((ROOT / "sds_server").rglob("*.py")) if path.name != "audit_actions.py"]


def _said(node: ast.expr) -> Iterator[str]:
    """Return what an expression can be; of one that is put together its beginning, with a star."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from _said(node.body)
            yield from _said(node.orelse)
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            yield f"{text}*"


def _spoken() -> tuple[dict[str, set[str]], set[str]]:
    """Return what is given as an action, or, as ``_tell`` has it, stands where one is; and all the texts."""
    found: dict[str, set[str]] = {}
    words = set()
    for path in CODE:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Constant) and isinstance(call.value, str):
                words.add(call.value)
            if not isinstance(call, ast.Call):
                continue
            match call.func:
                case ast.Name(id=name) | ast.Attribute(attr=name) if name in CALLS:
                    pass
                case _:
                    continue
            actions = [keyword.value for keyword in call.keywords if keyword.arg == "action"]
            if name == "_tell" and "inventory" in path.parts:
                actions += call.args[2:3]
            if name in {"note", "count"} and path.name == "bookkeeper.py":
                actions += call.args[:1]
            for action in actions:
                for text in _said(action):
                    found.setdefault(text, set()).add(f"{path.relative_to(ROOT)}:{call.lineno}")
    return found, words


SPOKEN, WORDS = _spoken()


def _is_known(action: str) -> bool:
    if action.endswith("*"):
        return any(name.startswith(action[:-1]) for name in NAMES)
    return action in NAMES


def test_the_code_speaks_only_words_of_the_table():
    strays = {name: places for name, places in SPOKEN.items() if not _is_known(name)}

    assert {} == strays, "give it a line in sds_server/audit/actions.py"


def test_the_table_has_no_word_that_nobody_speaks():
    put_together = tuple(name[:-1] for name in SPOKEN if name.endswith("*"))
    unspoken = {name for name in NAMES - WORDS if not name.startswith(put_together)}

    assert set() == unspoken, "cross it out in sds_server/audit/actions.py"


def test_each_word_stands_once_in_dotted_lower_case():
    names = [action.name for action in ACTIONS]

    assert sorted(set(names)) == sorted(names)
    assert [] == [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)]


async def test_an_action_that_nobody_could_look_up_is_not_written():
    with pytest.raises(ValueError, match=r"secret\.stolen is no action"):
        await audit.append(None, action="secret.stolen", actor="person:test", subject="www")
