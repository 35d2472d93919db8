"""Postgres: the store port in SQL, its schema and migrations, and the start-up guard."""
