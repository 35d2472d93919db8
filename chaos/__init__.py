"""Chaos: a whole installation of several Ray nodes under load, faults drawn by a seed, and a verdict (`python -m chaos`)."""
