"""What a benchmark found: a table for people, JSON for machines, and a verdict by its own goals."""

import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

OUT: Final = Path(__file__).parent / "out"
OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
}

Figures = Mapping[str, float]
Goals = Mapping[str, tuple[str, float]]


def report(name: str, figures: Figures, goals: Goals) -> bool:
    """Print and write the result; say whether every goal was met."""
    missed = [goal for goal, (sign, number) in goals.items() if not OPERATORS[sign](figures[goal], number)]
    print(f"\n{name}")
    for figure, value in figures.items():
        sign, number = goals.get(figure, ("", 0.0))
        goal = f"{sign} {number:g}" if sign else ""
        verdict = "" if not sign else ("MISSED" if figure in missed else "ok")
        print(f"  {figure:<44} {value:>12.3f}   {goal:<10} {verdict}")
    OUT.mkdir(exist_ok=True)
    document = {"figures": dict(figures), "goals": {goal: list(rule) for goal, rule in goals.items()}}
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return not missed
