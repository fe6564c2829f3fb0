"""The architecture as docs/architecture.md draws it, held against every import, and a few rules of the tree.

The page's tables are the rules: what they say is parsed here, so that page and code cannot differ.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

import acme_engine

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("acme_engine", "sds_server")

PURE_LAYER = 2
PURE = {"cryptography", *sys.stdlib_module_names} - {
    # What waits, talks or looks at the machine.
    *("asyncio", "concurrent", "multiprocessing", "select", "selectors", "signal", "threading"),
    *("ftplib", "http", "smtplib", "socket", "socketserver", "ssl", "urllib"),
    *("ctypes", "pathlib", "shutil", "subprocess", "tempfile", "time"),
}

MAKEFILE_LINES = 40

POSSESSIVE = re.compile(r"\br[bf]?\"[^\"]*(?:(?<!\\)[*+?}]\+|\(\?>)")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|Users|root|work|mnt|private)/[\w.-]")
"""A path of somebody's machine; not an address such as https://example.com/work/."""


# ---------------------------------------------------------------- the page


def _table(heading: str) -> Sequence[Sequence[str]]:
    """Return the rows of the table whose first column has this heading, without the heading."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def _quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def layers() -> Mapping[str, int]:
    """Return pattern -> layer; a pattern is a module or ``package.*``, as written from `sds_server`."""
    return {pattern: int(row[0]) for row in _table("Layer") for pattern in _quoted(row[1])}


@cache
def sideways() -> frozenset[tuple[str, str]]:
    """Return the (package, package) of one layer of which the first may import the second."""
    pairs = [pair for row in _table("Layer") for pair in _quoted(row[3])]
    return frozenset((a, b) for a, b in (pair.split(" > ") for pair in pairs))


@cache
def homes() -> Mapping[str, tuple[str, ...]]:
    """Return library -> the only modules and packages that may import it."""
    return {library: tuple(_quoted(row[1])) for row in _table("Library") for library in _quoted(row[0])}


@cache
def drawn() -> frozenset[str]:
    """Return the files of the tree as it is drawn."""
    block = PAGE.read_text().split("## Tree", 1)[1].split("```")[1]
    files, open_directories = set(), []
    for line in filter(str.strip, block.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        open_directories[depth:] = [name]
        if not name.endswith("/"):
            files.add("".join(open_directories))
    return frozenset(files)


# ---------------------------------------------------------------- the code


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
CODE = {name: path for name, path in MODULES.items() if path.read_text().strip()}
"""Modules that hold anything: an `__init__` that is no public API is empty."""


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of each import, lazy ones and those for type checkers too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute"
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield node.lineno, member if member in MODULES else str(node.module)


def short(name: str) -> str:
    """Return the name as the page writes it."""
    return name.removeprefix("sds_server.")


def package(name: str) -> str:
    return short(name).split(".")[0]


def layer(name: str) -> int | None:
    """Return the module's layer: its own line in the table, else its package's."""
    return layers().get(short(name), layers().get(f"{package(name)}.*"))


def within(name: str, homes: Sequence[str]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in (*homes, *map(_full, homes)))


def _full(home: str) -> str:
    return home if home in PACKAGES else f"sds_server.{home}"


# ---------------------------------------------------------------- imports


@pytest.mark.parametrize("name", CODE)
def test_every_module_has_a_layer(name):
    assert layer(name) is not None, f"{name}: give it a layer in {PAGE.name}"


def test_every_line_of_the_table_is_about_a_module_that_exists():
    known = {short(name) for name in CODE} | {f"{package(name)}.*" for name in CODE}

    assert set() == set(layers()) - known


@pytest.mark.parametrize("name", CODE)
def test_imports_point_down(name):
    """To a lower layer, within the package, or along a pair that the table names."""
    wrong = []
    for line, target in imports(name):
        if target not in CODE:
            continue
        own, other = layer(name), layer(target)
        beside = own == other and (
            package(name) == package(target) or (package(name), package(target)) in sideways()
        )
        if not (own > other or beside):
            wrong.append(f"{MODULES[name]}:{line}: layer {own} imports {target} of layer {other}")

    assert [] == wrong


def test_every_sideways_import_of_the_table_is_one():
    """What the table allows and nobody does is crossed out."""
    done = {(package(name), package(target)) for name in CODE for _, target in imports(name)}

    assert set() == sideways() - done


@pytest.mark.parametrize("name", [name for name in CODE if layer(name) == PURE_LAYER])
def test_a_pure_module_imports_nothing_that_does_io(name):
    foreign = {target for _, target in imports(name) if target.split(".")[0] not in PACKAGES}

    assert set() == {target for target in foreign if target.split(".")[0] not in PURE}


@pytest.mark.parametrize("library", homes())
def test_a_library_stays_where_it_belongs(library):
    strays = [
        f"{MODULES[name]}:{line}"
        for name in CODE
        if not within(name, homes()[library])
        for line, target in imports(name)
        if target.split(".")[0] == library
    ]

    assert [] == strays, f"{library} is imported outside of {', '.join(homes()[library])}"


def test_the_product_does_not_know_its_tests():
    foreign = {target.split(".")[0] for name in CODE for _, target in imports(name)}

    assert set() == foreign & {"benchmarks", "pytest", "scripts", "tests"}


# ---------------------------------------------------------------- the tree


def test_the_tree_is_drawn_as_it_is():
    """One line a module, and no line for what is gone."""
    files = {str(path.relative_to(ROOT)) for path in CODE.values()} | {
        str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.sql")
    }

    assert files == drawn()


def test_an_init_is_a_public_api_or_empty():
    assert {"acme_engine"} == {name for name, path in CODE.items() if path.name == "__init__.py"}


def test_the_public_api_of_the_engine_is_what_it_lists():
    """All that `acme_engine` imports for others is in `__all__`, and nothing else."""
    tree = ast.parse(MODULES["acme_engine"].read_text())
    bound = {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}

    assert bound == set(acme_engine.__all__)
    assert len(acme_engine.__all__) == len(bound)


def test_the_makefile_stays_small():
    """It starts uv and holds no logic."""
    assert len((ROOT / "Makefile").read_text().splitlines()) <= MAKEFILE_LINES


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see " + "/home/" + "ada/certvoy", True),
        ("'/root/" + ".cache'", True),
        ("https://example.com/work/plan", False),
        ("team/work/www", False),
        ("~/work/x", False),
    ],
)
def test_a_machine_path_is_known_when_seen(text, found):
    assert found == bool(MACHINE_PATH.search(text))


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    wrong = [
        f"{path.relative_to(ROOT)}: {match[0]}..."
        for path in _tracked()
        if (match := MACHINE_PATH.search(path.read_text(errors="replace")))
    ]

    assert [] == wrong


def test_no_pattern_repeats_a_group_possessively():
    """Python 3.11.2, Debian 12's, finds nothing by ``(?:(?!x).)*+``: no CRL was one, tokens were logged."""
    wrong = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in _tracked()
        if path.suffix == ".py"
        for line in path.read_text().splitlines()
        if POSSESSIVE.search(line)
    ]

    assert [] == wrong


def _tracked() -> Sequence[Path]:
    """Return the repository's files; where there is no git, what an unpacked archive holds of them."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    else:
        ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
        paths = [path for path in ROOT.rglob("*") if not ignored & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]
