"""The smallest story: somebody approves, then somebody is greeted. Start with `entities.py`."""
