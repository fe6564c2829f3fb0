"""`certvoy audit export|verify|prove`: the audit taken along, and held against signed checkpoints."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import click

from sds_server.audit import witness
from sds_server.audit.checkpoint import PublicKey
from sds_server.audit.verify import Proof, Report, Verifier
from sds_server.cli.api import Api, asks
from sds_server.cli.output import json_option, note, print_json
from sds_server.errors import AuditBroken, ConfigError

FORMAT: Final = "certvoy-audit-1"
SHOWN: Final = 10

LINE_BYTES_MAX: Final = 16 * 2**20
"""Of a file that somebody hands to us: an entry has some hundred bytes."""

_NONE_OF_OURS: Final = (KeyError, TypeError, ValueError, RecursionError)
"""What reading raises where somebody else has written it."""

_AS_OF: Final = ". If it only ends too early, say with --as-of when you made the export"

T = TypeVar("T")


class _Moment(click.ParamType[datetime]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            found = datetime.min  # noqa: DTZ901 - has no zone either
        if found.tzinfo is None:
            self.fail(f"{value!r} is no time with its zone: write 2026-11-27T06:00:00Z", param, ctx)
        return found


_FILE: Final = click.Path(path_type=Path)

_keys = click.option(
    "--public-key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A replica's audit-key.pub; one for each that ever sealed.",
)


@click.command()
@click.argument("file", type=click.File("w", lazy=True, atomic=True), default="-")
@asks
def export(*, file: IO[str], api: Api) -> None:
    r"""Write the whole audit to FILE: entries, leaves, checkpoints, as JSON lines. This is audited.

    \b
    certvoy audit export audit.jsonl
    """
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    first = {"format": FORMAT, "at": at, **api.post("v1", "audit", "exports")}
    written = 0
    for line in chain([first], _audit(api)):
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        written += "leaf" in line
    note(f"{written} entries; `certvoy audit verify --export FILE --as-of {at}` needs no server")


@click.command()
@_keys
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A replica's file of checkpoints: without one nobody knows whether the newest entries are missing.",
)
@click.option("--export", "exported", type=_FILE, help="What `audit export` wrote, in place of a server.")
@click.option(
    "--as-of",
    type=_Moment(),
    help="When the export was made, as `audit export` said: later checkpoints say nothing against it.",
)
@click.option("--proof", type=_FILE, help="What `audit prove` wrote: one entry, in place of all.")
@json_option
@asks(unless=("exported", "proof"))
def verify(
    *,
    keys: Sequence[Path],
    checkpoints: Sequence[Path],
    exported: Path | None,
    as_of: datetime | None,
    proof: Path | None,
    as_json: bool,
    api: Api,
) -> None:
    r"""Recompute the audit from its entries up to signed checkpoints; say which leaf is the first bad one.

    The exit code is 1 where anything is wrong. What is verified may come from who is not trusted: keys and
    checkpoints may not.

    \b
    certvoy audit verify --public-key audit-key.pub --checkpoints audit-checkpoints.jsonl
    certvoy audit verify --public-key audit-key.pub --checkpoints kept.jsonl --export audit.jsonl --as-of TIME
    """
    known = frozenset(_key(path) for path in keys)
    if proof is not None:
        with _opened(proof, "--proof") as file:
            _verify_proof(file, known)
        return
    with _opened(exported, "--export") if exported is not None else nullcontext() as file:
        # Before the audit is read: what is sealed meanwhile is not missing. When an export was made is not
        # taken from the export: whoever cuts its end off would say that it is of then.
        notes = [found for path in checkpoints for found in _witnessed(path, until=as_of)]
        lines = _audit(api) if file is None else _exported(file)
        report = _report(lines, known, notes)
    if as_json:
        print_json(_document(report))
    elif not report.findings:
        click.echo(
            f"{report.size} entries are as they were sealed, under {report.checkpoints} checkpoints; root"
            f" {report.root.hex()}; {report.unsealed} not sealed yet"
        )
        if not notes:
            note("no --checkpoints: that nothing is missing at the end is the database's word alone")
    if report.findings:
        for finding in report.findings[: 0 if as_json else SHOWN]:
            note(f"leaf {finding.index}: {finding.what}")
        first = report.findings[0]
        raise AuditBroken(
            f"the audit is not what was sealed: the first bad leaf is {first.index}",
            hint="keep database, checkpoints and this output as they are, and find out who could write there"
            + ("" if exported is None or as_of is not None else _AS_OF),
        )


@click.command()
@click.argument("entry", type=click.IntRange(1))
@asks
def prove(*, entry: int, api: Api) -> None:
    r"""Print a proof that ENTRY (an id of `audit ls --json`) is in the audit, for who has no access to it.

    \b
    certvoy audit prove 42 > proof.json
    certvoy audit verify --public-key audit-key.pub --proof proof.json
    """
    print_json(api.get("v1", "audit", str(entry), "proof"))


def _audit(api: Api) -> Iterator[dict[str, Any]]:
    """Yield the audit in the verifier's order."""
    yield from api.pages("v1", "audit", "leaves")
    yield from api.pages("v1", "audit", "unsealed")


