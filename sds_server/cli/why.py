"""`certvoy why NAME`: why a secret is as it is, and what comes next, as one tree."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import click

from sds_server.cli.api import Api, Json, asks
from sds_server.cli.output import age, json_option, moment, print_json
from sds_server.cli.payload import payload_facts, taken
from sds_server.cli.wait import canaries
from sds_server.conditions import on_demand, shared
from sds_server.model import UPLOAD


@dataclass
class Branch:
    """A line of the tree, and what hangs on it."""

    text: str
    children: list["Branch"] = field(default_factory=list)

    def add(self, text: str) -> "Branch":
        """Hang a line on it, and return that."""
        child = Branch(text)
        self.children.append(child)
        return child

    def lines(self) -> Iterator[str]:
        """Yield it as it is printed."""
        yield self.text
        for child in self.children:
            last = child is self.children[-1]
            first, *rest = child.lines()
            yield f"{'└─' if last else '├─'} {first}"
            yield from (f"{'   ' if last else '│  '}{line}" for line in rest)


@click.command()
@click.argument("name")
@json_option
@asks
def why(name: str, *, as_json: bool, api: Api) -> None:
    """Say why the secret NAME is as it is: certificate, order, targets, reason, next try, remedy."""
    secret = api.get("v1", "secrets", name)
    if secret["payload"] is not None:
        if as_json:
            print_json(secret)
        else:
            for line in payload_tree(secret).lines():
                click.echo(line)
        return
    rotation = api.get("v1", "rotations", str(secret["rotation"]["id"]))
    if as_json:
        print_json(secret | {"rotation": rotation})
        return
    declared = {issuer["name"] for issuer in api.get("v1", "issuers")["items"]}
    for line in tree(secret, rotation, declared).lines():
        click.echo(line)


def tree(secret: Json, rotation: Json, declared: Collection[str]) -> Branch:
    """Return what is to be said; ``declared``: the issuers of the replica that was asked."""
    policy = "" if secret["proof"] == "all" else f", proof {secret['proof']}"
    root = Branch(
        f"{secret['name']}: {', '.join(secret['domains'])}"
        f" from {', else '.join([secret['issuer'], *secret['fallback']])} ({secret['key_type']}{policy})"
    )
    conditions = {condition["type"]: condition for condition in secret["conditions"]}
    for kind in ("Ready", "Served"):
        root.add(
            f"{'✔' if conditions[kind]['status'] else '✗'} {kind.lower()}: {conditions[kind]['message']}"
        )
    if conditions["RenewalOverdue"]["status"]:
        root.add(f"✗ overdue: {conditions['RenewalOverdue']['message']}")
    _sealed(root, secret["sealed"])
    _clock(root, secret["clock"])
    _undeclared(root, secret, declared)
    _forbidden(root, secret["forbidden"])
    if secret["frozen"] is not None:
        _frozen(root, secret["name"], secret["frozen"])
    _certificate(root, secret["certificate"], secret["renewal"], uploaded=secret["issuer"] == "upload")
    if secret["staple"] is not None:
        _staple(root, secret["staple"])
    if secret["on_demand"] is not None:
        root.add(f"on demand: {on_demand(secret['on_demand'])}")
    if secret["key_custody"] is not None:
        root.add(f"keys: made by its target; {secret['key_custody']['message']}")
    for revocation in secret["revocations"]:
        _revocation(root, secret["name"], revocation)
    _rotation(root, rotation, secret["issuer"])
    for delivery in secret["deliveries"]:
        _target(root, delivery)
    if not secret["deliveries"]:
        root.add("targets: none was seen subscribing, and none is registered with --secret")
    return root


def payload_tree(secret: Json) -> Branch:
    """Return what is to be said of what is no certificate."""
    root = Branch(f"{secret['name']}: {secret['kind']}")
    conditions = {condition["type"]: condition for condition in secret["conditions"]}
    for kind in ("Ready", "Served"):
        root.add(
            f"{'✔' if conditions[kind]['status'] else '✗'} {kind.lower()}: {conditions[kind]['message']}"
        )
    _sealed(root, secret["sealed"])
    if secret["frozen"] is not None:
        _frozen(root, secret["name"], secret["frozen"])
    for key, value in payload_facts(secret["payload"]).items():
        root.add(f"{key.replace('_', ' ')}: {value}")
    for version in secret["payload"]["versions"][:3]:
        state = (version["outcome"] or "rolling_out").replace("_", " ")
        if version["outcome"] is None and version["stage"] == "canary":
            state += ", canaries first"
        branch = root.add(f"generation {version['generation']}: {version['phase']}, {state}")
        branch.add(f"{age(version['created_at'])} ago by {version['created_by']}")
        if version["evidence"]:
            branch.add(taken(version["evidence"]))
        if version["error"]:
            branch.add(f"reason: {version['error']['what']}").add(f"remedy: {version['error']['hint']}")
    for delivery in secret["deliveries"]:
        _target(root, delivery, payload=True)
    if not secret["deliveries"]:
        root.add("targets: none was seen subscribing, and none is registered with --secret")
    return root


def _certificate(root: Branch, certificate: Json | None, renewal: Json | None, *, uploaded: bool) -> None:
    if certificate is None:
        root.add("certificate: none yet")
        return
    branch = root.add(f"certificate: generation {certificate['generation']}, {certificate['status']}")
    branch.add(f"serial {certificate['serial_number']}, leaf SHA-256 {certificate['fingerprint']}")
    verb = "another pair is wanted" if uploaded else "renewed"
    branch.add(f"valid until {moment(certificate['not_after'])}, {verb} at {moment(certificate['renew_at'])}")
    if renewal is not None and not uploaded:
        _renewal(branch, renewal)


def _renewal(branch: Branch, renewal: Json) -> None:
    """Say why then, and what the CA has said of it."""
    why_then = branch.add(f"renewed then because {renewal['message']}")
    if renewal["window_start"] is not None:
        why_then.add(f"its CA's window: {moment(renewal['window_start'])} to {moment(renewal['window_end'])}")
    if renewal["explanation_url"] is not None:
        why_then.add(f"its CA explains: {renewal['explanation_url']}")
    if renewal["error"] is not None:
        why_then.add(f"its CA was asked in vain: {renewal['error']}")


def _staple(root: Branch, staple: Json) -> None:
    ends = staple["next_update"]
    said = "none yet" if ends is None else f"good until {moment(ends)}"
    branch = root.add(f"{'✗ ' if staple['must'] and ends is None else ''}staple: {said}")
    if staple["must"]:
        branch.add("the certificate must be stapled: without, it is sent to nobody")
    if staple["error"] is not None:
        branch.add(f"reason: {staple['error']['what']}")
        branch.add(f"remedy: {staple['error']['hint']}")
    branch.add(f"{staple['url']} is asked next at {moment(staple['next_at'])}")


def _sealed(root: Branch, said: str | None) -> None:
    if said is not None:
        branch = root.add(f"✗ sealed: the replica asked gives nothing away. It was sealed {said}")
        branch.add("remedy: `certvoy unseal` ends it; other replicas go on")


def _clock(root: Branch, said: str | None) -> None:
    if said is not None:
        branch = root.add(f"✗ clock: that of the replica asked is {said}")
        branch.add("remedy: set that machine's clock: see that chronyd or systemd-timesyncd runs")


def _undeclared(root: Branch, secret: Json, declared: Collection[str]) -> None:
    for issuer in (secret["issuer"], *secret["fallback"]):
        if issuer not in {*declared, UPLOAD}:
            branch = root.add(f"✗ issuer: {issuer} is not in the configuration of the replica asked")
            another = f"`certvoy issue {secret['name']} --issuer ...` names another"
            branch.add(f"remedy: declare it under `issuers:` and restart, or {another}")


def _forbidden(root: Branch, forbidden: list[Json]) -> None:
    for one in forbidden:
        branch = root.add(f"✗ fallback to {one['issuer']}: it may not issue for {one['name']}, by CAA")
        branch.add(f"reason: {one['seen']}")
        branch.add(f"remedy: {one['fix']}")


def _frozen(root: Branch, name: str, frozen: Json) -> None:
    branch = root.add(f"✗ frozen: since {moment(frozen['at'])} by {frozen['by']}: {frozen['reason']}")
    remedy = f"`certvoy resume {name}`"
    if remedy not in frozen["reason"]:  # where we ask, the question holds both answers
        branch.add(f"remedy: {remedy} lets it go on")


def _rotation(root: Branch, rotation: Json, issuer: str) -> None:
    attempts = rotation["attempts"]
    state = (
        "waiting for a certificate" if rotation["state"] == "waiting" else rotation["state"].replace("_", " ")
    )
    if asked := canaries(rotation):
        state += f", {asked}"
    branch = root.add(
        f"rotation {rotation['id']}: {rotation['reason']}, {state}, {attempts} attempt{'s' * (attempts != 1)}"
    )
    _evidence(branch, rotation["evidence"])
    begun = [step for step in rotation["steps"] if step["name"] == "order.ordered"]
    if begun and rotation["new_cert_id"] is None:
        branch.add(f"order {begun[-1]['detail'].get('url')}, since {moment(begun[-1]['at'])}")
    error = rotation["last_error"]
    if error is not None:
        reason = branch.add(f"reason: {error['what']}")
        for problem in error.get("problems", ()):
            said = reason.add(f"the CA said: {problem['type']}: {problem['detail']}")
            for sub in problem.get("subproblems", ()):
                said.add(f"{sub.get('identifier')}: {sub['type']}: {sub['detail']}")
        branch.add(f"remedy: {error['hint']}")
    if rotation["state"] == "waiting" and issuer == "upload":
        branch.add(f"waits for another pair: `certvoy upload {rotation['secret']}`")
    elif rotation["state"] == "waiting":
        branch.add(f"next try: {moment(rotation['next_attempt_at'])}")
    elif rotation["state"] == "held":
        branch.add(f"not tried again by itself: `certvoy rotate {rotation['secret']}` does")


def _evidence(branch: Branch, evidence: Json | None) -> None:
    """Say what a completion rests on, where that is less than a proof of each."""
    if evidence is None or not (evidence["accepted"] or evidence["unproved"]):
        return
    proved = sum(evidence["proved"].values())
    words = [f"proof {evidence['policy']}: of {evidence['targets']} targets {proved} proved"]
    if evidence["accepted"]:
        words.append(f"{evidence['accepted']} accepted")
    if evidence["unproved"]:
        words.append(f"not {', '.join(evidence['unproved'])}")
    branch.add(", ".join(words))


def _revocation(root: Branch, name: str, revocation: Json) -> None:
    generation, state = revocation["generation"], revocation["state"]
    branch = root.add(f"revocation of generation {generation} ({revocation['reason']}): {state}")
    branch.add(revocation["message"])
    if state == "failing":
        for problem in revocation["error"]["problems"]:
            branch.add(f"the CA said: {problem['type']}: {problem['detail']}")
        branch.add(f"remedy: {revocation['error']['hint']}")
        branch.add(f"next try: {moment(revocation['next_attempt_at'])}")
    elif state == "waiting":
        branch.add(f"`certvoy revoke {name} --generation {generation} --now` does not wait")


def _target(root: Branch, delivery: Json, *, payload: bool = False) -> None:
    marks = [
        f"{word} {delivery[word]}"
        for word in ("sent", "accepted", "refused", "proved")
        if delivery[word] is not None
    ]
    branch = root.add(f"target {delivery['target']}: {', '.join(marks) or 'nothing yet'}")
    if delivery["state"] == "refused":
        branch.add(f"refused {age(delivery['updated_at'])} ago: {delivery['reason']}")
        again = "put it again" if payload else f"`certvoy rotate {delivery['secret']}`"
        branch.add(f"remedy: mend what it names, then {again}")
    elif delivery["state"] == "waiting":
        branch.add(f"waits: {delivery['reason']}")
    elif payload and delivery["state"] == "accepted":
        branch.add(f"accepted: {delivery['reason']}")
    elif delivery["state"] == "unseen":
        branch.add(f"✗ {delivery['reason']}")
    elif delivery["state"] != "proved":
        branch.add(f"not proved: {delivery['reason']}")
    elif delivery["instances"] > 1:
        branch.add(shared(delivery["instances"], delivery["node_id"]))
