"""Fixtures that many tests share."""

from tests.support.databases import connect, database, postgres, sql
from tests.support.promtool import promtool

__all__ = ["connect", "database", "postgres", "promtool", "sql"]
