"""The engine: what turns messages into committed turns on one host. Runs on the store port; knows no Ray and no SQL.

Read `activation.py` for one entity's life and `engine.py` for a host full of them; `run.py` and `loop.py` are the
workflow side; `committer.py` is the group commit.
"""
