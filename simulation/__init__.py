"""Deterministic simulation: workloads, checkers and a simulated world (docs/testing.md)."""
