"""Write docs/reference/*.md from the code: configuration, commands, API, metrics, logs, audit, renewals.

`make reference`. A test compares what is committed with what this writes.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402 - the checkout comes first

from acme_engine import backoff, renewal  # noqa: E402
from sds_server import conditions, log_events, metrics  # noqa: E402
from sds_server.admin.table import openapi_json  # noqa: E402
from sds_server.agent.config import schema as agent_schema  # noqa: E402
from sds_server.audit import actions as audit_actions  # noqa: E402
from sds_server.cli.main import certvoy  # noqa: E402
from sds_server.config.certvoy_yaml import schema  # noqa: E402
from sds_server.lifecycle import retry  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Written by `make reference` from the code: change it there. -->"

ABOUT_CONFIGURATION = """\
One YAML file, `certvoy.yaml`. `certvoy config check FILE` says every error at once, each with its line;
`certvoy config schema` prints the JSON Schema, for editors. A relative path begins at the file's directory.
A duration is written `90s`, `10m` or `1h30m`."""

ABOUT_AGENT = """\
The file of `certvoy agent --config`, read as [certvoy.yaml](configuration.md) is. How to begin is in
[nginx](../targets/nginx.md) and [plain files](../targets/files.md); with private keys that never leave the
host in [Keys on the host](../how-to/keys-on-the-host.md)."""

ABOUT_API = """\
On the machine itself over the Unix socket `admin.sock` in `state_dir`, elsewhere over TLS (`admin.listen`)
with a bearer token or a client certificate. Errors are problem documents
([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with a `hint`.

Whatever changes something takes an `Idempotency-Key` of yours (a UUID, say; 1 to 255 visible characters). Who
loses the answer asks again with the same key and body, and gets the answer of the first time, with
`Idempotency-Replayed: true`. The replica that answered keeps it for an hour; afterwards, and on any other
replica for a day, by the audit, it is a 409 that says when it was done. A key with another request is a 409
too, and so is one whose request is under way. What failed may be asked again.

The same as OpenAPI 3.1 is in
[openapi.json](openapi.json), and at `GET /openapi.json`."""

ABOUT_METRICS = """\
`GET /metrics` on `metrics.listen`, without authentication, and in the admin API with scope `read`. Rules for
alerts are in [alerts.yaml](../alerts.yaml), and what each asks of you in [operations.md](../operations.md).
Besides these there are the `process_` metrics of Prometheus' client library.

Counts and dates of the inventory are read every 15 s and are the same on every replica: take
`max by (secret)`, not `sum`. While the database is away, dates stay and counts end after five minutes.
No label holds a proxy, as there may be any number: `certvoy proxies` tells of each."""

ABOUT_LOG_EVENTS = """\
One JSON object a line, on standard error. Each has `event`, `level`, `timestamp` (RFC 3339, UTC),
`component` and `replica`; one that tells of a bug has `exception`. An `error` is for a person to act on, a
`warning` for one to look at soon. What looks like a key, a token or a password is taken out of every line."""

ABOUT_AUDIT = """\
`certvoy audit ls`, and `GET /v1/audit`. An entry is written in the transaction of what it tells of, or, where
nothing is changed (a refusal), as soon as the database takes it. It has an `id`, the database's time `at`,
the `action`, its `actor` and `subject`, a certificate's `cert_id` where it is about one, and a `detail`.
Nobody changes or deletes an entry. What a peer may do without end is written ten times an hour for each
identity and action, and counted beyond that: *bounded*.

An actor is `person:USER` on the machine itself (by the kernel's word), `token:NAME` of the admin API,
`client:IDENTITY` with a client certificate, `proxy:NAME` that enrolled, `config:REPLICA` what a configuration
declares at a start, or `replica:NAME`: certvoy by itself."""

ABOUT_RENEWALS = """\
Only a certificate's own dates count, and its CA's wish. It is due when a third of its life is left, or half
of it where that is under ten days, to the second: then it is `expiring_soon`, and its rotation is open. What
is due together is not ordered together: each waits for a fraction of its own, the same on every replica, of
the spread.

A CA that offers ARI ([RFC 9773](https://www.rfc-editor.org/rfc/rfc9773)) is asked once a certificate is
issued, and then when it says (1 min to 24 h, 6 h by default). One moment is drawn in its window and kept,
until the window changes. It comes before the share of life, earlier or later, but never beyond the floor. A
window that is over means now; a new certificate is asked for anew. A certificate that is younger than a
twentieth of its life is replaced by such a wish once an hour and three times a day at most, and an alert says
so. A CA that does not answer, or with nothing of use, puts nothing off. The order then names the certificate
that it replaces."""

Json = dict[str, Any]


def main() -> None:
    """Write every page that has changed."""
    for name, page in PAGES.items():
        path, text = FOLDER / name, page()
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote docs/reference/{name}")


# ---------------------------------------------------------------- configuration


def configuration() -> str:
    """Return the page of certvoy.yaml."""
    return _configured("# Configuration", ABOUT_CONFIGURATION, schema())


def agent() -> str:
    """Return the page of agent.yaml."""
    return _configured("# agent.yaml", ABOUT_AGENT, agent_schema())


def _configured(title: str, about: str, described: Json) -> str:
    definitions = described["$defs"]
    lines = [
        title,
        MADE,
        about,
        *_section("The whole file", described, definitions, heading="##"),
    ]
    for name, part in described["properties"].items():
        lines += _parts(name, part, definitions)
    return _page(lines)


def _parts(path: str, described: Json, definitions: Json) -> Iterator[str]:
    """Write a section for each model below a key: ``issuers.NAME``, ``issuers.NAME.eab``."""
    places: dict[str, list[Json]] = {}
    for place, model in _models(path, described, definitions):
        places.setdefault(place, []).append(model)
    for place, models in places.items():
        if len(models) > 1:
            yield from _choice(place, models, definitions)
            continue
        yield from _section(f"`{place}`", models[0], definitions, heading="##")
        for name, part in models[0]["properties"].items():
            yield from _parts(f"{place}.{name}", part, definitions)


def _choice(place: str, models: Sequence[Json], definitions: Json) -> Iterator[str]:
    """Write a section of what several models share, and one of what each has besides; one key says which."""
    first, *_ = (model["properties"] for model in models)
    (key,) = (name for name, part in first.items() if "const" in part)
    shared = {
        name: part
        for name, part in first.items()
        if all(model["properties"].get(name) == part for model in models)
    }
    choices = {**first[key], "enum": [model["properties"][key]["const"] for model in models]}
    common = {"properties": {key: choices, **shared}, "required": [key]}
    yield from _section(f"`{place}`", common, definitions, heading="##")
    for model in models:
        own = {name: part for name, part in model["properties"].items() if name not in {key, *shared}}
        title = f"`{place}` with `{key}: {model['properties'][key]['const']}`"
        yield from _section(title, {**model, "properties": own}, definitions, heading="###")


def _models(path: str, described: Json, definitions: Json) -> Iterator[tuple[str, Json]]:
    for option in described.get("anyOf", [described]):
        if "$ref" in option:
            model = definitions[_name(option)]
            if "properties" in model:
                yield path, model
        elif isinstance(option.get("additionalProperties"), dict):
            yield from _models(f"{path}.NAME", option["additionalProperties"], definitions)
        elif isinstance(option.get("items"), dict):
            yield from _models(f"{path}[]", option["items"], definitions)


def _section(title: str, model: Json, definitions: Json, *, heading: str) -> Iterator[str]:
    yield f"{heading} {title}"
    if (said := model.get("description")) and "$defs" not in model:
        yield _markdown(said)
    required = model.get("required", ())
    rows = [
        (f"`{name}`", _type(part, definitions), _default(name, part, required), _about(part, definitions))
        for name, part in model["properties"].items()
    ]
    yield _table(("Key", "Value", "Default", ""), rows)


def _type(described: Json, definitions: Json) -> str:
    options = [option for option in described.get("anyOf", [described]) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_one_type(option, definitions) for option in options))


def _one_type(option: Json, definitions: Json) -> str:
    if "$ref" in option:
        named = definitions[_name(option)]
        return "keys and values" if "properties" in named else _one_type(named, definitions)
    if "enum" in option or "const" in option:
        return ", ".join(f"`{value}`" for value in option.get("enum", [option.get("const")]))
    if option.get("type") == "array":
        return f"list of {_type(option['items'], definitions)}" if "items" in option else "list"
    plain = _PLAIN_TYPES.get(option.get("type", ""), str(option.get("type", "any")))
    examples = ", ".join(f"`{example}`" for example in option.get("examples", ()))
    return f"{plain}, such as {examples}" if examples else plain


_PLAIN_TYPES = {"object": "keys and values, by name", "string": "text", "boolean": "`true` or `false`"}


def _default(name: str, described: Json, required: Iterable[str]) -> str:
    if name in required:
        return "must be given"
    default = described.get("default")
    return "" if default is None or isinstance(default, list | dict) else f"`{_plain(default)}`"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(described: Json, definitions: Json) -> str:
    """Return what a key is about; of one that holds others, the first words about those."""
    if said := _said(described):
        return said
    models = [model for _, model in _models("", described, definitions)]
    return _markdown(models[0].get("description", "").split("\n\n")[0]) if models else ""


def _said(described: Json) -> str:
    options = described.get("anyOf", [described])
    said = described.get("description") or next((o["description"] for o in options if "description" in o), "")
    return _markdown(said)


# ---------------------------------------------------------------- commands


def commands() -> str:
    """Return the page of the command line."""
    lines = ["# Commands", MADE, *_prose(certvoy.help or "")]
    overview = click.Context(certvoy, info_name="certvoy")
    for name in certvoy.list_commands(overview):
        command = certvoy.get_command(overview, name)
        assert command is not None, name
        lines += _command(command, click.Context(command, info_name=name, parent=overview), "##")
    return _page(lines)


def _command(command: click.Command, context: click.Context, heading: str) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{heading} {context.command_path}"
    yield from _prose(command.help or "")
    yield f"```text\n{usage}\n```"
    records = [
        record
        for param in command.get_params(context)
        if "--help" not in param.opts and (record := param.get_help_record(context)) is not None
    ]
    if records:
        yield _table(("Option", ""), [(f"`{option}`", said) for option, said in records])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, name
            yield from _command(inner, click.Context(inner, info_name=name, parent=context), "###")


def _prose(said: str) -> Iterator[str]:
    """Return the paragraphs of a help text; one that begins with backspace is kept as it is laid out."""
    for paragraph in inspect.cleandoc(said).replace("\f", "").strip().split("\n\n"):
        if paragraph.startswith("\b"):  # click's mark
            yield f"```text\n{paragraph.removeprefix(chr(8)).strip()}\n```"
        else:
            yield " ".join(paragraph.split())


# ---------------------------------------------------------------- API


def api() -> str:
    """Return the page of the admin API."""
    document = json.loads(openapi_json())
    schemas = document["components"]["schemas"]
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    lines = [
        "# Admin API",
        MADE,
        ABOUT_API,
        _table(
            ("", "", "Scope", ""),
            [
                (f"`{method}`", f"`{path}`", _scope(operation), operation["summary"])
                for method, path, operation in operations
            ],
        ),
    ]
    for method, path, operation in operations:
        lines += _operation(method, path, operation)
    lines.append("## Shapes")
    for name, shape in sorted(schemas.items()):
        lines += _shape(name, shape)
    return _page(lines)


def _scope(operation: Json) -> str:
    if "x-scope" in operation:
        return f"{operation['x-scope']}"
    return "client certificate" if operation.get("security") else "open"


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"## {method} {path}"
    yield f"{operation['summary']}. Scope: {_scope(operation)}."
    query = [parameter for parameter in operation["parameters"] if parameter["in"] == "query"]
    if query:
        rows = [(f"`{p['name']}`", _api_type(p["schema"]), _said(p["schema"])) for p in query]
        yield _table(("Query", "", ""), rows)
    if "requestBody" in operation:
        bodies = operation["requestBody"]["content"].items()
        yield f"Body: {' or '.join(_body(media, content['schema']) for media, content in bodies)}."
    answers = [
        f"`{status}`" + (f" {_api_type(schema)}" if (schema := _answer(answer)) else "")
        for status, answer in operation["responses"].items()
        if "application/problem+json" not in answer.get("content", {})
    ]
    yield f"Answers: {', '.join(answers)}."


def _body(media: str, schema: Json) -> str:
    return _api_type(schema) if media == "application/json" else f"`{media}`"


def _answer(answer: Json) -> Json | None:
    for content in answer.get("content", {}).values():
        schema: Json = content["schema"]
        return schema
    return None


def _shape(name: str, shape: Json) -> Iterator[str]:
    yield f"### {name}"
    if said := shape.get("description"):
        yield _markdown(said)
    if "enum" in shape:
        yield ", ".join(f"`{value}`" for value in shape["enum"])
    if shape.get("properties"):
        required = shape.get("required", ())
        rows = [
            (f"`{field}`", _api_type(part), "" if field in required else "optional", _said(part))
            for field, part in shape["properties"].items()
        ]
        yield _table(("Field", "", "", ""), rows)


def _api_type(described: Json) -> str:
    options = described.get("anyOf", [described])
    return " or ".join(_one_api_type(option) for option in options)


def _one_api_type(option: Json) -> str:
    if "$ref" in option:
        name = _name(option)
        return f"[{name}](#{name.lower()})"
    if "enum" in option or "const" in option:
        return ", ".join(f"`{value}`" for value in option.get("enum", [option.get("const")]))
    if option.get("type") == "array":
        return f"list of {_api_type(option['items'])}" if "items" in option else "list"
    form = option.get("format")
    return f"{option.get('type', 'any')}" + (f" ({form})" if form else "")


# ---------------------------------------------------------------- metrics and logs


def metrics_page() -> str:
    """Return the page of the metrics."""
    rows = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in sorted(metrics.METRICS, key=lambda metric: metric.name)
    ]
    return _page(
        [
            "# Metrics",
            MADE,
            ABOUT_METRICS,
            _table(("Name", "Kind", "Labels", "What it says"), rows),
        ]
    )


def log_events_page() -> str:
    """Return the page of the log's vocabulary."""
    rows = [
        (
            f"`{event.name}`",
            event.level,
            event.meaning,
            ", ".join(f"`{field}`" for field in event.fields),
        )
        for event in sorted(log_events.EVENTS, key=lambda event: event.name)
    ]
    return _page(
        [
            "# Log events",
            MADE,
            ABOUT_LOG_EVENTS,
            _table(("Event", "Level", "What it says", "Fields"), rows),
        ]
    )


def audit_page() -> str:
    """Return the page of the audit's vocabulary."""
    rows = [
        (f"`{action.name}`", action.subject, action.meaning + (" *Bounded.*" if action.bounded else ""))
        for action in sorted(audit_actions.ACTIONS, key=lambda action: action.name)
    ]
    return _page(["# Audit", MADE, ABOUT_AUDIT, _table(("Action", "Subject", "What it says"), rows)])


# ---------------------------------------------------------------- renewals


LIVES = (
    ("90 days", timedelta(days=90)),
    ("64 days", timedelta(days=64)),
    ("47 days", timedelta(days=47)),
    ("45 days", timedelta(days=45)),
    ("160 hours", timedelta(hours=160)),
    ("24 hours", timedelta(hours=24)),
)
REASONS = (
    "third-left",
    "half-left",
    renewal.WINDOW,
    renewal.PAST,
    renewal.CLAMPED,
    renewal.HELD,
)


def renewals() -> str:
    """Return the page of the renewal policy."""
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for name, life in LIVES:
        dates = {"not_before": begins, "not_after": begins + life}
        due, floor = renewal.due(**dates), renewal.floor(**dates)
        spread = renewal.spread(**dates, jitter=1.0)
        rows.append([name, *map(_left, (begins + life - due, spread, begins + life - floor, floor - due))])
    tries = ", ".join(_left(interval) for interval in backoff.ATTEMPTS)
    after_failure = (
        f"The next try comes after {tries}, then after {_left(backoff.DAILY)}, but after"
        f" 1/{backoff.REMAINING_SHARE} of what is left of the certificate's life at most; each is spread by a"
        " fifth either way, and never comes before a CA's Retry-After. An order that is under way is looked"
        f" at within {_left(retry.UNDER_WAY_MOST)}, whatever its CA says. Once a certificate has been over"
        f" for {_left(backoff.GIVES_UP)}, `certvoy rotate NAME` is waited for."
    )
    return _page(
        [
            "# When certificates are renewed",
            MADE,
            ABOUT_RENEWALS,
            _table(
                (
                    "Life",
                    "Due, before the end",
                    "Orders spread over",
                    "Floor, before the end",
                    "Time to retry",
                ),
                rows,
            ),
            "## Why then",
            "`certvoy why NAME` says which of these decided; the word is `renew_reason` in the API.",
            _table(("Word", ""), [(f"`{word}`", conditions.renewal_said(word)) for word in REASONS]),
            "## After a failure",
            after_failure,
        ]
    )


def _left(span: timedelta) -> str:
    """Return a length of time in the unit that people use for it: 80 hours, and 7.5 days."""
    for name, unit, least in (("d", timedelta(days=1), 5), ("h", timedelta(hours=1), 2)):
        if span >= unit * least:
            return f"{round(span / unit, 1):g} {name}"
    return f"{round(span / timedelta(minutes=1), 1):g} min"


# ---------------------------------------------------------------- Markdown


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(header), "|---" * len(header) + "|"]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def _markdown(said: str) -> str:
    """Return a docstring, whose code stands in double backquotes, in Markdown's manner."""
    return "\n\n".join(" ".join(part.split()) for part in said.replace("``", "`").split("\n\n"))


def _name(reference: Json) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "agent.md": agent,
    "commands.md": commands,
    "api.md": api,
    "metrics.md": metrics_page,
    "log-events.md": log_events_page,
    "audit.md": audit_page,
    "renewal.md": renewals,
}


if __name__ == "__main__":
    main()
