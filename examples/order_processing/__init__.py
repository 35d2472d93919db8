"""Four steps in a row, of which a crash repeats none. Start with `entities.py`."""
