"""Documents, run as they stand: their `sh` blocks in order, their `text` blocks held against what came.

In a `text` block `...` stands for anything within its line; alone on a line, for any lines or none.
A command that fails ends the run, unless the page itself says what then (``|| echo "exit code $?"``).
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK_TIMEOUT_S = 240
ANYTHING = "..."

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """Lines for a shell, and what they print; None: the page does not say."""

    commands: str
    output: str | None


def section(page: Path, heading: str) -> str:
    """Return the text below a heading of the second level."""
    (text,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(text)


def blocks(text: str, language: str = "sh") -> list[str]:
    """Return what is fenced as one language."""
    return [content for name, content in _BLOCK.findall(text) if name == language]


def steps(text: str) -> list[Step]:
    """Return the `sh` blocks in order, each with the `text` block that follows it at once."""
    found: list[Step] = []
    end = 0
    for block in _BLOCK.finditer(text):
        language, content = block.groups()
        if language == "sh":
            found.append(Step(content, None))
        elif language == "text" and not text[end : block.start()].strip() and found:
            found[-1] = Step(found[-1].commands, content)
        end = block.end()
    return found


def declared(commands: str, values: Mapping[str, object]) -> str:
    """Give the variables that a block declares other values; each must be one that it declares."""
    for name, value in values.items():
        commands, count = re.subn(rf"(?m)^{name}=\S+", lambda _, n=name, v=value: f"{n}={v}", commands)
        assert count == 1, f"the block does not declare {name} once"
    return commands


def matches(pattern: str, output: str) -> bool:
    """Whether an output is what a `text` block shows."""
    lines = []
    for line in pattern.splitlines():
        parts = map(re.escape, line.split(ANYTHING))
        lines.append(r"(?:.*\n)*?" if line == ANYTHING else ".*".join(parts) + r"[ ]*\n")
    return re.fullmatch("".join(lines), output) is not None


class Shell:
    """One bash session; what it started is ended with it."""

    def __init__(self, directory: Path, *, path: Sequence[Path] = (), env: Mapping[str, str] | None = None):
        """Begin in ``directory``, with these in front of PATH."""
        self._scratch = directory.with_name(f"{directory.name}.shell")
        self._scratch.mkdir()
        self._number = 0
        search = os.pathsep.join([*map(str, path), os.environ["PATH"]])
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env={**os.environ, "PATH": search, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that all of it can be ended
        )

    def run(self, commands: str, *, timeout_s: float = BLOCK_TIMEOUT_S) -> str:
        """Run lines and return all that they printed.

        Raises:
            AssertionError: a command failed, or they did not end; with what they printed.
        """
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._number += 1
        script, said = (self._scratch / f"{self._number}.{end}" for end in ("sh", "out"))
        script.write_text(f"trap 'FAILED=$BASH_COMMAND; trap - ERR; return 1' ERR\n{commands}\ntrap - ERR\n")
        self._bash.stdin.write(f'FAILED=; . "{script}" > "{said}" 2>&1 < /dev/null; echo "ended:$FAILED"\n')
        self._bash.stdin.flush()
        watchdog = subprocess.Popen(["sh", "-c", f"sleep {timeout_s}; kill -9 {self._bash.pid}"])
        try:
            ended = self._bash.stdout.readline()
        finally:
            watchdog.kill()
            watchdog.wait()
        output = said.read_text(errors="replace") if said.exists() else ""
        assert ended == "ended:\n", (
            f"{ended.strip() or 'did not end'}, in\n{commands}\nwhich printed\n{output}"
        )
        return output

    def follow(self, step: Step) -> None:
        """Run a step of a page and compare.

        Raises:
            AssertionError: it printed something else than the page shows.
        """
        output = self.run(step.commands)
        if step.output is not None:
            assert matches(step.output, output), (
                f"{step.commands}\nprinted\n{output}\nand the page shows\n{step.output}"
            )

    def end(self) -> None:
        """End what still runs of it: asked first, for who stops in order leaves nothing behind."""
        for sig, patience_s in ((signal.SIGCONT, 0), (signal.SIGTERM, 15), (signal.SIGKILL, 5)):
            try:
                os.killpg(self._bash.pid, sig)
                if patience_s:
                    self._bash.wait(patience_s)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()
