"""Benchmarks: `python -m bench` (or `make bench`). Prints a table and, with `--json`, machine-readable figures."""
