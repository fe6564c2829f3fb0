"""Fixtures that many tests share."""

import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog

from sds_server.log import ENGINE
from sds_server.programs.child import PORTS_FROM, ephemeral_from
from tests.support.databases import bare, connect, database, postgres, sql, template
from tests.support.keyscan_plugin import KeyScan
from tests.support.promtool import promtool

__all__ = ["bare", "connect", "database", "postgres", "promtool", "sql", "template"]

AS_INSTALLED = str(Path(__file__).parent / "support" / "as_installed")

AS_TEXT = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
    structlog.processors.StackInfoRenderer(),
    # Tracebacks as Python has them: those of rich are a fifth of what the tests of loops take.
    structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
]


@pytest.fixture(autouse=True)
def _logs_of_its_own() -> Iterator[None]:
    """Take logs to pytest, not to the stdout of a command that a test runs beside what logs.

    What a test configures of logs ends with it: a later one would write to a stream that is closed.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ours = logging.getLogger("certvoy")
    ours.setLevel(logging.DEBUG)
    structlog.configure(logger_factory=lambda *_: ours, processors=AS_TEXT)
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger(ENGINE).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)


def pytest_configure(config: pytest.Config) -> None:
    """Look for private keys from now on, and give each worker of pytest-xdist ports of its own."""
    config.pluginmanager.register(KeyScan(config), "keyscan")
    # Containers often set it for small images. Here every program would compile certvoy again, and pytest
    # each module of tests in each worker.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.dont_write_bytecode = False
    worker = getattr(config, "workerinput", None)
    if worker is not None or config.getoption("dist", "no") == "no":  # the workers themselves have all tools
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [AS_INSTALLED, os.environ.get("PYTHONPATH")]))
    if worker is not None:
        each = (ephemeral_from() - PORTS_FROM) // worker["workercount"]
        first = PORTS_FROM + each * int(worker["workerid"].removeprefix("gw"))
        os.environ["CERTVOY_PORTS"] = f"{first}-{first + each - 1}"


LOG_LINES = 40


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the programs of that test wrote last: a deadline alone explains nothing."""
    report = yield
    directory = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and directory is not None:
        for log in sorted(directory.rglob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((str(log.relative_to(directory)), "\n".join(lines)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say through how many scenarios a real Envoy went."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call" and "test_envoy_matrix.py" in report.nodeid
    ]
    if reports:
        passed = sum(report.passed for report in reports)
        forms = {report.nodeid.partition("[")[2].rstrip("]") for report in reports}
        terminalreporter.write_line(
            f"real Envoy: {passed} of {len(reports)} scenarios passed, in {len(forms)} forms of asking"
        )
