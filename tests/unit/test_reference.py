"""The reference pages are those that the code writes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts import reference  # noqa: E402

FOLDER = ROOT / "docs" / "reference"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # envoy-data-plane decorates in an old way
@pytest.mark.parametrize("name", reference.PAGES)
def test_the_committed_page_is_that_of_the_code(name):
    assert (FOLDER / name).read_text() == reference.PAGES[name](), "run `make reference`"


def test_there_is_no_page_that_nothing_writes():
    assert {*reference.PAGES, "openapi.json"} == {path.name for path in FOLDER.iterdir()}


def test_the_pages_do_not_depend_on_where_and_how_wide_they_are_written(tmp_path):
    """Written by a process of its own, elsewhere, in a narrow terminal, by another user's locale."""
    script = "from scripts.reference import PAGES; print('\\0'.join(page() for page in PAGES.values()))"
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "30", "LC_ALL": "C.UTF-8", "HOME": str(tmp_path)}
    written = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "\0".join((FOLDER / name).read_text() for name in reference.PAGES) + "\n" == written
