"""A trial, then a bill every thirty days, for years. Start with `entities.py`."""
