"""Two releases of one entity, for `campaigns/rolling.py`: an answer says which of them gave it."""
