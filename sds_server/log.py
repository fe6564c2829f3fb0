"""Logs: one JSON object a line, fixed event names (`noun.verb`, past tense), everything variable a field.

The names are those of `log_events.EVENTS`. What libraries say through the standard library's logging comes
out in the same way, as ``library.said``. No local variables in tracebacks: structlog's defaults would print
keys that lie in a frame; and the last step before a line is written takes out what looks secret all the same.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from sds_server.redact import redact

Logger = structlog.typing.FilteringBoundLogger

ENGINE = "acme_engine"
"""Its records have names of the vocabulary for messages, and fields in ``extra``."""

_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(*, level: str = "info", stream: TextIO | None = None, **context: Any) -> None:
    """Send every logger's events to ``stream`` (stderr) as JSON lines; ``context`` is bound to each."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            _redacted,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)
    logging.basicConfig(handlers=[_Library()], level=max(number, logging.INFO), force=True)
    logging.getLogger(ENGINE).setLevel(number)
    logging.captureWarnings(capture=True)


def get(name: str) -> Logger:
    """Return the logger of a module's noun: ``get("rotation")``."""
    logger: Logger = structlog.get_logger(component=name)
    return logger


_NO_HTTP: Final = "aiohttp.http_exceptions"
"""Where aiohttp has its errors about what was sent; by name, as a command that logs need not load it."""


class _Library(logging.Handler):
    """Takes the records of the standard library's logging into our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        library = record.name.partition(".")[0]
        if library == ENGINE:
            event = str(record.msg)
            fields = {name: value for name, value in vars(record).items() if name not in _RECORD}
        else:
            event, fields = "library.said", {"logger": record.name, "message": _message(record)}
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        exception = record.exc_info
        if exception and type(exception[1]).__module__ == _NO_HTTP:
            # Whoever can connect can say it, such as an Envoy that was given the API's port in place of
            # SDS's: nobody must act at once, and aiohttp's traceback holds all that was sent, 19 kB.
            level, exception = min(level, logging.WARNING), None
            fields["message"] = f"{fields['message']}: no HTTP/1.1 request"
        get(library).log(level, event, exc_info=exception, **fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # its arguments do not fit its format
        return str(record.msg)


def _redacted(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    plain: MutableMapping[str, Any] = redact(event)
    return plain
