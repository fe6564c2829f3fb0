"""``/v1/targets/{name}/tests``: a target tried step by step, by all of a rotation but a new certificate."""

import json
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from pydantic import BaseModel

from sds_server.admin import probes
from sds_server.admin.routes import Answer, Call, Route
from sds_server.admin.services import Services
from sds_server.clock import span
from sds_server.errors import CertvoyError, NotFound
from sds_server.inventory import targets
from sds_server.inventory.targets import Held, Listed
from sds_server.model import Scope, Target, TargetKind
from sds_server.targets.calls import CallFailed, Reply, Step
from sds_server.targets.verdict import Verdict
from sds_server.xds.scrub import scrub

SECRETS_MAX: Final = 20
"""Of one target; each may make its program check all of its files."""

_CALL: Final = {
    Step.ADDRESS: "{push} may be connected to",
    Step.CONNECTION: "it listens, and speaks TLS",
    Step.IDENTITY: "it is {identity}",
    Step.ANSWER: "it answers the control plane",
}
"""The steps of a call, in order, in words for each that went well."""

_PROBE_HINTS: Final = {
    Verdict.UNREACHABLE: "correct it: `certvoy targets add {target} --probe HOST:PORT`, "
    "with or without --proxy-protocol and --http3; is there a firewall?",
    Verdict.UNPROBED: "name one: `certvoy targets add {target} --probe HOST:PORT`",
}


