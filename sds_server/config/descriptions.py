"""What stands below a key of a model, as its description: read from the source when somebody asks for it.

pydantic's `use_attribute_docstrings` reads it when a class is made: a seventh of what it took to start.
"""

import ast
import functools
import inspect
from collections.abc import Mapping
from types import ModuleType


@functools.cache
def descriptions(model: type) -> Mapping[str, str]:
    """Return the docstrings below the attributes of a class, and of those that it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        module = inspect.getmodule(kind)
        if module is not None:
            found |= _of_classes(module).get(kind.__qualname__, {})
    return found


@functools.cache
def _of_classes(module: ModuleType) -> Mapping[str, Mapping[str, str]]:
    """Return those of a module's classes; of none, where there is no source."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError):
        return {}
    return {node.name: _of_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> Mapping[str, str]:
    found = {}
    for attribute, below in zip(node.body, node.body[1:], strict=False):
        match attribute, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = inspect.cleandoc(words)
    return found
