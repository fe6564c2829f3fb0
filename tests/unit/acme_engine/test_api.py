"""The public API of the engine."""

import ast
import subprocess
import sys
from pathlib import Path

import acme_engine


def test_all_that_is_exported_exists_and_is_sorted():
    assert sorted(acme_engine.__all__) == acme_engine.__all__
    assert all(hasattr(acme_engine, name) for name in acme_engine.__all__)


def test_the_engine_knows_nothing_of_the_control_plane():
    """It stands alone: no module imports sds_server, or anything that speaks to Envoy or a database."""
    for module in Path(acme_engine.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign = {n.split(".")[0] for n in names} & {
                "sds_server",
                "envoy",
                "grpc",
                "asyncpg",
                "structlog",
            }

            assert not foreign, f"{module.name} imports {foreign}"


def test_importing_it_does_not_load_the_heavy_half_of_the_acme_library():
    """acme.messages brings requests and pyOpenSSL along: 40 MB for nothing."""
    loaded = "import sys, acme_engine; print('requests' in sys.modules, 'OpenSSL' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    ).stdout

    assert printed.split() == ["False", "False"]
