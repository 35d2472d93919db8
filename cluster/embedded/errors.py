"""What can go wrong with the embedded Postgres, sorted by what the reader of the message should do about it.

Every message says what happened, where, and what to do next.
"""


class PostgresUnavailable(Exception):
    """There is no database to work with. The subclasses say why; this class itself is raised for none of them."""


class BinariesNotFound(PostgresUnavailable):
    """No usable Postgres programs on this machine: install some, or give the DSN of a server that runs already."""


class DataDirectoryUnusable(PostgresUnavailable):
    """The directory cannot hold the database: no permission, somebody else's files, or out of reach for the account
    that has to run the server. What is in it was not changed.
    """


class DataDirectoryIncompatible(PostgresUnavailable):
    """The data was written by another major version of Postgres than the programs at hand. Nothing was changed."""


class DiskFull(PostgresUnavailable):
    """The file system that holds the database has no space left. Committed data is intact: free some, start again."""


class StartFailed(PostgresUnavailable):
    """The server ended while starting, or did not answer in time. The message carries the last lines of its log."""
