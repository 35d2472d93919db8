"""Chaos: an installation of several Ray nodes under load, faults drawn by a seed, a verdict. `python -m chaos`"""