def _exported(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield an export's lines behind its first, which says that it is one."""
    first = next(_lines(file), {})
    if first.get("format") != FORMAT:
        raise AuditBroken(
            f"{file.name}: it is no export of the audit", hint="`certvoy audit export` writes one"
        )
    return _lines(file, after=1)


def _lines(file: IO[bytes], *, after: int = 0) -> Iterator[dict[str, Any]]:
    for number in count(after + 1):
        raw = file.readline(LINE_BYTES_MAX + 1)
        if not raw:
            return
        yield _line(file.name, number, raw)


def _line(name: str, number: int, raw: bytes) -> dict[str, Any]:
    found = None
    if len(raw) <= LINE_BYTES_MAX:
        with suppress(ValueError, RecursionError):
            found = json.loads(raw.decode())
    if not isinstance(found, dict):
        raise AuditBroken(f"{name}, line {number}: it is no JSON object", hint="export the audit again")
    return found


def _report(lines: Iterable[dict[str, Any]], keys: frozenset[PublicKey], notes: Sequence[str]) -> Report:
    verifier = Verifier(keys, known=notes)
    for line in lines:
        try:
            if "unsealed" in line:
                verifier.unsealed(_a(dict, line["unsealed"]))
                continue
            entry = None if line["entry"] is None else _a(dict, line["entry"])
            verifier.leaf(_a(int, line["leaf"]), bytes.fromhex(line["hash"]), entry)
            if line["checkpoint"] is not None:
                verifier.checkpoint(_a(str, line["checkpoint"]))
        except _NONE_OF_OURS as e:
            raise AuditBroken(f"this is no line of an audit: its keys are {ascii([*line])[:200]}") from e
    return verifier.end()


def _a(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} was expected")
    return value


def _verify_proof(file: IO[bytes], keys: frozenset[PublicKey]) -> None:
    found = _line(file.name, 1, file.read(LINE_BYTES_MAX + 1))
    try:
        path = tuple(bytes.fromhex(step) for step in found["path"])
        proof = Proof(_a(dict, found["entry"]), _a(int, found["leaf"]), path, _a(str, found["checkpoint"]))
        head = proof.check(keys)
    except _NONE_OF_OURS as e:
        raise AuditBroken(f"{file.name}: it is no proof", hint="`certvoy audit prove` writes one") from e
    click.echo(f"entry {proof.document['id']} is leaf {proof.index} of the {head.size} of {head.origin}:")
    print_json(proof.document)


def _opened(path: Path, option: str) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as e:
        raise ConfigError(f"{option} {path}: {e.strerror}", hint="name the file that certvoy wrote") from e


def _witnessed(path: Path, *, until: datetime | None) -> Sequence[str]:
    if not path.exists():
        raise ConfigError(f"--checkpoints: there is no {path}", hint="it is in a replica's state_dir")
    found = witness.read(path, until=until)
    if found.given_up:
        note(f"{path}: {found.given_up} checkpoints were given up, when somebody acknowledged a fork")
    return found.notes


def _key(path: Path) -> PublicKey:
    try:
        return PublicKey.parse(path.read_text())
    except (OSError, UnicodeDecodeError) as e:
        said = getattr(e, "strerror", None) or str(e)
        raise ConfigError(
            f"--public-key {path}: {said}",
            hint="name a replica's audit-key.pub: by default it is in that one's state_dir",
        ) from e
    except AuditBroken as e:
        raise ConfigError(f"--public-key {path}: {e.message}", hint=e.hint) from e


def _document(report: Report) -> dict[str, Any]:
    return {
        "leaves": report.size,
        "root": report.root.hex(),
        "checkpoints": report.checkpoints,
        "unsealed": report.unsealed,
        "findings": [{"leaf": finding.index, "what": finding.what} for finding in report.findings],
    }
