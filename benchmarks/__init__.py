"""Benchmarks: each prints a table, writes its figures and goals as JSON, and fails where it misses a goal."""
