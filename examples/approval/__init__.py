"""A request, a person who decides within a week, and what happens if nobody does. Start with `entities.py`."""
