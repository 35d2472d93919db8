"""Workloads W1 to W13: what is done to entities, and what must be true of it afterwards.

W12 (two namespaces) is about authorisation and has tests of its own; W14 is W9 for a day.
"""
