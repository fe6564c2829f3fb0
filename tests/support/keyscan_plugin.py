"""The scan for private keys as a part of every run of pytest, over all its workers. See `keyscan`."""

import os
from typing import Any

import aiohttp
import pytest

from tests.support.keyscan import MEANT, Scan

SCAN = Scan()
"""Of this process; databases and commands are brought by whoever has them."""


def here() -> str:
    """The test that runs."""
    return os.environ.get("PYTEST_CURRENT_TEST", "after the tests").partition(" (")[0]


class KeyScan:
    """Hooks; in a worker its finds go to who started it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._read = aiohttp.ClientResponse.read
        SCAN.keys.watch()
        scan, read = SCAN, self._read

        async def looked_through(response: aiohttp.ClientResponse) -> bytes:
            body = await read(response)
            if not response.url.path.endswith(MEANT):
                scan.look("answers", f"{here()}: {response.method} {response.url.path}", body)
            return body

        aiohttp.ClientResponse.read = looked_through  # type: ignore[method-assign]

    def pytest_unconfigure(self) -> None:
        aiohttp.ClientResponse.read = self._read  # type: ignore[method-assign]
        SCAN.keys.forget()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What was printed and logged in the process of the tests."""
        if report.when == "teardown" and not self._is_distributed():  # with all that was captured before
            for name, text in report.sections:
                if name.startswith("Captured"):
                    SCAN.look("captured outputs", f"{report.nodeid}: {name}", text.encode())

    @pytest.hookimpl(tryfirst=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker is done."""
        output = getattr(node, "workeroutput", {}).get("keyscan")
        if output is not None:
            SCAN.looked.update(output["looked"])
            SCAN.found += output["found"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look through what is left, and fail the run for a find."""
        factory = getattr(self._config, "_tmp_path_factory", None)
        if not self._is_distributed() and factory is not None and factory._basetemp is not None:
            SCAN.look_at_logs(factory._basetemp)
        worker = getattr(self._config, "workeroutput", None)
        if worker is not None:
            worker["keyscan"] = {"looked": dict(SCAN.looked), "found": SCAN.found}
        elif SCAN.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line(SCAN.summary())
        for find in SCAN.found:
            terminalreporter.write_line(f"  a private key in {find}", red=True)

    def _is_distributed(self) -> bool:
        """Whether this process only hands tests to workers."""
        return bool(getattr(self._config.option, "dist", "no") != "no") and not hasattr(
            self._config, "workerinput"
        )