class Result(StrEnum):
    """How a step went."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


class TestStep(BaseModel):
    """A step of the test: what was found, and where it failed what to do.

    ``secret`` is what it was about; None: the target itself. Skipped is what an earlier failure, or the way
    in which the target is set up, leaves nothing to see of.
    """

    step: str
    secret: str | None
    result: Result
    detail: str
    hint: str | None = None


class TargetTest(BaseModel):
    """The steps in order."""

    items: list[TestStep]


async def test_target(call: Call) -> Answer:
    """Try each step, and say how it went."""
    services = call.services
    listed = await targets.get(services.database, call.path["name"])
    held = [item for item in listed.holds if item.live][:SECRETS_MAX]
    steps = [_serves(listed, held)]
    steps += [_granted(services, listed.target, item) for item in held]
    if listed.target.push is not None:
        steps += await _pushed(services, listed.target, held)
    else:
        steps += [_fetched(services, listed, item) for item in held]
    for item in held:
        steps += await _served(services, listed.target, item)
    return Answer(TargetTest(items=steps))


def _serves(listed: Listed, held: Sequence[Held]) -> TestStep:
    target = listed.target
    what = f"{target.kind}, {'registered' if target.registered else 'seen'}"
    if held:
        return _ok("target", None, f"{what}, for {len(held)} secret{'s' * (len(held) != 1)}")
    return _failed(
        "target",
        None,
        f"{what}, but for no secret",
        hint=f"`certvoy targets add {target.name} --secret NAME`, or let its agent fetch one",
    )


def _granted(services: Services, target: Target, item: Held) -> TestStep:
    if target.identity is None:
        return _skipped("grant", item.secret, "its identity is not known yet")
    if services.authorize(target.identity, item.secret):
        return _ok("grant", item.secret, f"{target.identity} may see it")
    return _failed(
        "grant",
        item.secret,
        f"no grant lets {target.identity} see it",
        hint="add it to `grants`, or enrol anew with it: `certvoy proxies enroll NAME --secret SECRET`",
    )


# How its bundles get there


async def _pushed(services: Services, target: Target, held: Sequence[Held]) -> Sequence[TestStep]:
    """Call its agent as a push does, and let its program check the files that it has."""
    assert target.push is not None  # noqa: S101 - asked before
    if target.identity is None:
        return [_failed("identity", None, "its identity is not known", hint="name it by --identity")]
    steps: list[TestStep] = []
    for item in held:
        try:
            reply = await services.agents.call(
                target.push,
                target.identity,
                "POST",
                f"/v1/checks/{quote(item.secret, safe='')}",
                body=json.dumps({"target": target.name}).encode(),
            )
        except CallFailed as e:
            return [*steps, *_way(target, failed=e)]
        except CertvoyError as e:  # our own certificate cannot be made
            return [*steps, _failed("address", None, e.message, hint=e.next_step)]
        if not steps:
            steps += _way(target, failed=None)
        steps.append(_checked(item.secret, reply))
    return steps


def _way(target: Target, *, failed: CallFailed | None) -> Sequence[TestStep]:
    """Return the steps of the call, up to the one that failed."""
    steps = []
    over = False
    for step, words in _CALL.items():
        if over:
            steps.append(_skipped(step, None, "not reached"))
        elif failed is not None and failed.step is step:
            steps.append(_failed(step, None, str(failed), hint=failed.hint))
            over = True
        else:
            steps.append(_ok(step, None, words.format(push=target.push, identity=target.identity)))
    return steps


def _checked(secret: str, reply: Reply) -> TestStep:
    try:
        said = json.loads(reply.body)
        ok, detail, hint = said.get("ok"), str(said.get("detail") or ""), said.get("hint")
    except (ValueError, AttributeError, RecursionError):
        ok, detail, hint = None, "", None
    if reply.status == HTTPStatus.OK and ok is True:
        return _ok("check", secret, "its program takes the files that lie there")
    detail = scrub(" ".join(detail.split())) or f"the agent answered with HTTP {reply.status}"
    wish = scrub(" ".join(hint.split())) if isinstance(hint, str) else ""
    return _failed("check", secret, detail, hint=wish or "mend what its program names, on that host")


def _fetched(services: Services, listed: Listed, item: Held) -> TestStep:
    """Say when it was heard of last: who fetches cannot be called."""
    live, seen = item.delivery, listed.last_seen
    envoy = listed.target.kind is TargetKind.ENVOY
    step = "stream" if envoy else "fetch"
    hint = (
        "see Envoy's log, and that its bootstrap names this control plane: `certvoy bootstrap-config`"
        if envoy
        else "see the log of `certvoy agent` there, and its agent.yaml"
    )
    if seen is None:
        return _failed(step, item.secret, "it was never heard of", hint=hint)
    ago = services.clock.now() - seen
    marks = [
        f"{mark} {value}"
        for mark in ("sent", "accepted", "refused", "proved")
        if (value := getattr(live, mark))
    ]
    said = f"heard of {span(max(ago, timedelta(0)).total_seconds())} ago: {', '.join(marks) or 'nothing yet'}"
    if ago > services.seen_for:
        return _failed(step, item.secret, said, hint=hint)
    return _ok(step, item.secret, said)


# What it serves


async def _served(services: Services, target: Target, item: Held) -> Sequence[TestStep]:
    if target.probe is None and target.admin is None and target.kind is not TargetKind.ENVOY:
        return [_skipped("probe", item.secret, "no --probe: what its agent sees is the proof")]
    try:
        found = await probes.of(services, item.secret, only=target.name)
    except NotFound as e:
        return [_skipped("probe", item.secret, e.message)]
    except CertvoyError as e:
        return [_failed("probe", item.secret, e.message, hint=e.next_step)]
    return [_seen(target, item, probe) for probe in found]


def _seen(target: Target, item: Held, probe: probes.Probe) -> TestStep:
    where = target.probe or (f"{target.admin}/certs" if target.admin else "nowhere")
    if probe.verdict in {Verdict.OK, Verdict.EXPIRING}:
        return _ok("probe", item.secret, f"{where} serves what it should for {probe.server_name}")
    leaf = "" if probe.fingerprint is None else f" {probe.fingerprint[:16]}..."
    detail = f"{probe.server_name}: {probe.verdict}{leaf}: {probe.reason}"
    hint = _PROBE_HINTS.get(probe.verdict, f"see `certvoy why {item.secret}`")
    return _failed("probe", item.secret, detail, hint=hint.format(target=target.name))


def _ok(step: str, secret: str | None, detail: str) -> TestStep:
    return TestStep(step=step, secret=secret, result=Result.OK, detail=detail)


def _failed(step: str, secret: str | None, detail: str, *, hint: str) -> TestStep:
    return TestStep(step=step, secret=secret, result=Result.FAILED, detail=detail, hint=hint)


def _skipped(step: str, secret: str | None, detail: str) -> TestStep:
    return TestStep(step=step, secret=secret, result=Result.SKIPPED, detail=detail)


ROUTES = (
    Route(
        method="POST",
        path="/v1/targets/{name}/tests",
        handler=test_target,
        summary="Try a target step by step: all that a rotation does but a new certificate",
        scope=Scope.ADMIN,
        answers={HTTPStatus.OK: TargetTest},
    ),
)
