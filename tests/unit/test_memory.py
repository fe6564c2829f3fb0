"""This process's memory: overwritten when it is freed, where the C library can, and a look that says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sds_server import memory
from sds_server.memory import ALLOCATOR, OPT_OUT, TUNABLES, environment_for

ROOT = Path(__file__).parents[2]
WANTED = environment_for({})
LOOK = "from sds_server import memory; found = memory.look(); print(found.works, found.reason)"

glibc = pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")


def looked(environment):
    """What a process with this environment says of its memory."""
    bare = {name: value for name, value in os.environ.items() if name not in {ALLOCATOR, TUNABLES, OPT_OUT}}
    run = subprocess.run(
        [sys.executable, "-c", LOOK], env=bare | environment, capture_output=True, text=True, check=True
    )
    works, _, reason = run.stdout.strip().partition(" ")
    return works == "True", reason


@glibc
def test_what_is_freed_is_gone_with_all_that_is_wanted_of_the_allocator():
    assert (True, "None") == looked(WANTED)


@glibc
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ALLOCATOR: "malloc"},
        {TUNABLES: WANTED[TUNABLES]},
        {ALLOCATOR: "malloc", TUNABLES: "glibc.malloc.perturb=165"},
        {ALLOCATOR: "malloc", TUNABLES: "glibc.malloc.tcache_count=0"},
    ],
    ids=["nothing", "malloc", "pymalloc", "thread caches", "no perturb"],
)
def test_a_part_of_it_is_not_enough_and_the_look_says_so(environment):
    assert (False, "it began without the allocator's settings") == looked(environment)


def test_who_wants_none_of_it_is_left_alone_and_told():
    assert None is environment_for({OPT_OUT: "off"})
    assert (False, f"{OPT_OUT} is off") == looked({OPT_OUT: "off"})


def test_a_c_library_that_cannot_is_named(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    monkeypatch.setattr(memory, "_left_of_the_freed", lambda: 7)

    found = memory.look.__wrapped__()

    assert (False, "the C library is not glibc, and cannot overwrite what is freed") == (
        found.works,
        found.reason,
    )


def test_memory_that_cannot_be_looked_at_counts_as_not_overwritten(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_OWN_MEMORY", tmp_path / "mem")

    assert memory.Scrub(works=False, reason=f"{tmp_path}/mem: No such file or directory") == (
        memory.look.__wrapped__()
    )


def test_an_operators_own_tunables_stay_and_ours_win():
    theirs = {TUNABLES: "glibc.malloc.arena_max=2:glibc.malloc.perturb=1", ALLOCATOR: "pymalloc", "A": "b"}

    wanted = environment_for(theirs)

    assert "glibc.malloc.arena_max=2:glibc.malloc.perturb=165:glibc.malloc.tcache_count=0" == wanted[TUNABLES]
    assert ("malloc", "b") == (wanted[ALLOCATOR], wanted["A"])
    assert None is environment_for(wanted)


def test_what_we_start_is_told_nothing_of_it():
    environment = {**WANTED, "A": "b"}
    memory._tidy(environment)
    theirs = {TUNABLES: f"{WANTED[TUNABLES]}:glibc.malloc.arena_max=2", ALLOCATOR: "debug"}
    memory._tidy(theirs)

    assert {"A": "b"} == environment
    assert {TUNABLES: "glibc.malloc.arena_max=2", ALLOCATOR: "debug"} == theirs


GUARDED = """
import os, resource, sys
from sds_server import log, memory
sys.argv[1:] = ["serve"]
memory.scrub_on_free()
log.configure(stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_CORE, (1024, resource.getrlimit(resource.RLIMIT_CORE)[1]))
memory.guard()
print(os.getpid(), *resource.getrlimit(resource.RLIMIT_CORE), os.stat("/proc/self/mem").st_uid,
      __import__("ctypes").CDLL(None).prctl(3, 0, 0, 0, 0))
print(sorted({"PYTHONMALLOC", "GLIBC_TUNABLES"} & set(os.environ)), sys.argv)
"""


@glibc
def test_a_process_begins_once_more_as_itself_and_lets_nobody_read_it(tmp_path):
    """Its id stays, and what it has open: a parent that waits for it sees nothing."""
    (tmp_path / "program.py").write_text(GUARDED)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "program.py"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    said, _ = child.communicate(timeout=60)
    event, facts, rest = said.splitlines()

    assert ("memory.guarded", True, False) == tuple(
        json.loads(event)[key] for key in ("event", "scrub", "dumps")
    )
    assert [child.pid, 0, 0, 0, 0] == [int(fact) for fact in facts.split()]
    assert f"[] {[str(tmp_path / 'program.py'), 'serve']}" == rest
