"""Following a rotation to its end, step by step on stderr."""

import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import click

from sds_server.cli.api import Api, Json, Lost
from sds_server.cli.output import note, print_json
from sds_server.errors import CertvoyError, TimedOut, Unavailable

ASK_S: Final = 20
"""A long poll; a server that dies meanwhile is noticed when the connection breaks."""

PAUSE_S: Final = 0.5

LONGEST_S: Final = 100 * 365 * 86_400
"""As in the configuration: dates so far away have names still."""

_DURATION: Final = re.compile(r"(\d{1,12})(ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


ROLLED_BACK: Final = "rotation.rolled_back"
BEGUN: Final = frozenset({"rotation.opened", "rotation.hastened", "rotation.claimed"})
"""With these steps another attempt begins: what became of the one before is history."""

COMPLETED: Final = frozenset({"rotation.completed", "rotation.completed_unobserved"})

WITH_REASON: Final = frozenset({"rotation.canaries", "rotation.fanned_out", "secret.frozen"})
"""Steps of which the reason is said, and the targets that they are about."""


class NotDone(CertvoyError):
    """What was waited for ended otherwise."""


class Duration(click.ParamType[timedelta]):
    """A length of time such as 90s, 5m or 10d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it."""
        if isinstance(value, timedelta):
            return value
        found = _DURATION.fullmatch(value)
        seconds = 0 if found is None else int(found[1]) * _UNITS[found[2]]
        if found is None or seconds > LONGEST_S:
            self.fail(f"{value!r} is no duration: write 90s, 5m or 10d", param, ctx)
        return timedelta(seconds=seconds)


wait_option = click.option("--wait", is_flag=True, help="Wait until each target is proved to serve it.")
timeout_option = click.option(
    "--timeout", type=Duration(), default="5m", show_default=True, help="How long to wait; then exit code 5."
)


def follow(api: Api, rotation: int, *, of: str, timeout: timedelta, steps: bool = True) -> Json:
    """Tell each step of a rotation of a secret until it ends, and return it; ``steps``: or say nothing.

    Raises:
        TimedOut: it has not ended within the timeout.
        NotDone: what was rolled out was taken back, or another rotation took its place.
    """
    try:
        return _followed(api, rotation, of=of, timeout=timeout, steps=steps)
    except KeyboardInterrupt:
        note(f"not waited for any longer: the rotation goes on, and `certvoy why {of}` says how far it is")
        raise


def _followed(api: Api, rotation: int, *, of: str, timeout: timedelta, steps: bool) -> Json:
    until = time.monotonic() + timeout.total_seconds()
    told, silent = _Told(), False
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise TimedOut(
                f"rotation {rotation} has not ended within {timeout.total_seconds():g} s",
                hint=f"it goes on without us: `certvoy why {of}` says how it goes",
            )
        try:
            seen: Json = api.get(
                "v1", "rotations", str(rotation), wait=int(min(left, ASK_S)), steps=told.steps, patience_s=0.0
            )
        except (Unavailable, Lost) as e:
            if not silent:
                note(f"  {e.message}; waiting for it")
            silent = True
            time.sleep(PAUSE_S)
            continue
        silent = False
        error = _taken_back(seen["steps"])
        if steps:
            told.tell(seen, error)
        if error is not None:
            raise NotDone(f"rotation {rotation}: {error['what']}", hint=error.get("hint"))
        if seen["completed_at"] is not None:
            if seen["state"] == "superseded":
                raise NotDone(
                    f"rotation {rotation} was superseded by another", hint=f"`certvoy why {seen['secret']}`"
                )
            return seen


class _Told:
    """What was told of a rotation, so that each thing is told once."""

    def __init__(self) -> None:
        self.steps = 0
        self._reached: Json = {}
        self._reasons: set[str] = set()

    def tell(self, seen: Json, taken_back: Json | None) -> None:
        """Tell what is new; why it was taken back is the last word, and said by whoever ends."""
        for step in seen["steps"][self.steps :]:
            if step["name"] in COMPLETED:
                self._tell_reached(seen)  # what completed it stands before it
            error = _error(step)
            note(_line(seen, step, brief=error is not None and error is taken_back))
            if error is not None:
                self._reasons.add(error["what"])
        self.steps = len(seen["steps"])
        waits = seen["last_error"] if seen["state"] in {"waiting", "held"} and taken_back is None else None
        if waits is not None and not any(reason in waits["what"] for reason in self._reasons):
            # Not a step of this rotation: its CA is left alone, for all.
            self._reasons.add(waits["what"])
            note(_with_error("             waiting", waits))
        self._tell_reached(seen)

    def _tell_reached(self, seen: Json) -> None:
        if seen["reached"] != self._reached and seen["new_cert_id"] is not None:
            self._reached = seen["reached"]
            note(_progress(seen))


def _taken_back(steps: Sequence[Json]) -> Json | None:
    """Return why what this attempt brought was taken back; None: it was not, or the next one has begun."""
    error: Json | None = None
    for step in steps:
        if step["name"] == ROLLED_BACK:
            error = step["detail"]["error"]
        elif step["name"] in BEGUN:
            error = None
    return error


def canaries(rotation: Json) -> str | None:
    """Say who is asked before all others; None: nobody is."""
    if rotation["state"] != "rolling_out" or rotation["stage"] != "canary":
        return None
    return f"canaries first: {', '.join(rotation['canaries'])} asked"


def _line(rotation: Json, step: Json, *, brief: bool) -> str:
    begun = datetime.fromisoformat(rotation["triggered_at"])
    seconds = max((datetime.fromisoformat(step["at"]) - begun).total_seconds(), 0)
    line = f"  {seconds:7.1f} s  {step['name']}"
    detail = step["detail"]
    if step["name"] in WITH_REASON:
        targets = ", ".join(detail.get("targets", ()))
        return f"{line}: {detail['reason']}{f', {targets}' if targets else ''}"
    error = _error(step)
    return line if brief or error is None else _with_error(line, error)


def _error(step: Json) -> Json | None:
    """Return what went wrong in a step; None: nothing."""
    error = step["detail"].get("error")
    return error if isinstance(error, dict) else None


def _with_error(line: str, error: Json) -> str:
    """Say it in our words and the CA's, with what to do."""
    words = [f"{line}: {error.get('what')}"]
    words += [
        f"             the CA said: {item['type']}: {item['detail']}" for item in error.get("problems", ())
    ]
    if error.get("hint"):
        words.append(f"             remedy: {error['hint']}")
    return "\n".join(words)


def _progress(rotation: Json) -> str:
    reached, asked = rotation["reached"], canaries(rotation)
    if not reached["targets"]:
        return "             no target was seen subscribing yet, and none is registered"
    counts = ", ".join(
        f"{word} {reached[word]}" for word in ("accepted", "refused", "proved") if reached[word]
    )
    said = f"             of {reached['targets']} targets: {counts or 'none has answered yet'}"
    return f"{said}; {asked}" if asked else said


def outcome(rotation: Json) -> str:
    """Say how a rotation ended."""
    if rotation["state"] == "completed":
        proved = rotation["reached"]["proved"]
        said = f"done: proved at {proved} of {rotation['reached']['targets']} targets"
        accepted = (rotation["evidence"] or {}).get("accepted")
        return f"{said}, accepted at {accepted} where nobody can look" if accepted else said
    return "done, and seen by nobody: no target was subscribing, and none is registered"


def tell(
    api: Api,
    secret: Json,
    *,
    rotation: Json,
    timeout: timedelta | None,
    as_json: bool,
    opened: str,
    nothing_to_do: str,
) -> None:
    """Say what became of a secret that was put; with a ``timeout``, once its rotation has ended.

    Raises:
        TimedOut: it has not ended within the timeout.
        NotDone: another rotation took its place.
    """
    name = secret["name"]
    ended = None
    over = rotation["completed_at"] is not None
    if timeout is not None:
        if over:
            note(f"{name} {nothing_to_do}: nothing to do")
        ended = follow(api, rotation["id"], of=name, timeout=timeout, steps=not over)
        secret = api.get("v1", "secrets", name)
    if as_json:
        print_json(secret)
    elif ended is not None:
        click.echo(outcome(ended))
    elif not over:
        click.echo(
            f"{name} {opened}, rotation {rotation['id']} is open; `certvoy why {name}` says how it goes"
        )
    else:
        click.echo(f"{name} {nothing_to_do}: nothing to do")
