"""Fixtures that many tests share."""

from tests.support.databases import connect, database, postgres, sql

__all__ = ["connect", "database", "postgres", "sql"]
