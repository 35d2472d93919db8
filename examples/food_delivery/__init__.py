"""Food delivery: a menu, a driver, flaky services, and orders that survive everything. Start with `entities.py`."""
