"""`certvoy demo`: everything at work on this machine, with real programs, verified by handshakes."""

import asyncio
import json
import signal
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from sds_server.demo.script import Script, Step, curl
from sds_server.demo.stage import NotVerified, Stage
from sds_server.errors import CertvoyError

BANNER = """\
!! THIS IS A DEMO. Its KMS is a file on this disk (a LOCAL KEK), and everything it makes,
!! keys and certificates and history, DIES WITH IT. Not for production.
"""


@click.command()
@click.option("--once", is_flag=True, help="Stop after the last step; exit 0 only if each was verified.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with each step's seconds.")
def demo(*, once: bool, as_json: bool) -> None:
    """Issue over ACME, serve through a real Envoy, rotate, refuse, kill, restart; see every step proved."""
    click.secho(BANNER, err=True, fg="yellow", bold=True)
    with tempfile.TemporaryDirectory(prefix="certvoy-demo-") as directory:
        code = asyncio.run(_run(Path(directory), once=once, as_json=as_json))
    raise SystemExit(code)


async def _run(directory: Path, *, once: bool, as_json: bool) -> int:
    started = time.monotonic()
    stop = asyncio.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    stage = Stage(directory)
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        click.echo(f"✔ {step.name:<14} {step.seconds:6.2f} s   {step.seen}", err=True)
        if step.name == "issued" and not as_json:
            click.echo(curl(stage))

    error: str | None = None
    playing = asyncio.create_task(Script(stage, tell).play())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            error = "interrupted"
        elif isinstance(playing.exception(), NotVerified | CertvoyError | OSError):
            error = str(playing.exception())
        else:
            playing.result()
        if error is None and not once and not as_json:
            click.echo("All of it goes on until Ctrl-C.", err=True)
            await stopping
    finally:
        stopping.cancel()
        await asyncio.gather(playing, stopping, return_exceptions=True)
        await stage.stop()
    if error is not None:
        click.echo(f"✘ {error}", err=True)
    if as_json:
        seconds = round(time.monotonic() - started, 3)
        told = {"verified": error is None, "error": error, "seconds": seconds}
        click.echo(json.dumps(told | {"steps": [asdict(step) for step in steps]}))
    return 0 if error is None else 1
