"""Thin Prefect wrappers: log, call one pure function, return a small record."""
