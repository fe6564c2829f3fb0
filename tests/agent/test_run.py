"""Programs that the agent runs: no shell, bounded in time, and their words made safe."""

import asyncio
import os
import signal
import sys
import time

import pytest

from sds_server.agent import command
from sds_server.agent.command import OUTPUT_MAX, run
from tests.support import pki

PYTHON = sys.executable


async def test_it_ends_well_and_says_something():
    ran = await run([PYTHON, "-c", "print('fine', file=__import__('sys').stderr)"])

    assert (True, 0, "fine") == (ran.ok, ran.code, ran.said)


async def test_arguments_are_not_read_by_a_shell(tmp_path):
    ran = await run(["echo", f"$HOME; touch {tmp_path}/made"])

    assert ran.said.startswith("$HOME; touch")
    assert [] == list(tmp_path.iterdir())


async def test_the_reason_is_on_one_line_whichever_it_stood_on():
    ran = await run([PYTHON, "-c", "print('one\\n  two\\n\\nthree'); raise SystemExit(3)"])

    assert (False, 3, "one two three") == (ran.ok, ran.code, ran.said)


async def test_a_key_in_its_words_is_taken_out():
    key = pki.key_pem(pki.new_key()).decode()
    ran = await run([PYTHON, "-c", f"print('cannot load', {key!r})"])

    assert "cannot load <removed>" == ran.said


async def test_only_the_end_of_much_is_kept():
    ran = await run([PYTHON, "-c", "print('x ' * 1_000_000 + 'the end')"])

    assert OUTPUT_MAX == len(ran.output)
    assert ran.output.endswith(b"the end\n")


async def test_one_that_is_not_there_is_named():
    ran = await run(["no-such-program"])

    assert (None, "no-such-program: there is no such program") == (ran.code, ran.said)


async def test_one_that_hangs_is_killed_with_its_children():
    program = (
        "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    )
    ran = await run([PYTHON, "-c", program], timeout_s=1.0)

    assert ran.code is None
    assert "did not end within 1 s" in ran.said
    await gone(int(ran.output))


async def test_what_it_leaves_running_is_not_waited_for():
    started = time.monotonic()
    program = "import subprocess; print(subprocess.Popen(['sleep', '120']).pid, flush=True)"
    ran = await run([PYTHON, "-c", program])

    assert ran.ok
    assert time.monotonic() - started < 60
    os.kill(int(ran.output), 9)


async def test_one_that_is_not_ours_to_kill_is_left(monkeypatch):
    """A command that goes by sudo is root's, and the agent need not be."""
    started = []

    def refuse(_group, _signal):
        raise PermissionError

    async def remembered(*argv, **how):
        started.append(await start(*argv, **how))
        return started[-1]

    start, kill = asyncio.create_subprocess_exec, os.killpg
    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)
    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(command, "KILLED_S", 0.1)
    try:
        ran = await run(["sleep", "600"], timeout_s=0.1)
    finally:
        kill(started[0].pid, signal.SIGKILL)
        await started[0].wait()  # nobody else does, and the collector would blame another test

    assert ran.code is None
    assert "did not end within" in ran.said


async def test_a_cancelled_one_is_killed(tmp_path):
    program = (
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    running = asyncio.create_task(run([PYTHON, "-c", program]))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await gone(int((tmp_path / "pid").read_text()))


async def test_our_own_settings_are_not_for_others(monkeypatch):
    monkeypatch.setenv("CERTVOY_ENROL_TOKEN", "a token")
    ran = await run(
        [PYTHON, "-c", "import os; print(sorted(k for k in os.environ if k.startswith('CERTVOY')))"]
    )
    given = await run(["printenv", "CERTVOY_SECRET"], env={"CERTVOY_SECRET": "www"})

    assert ("[]", "www") == (ran.said, given.said)


async def gone(pid):
    """Wait until nothing of that number runs."""
    async with asyncio.timeout(10):
        while True:
            try:
                with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                    if stat.read().rpartition(")")[2].split()[0] == "Z":
                        return
            except FileNotFoundError:
                return
            await asyncio.sleep(0.01)
