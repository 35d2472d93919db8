"""Money from one account to another in three ways: with patience, taken back, all at once. Start with `entities.py`."""
