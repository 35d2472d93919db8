"""Campaigns: a real cluster under load, real faults, and a verdict. `python -m campaigns` lists them."""
