"""Ports for programs that must be told one."""

import subprocess
import sys

from sds_server.programs.child import ephemeral_from, free_port


def test_none_is_given_twice():
    """Nobody listens on the first one yet when the second is asked for."""
    given = [free_port() for _ in range(500)]

    assert 500 == len({*given})
    assert max(given) < ephemeral_from()


def test_a_process_keeps_to_the_ports_that_it_was_given():
    code = "from sds_server.programs.child import free_port; print(*(free_port() for _ in range(30)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"CERTVOY_PORTS": "10020-10023"},
    )

    assert {int(port) for port in done.stdout.split()} <= {*range(10020, 10024)}
