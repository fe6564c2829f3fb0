"""Logs: one JSON object a line, fixed event names (`noun.verb`, past tense), everything variable a field.

No local variables in tracebacks: structlog's defaults would print keys that lie in a frame.
"""

import logging
import sys
from typing import Any, TextIO

import structlog

Logger = structlog.typing.FilteringBoundLogger


def configure(*, level: str = "info", stream: TextIO | None = None, **context: Any) -> None:
    """Send every logger's events to ``stream`` (stderr) as JSON lines; ``context`` is bound to each."""
    structlog.reset_defaults()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)


def get(name: str) -> Logger:
    """Return the logger of a module's noun: ``get("rotation")``."""
    logger: Logger = structlog.get_logger(component=name)
    return logger
