"""Where entities are kept: the port that the engine runs on, and its in-memory implementation."""
