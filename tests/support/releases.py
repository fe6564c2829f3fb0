"""Other releases beside this one, as directories to start certvoy from."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("sds_server", "acme_engine", "migrations", "schema.sql")

TOMORROW = """
-- What an additive migration may be: a table, a column with a default, one without, an index.
CREATE TABLE tomorrow (id bigserial PRIMARY KEY, secret text NOT NULL REFERENCES secret);
ALTER TABLE certrotation ADD COLUMN tomorrow boolean NOT NULL DEFAULT false;
ALTER TABLE certificate ADD COLUMN tomorrow text;
ALTER TABLE delivery ADD COLUMN tomorrow integer NOT NULL DEFAULT 0;
CREATE INDEX certificate_tomorrow ON certificate (tomorrow);
"""


def git(*arguments: str) -> bytes | None:
    try:
        run = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=False)
    except OSError:
        return None
    return run.stdout if run.returncode == 0 else None


def migrations(commit: str) -> set[tuple[str, str]]:
    """The migrations of a commit: name and content's hash."""
    listed = git("ls-tree", "-r", commit, "--", "migrations/") or b""
    fields = (line.split() for line in listed.decode().splitlines())
    return {(Path(name).name, blob) for _, _, blob, name in fields}


def before_the_newest_migration() -> str | None:
    """The newest commit with the first of today's migrations, each as it is; None where history has none.

    Those that were worked on at a time may have come in another order than they are numbered in: a database
    never was at such a commit.
    """
    todays = {
        (path.name, (git("hash-object", str(path)) or b"").decode().strip())
        for path in (ROOT / "migrations").glob("*.sql")
    }
    for commit in (git("log", "--format=%H", "--", "migrations") or b"").decode().split():
        for candidate in (commit, f"{commit}^"):
            theirs = migrations(candidate)
            if theirs and theirs < todays and max(theirs)[0] < min(todays - theirs)[0]:
                return candidate
    return None


def this_release(_directory: Path) -> Path:
    return ROOT


def tomorrows_release(directory: Path) -> Path:
    """This one, with one more migration."""
    home = directory / "tomorrow"
    home.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, home / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, home / part)
    (home / "migrations" / "9999_tomorrow.sql").write_text(TOMORROW)
    return home


def yesterdays_release(directory: Path) -> Path:
    """What was before the newest migration."""
    home = directory / "yesterday"
    commit = before_the_newest_migration()
    assert commit is not None
    archive = git("archive", commit, *PARTS)
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # Git's own archive; Python before 3.11.4 knows no filters, and later ones want one named.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(home)
    return home
