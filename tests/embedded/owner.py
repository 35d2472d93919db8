"""A process of its own that uses the embedded Postgres: `python owner.py <directory>`.

It starts the server, prints one line of JSON about it, and stops it when standard input ends.
"""

import json
import sys
from pathlib import Path

from perdure.cluster.embedded import EmbeddedPostgres, PostgresUnavailable


def tell(answer: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def main() -> None:
    try:
        with EmbeddedPostgres(Path(sys.argv[1])) as server:
            answer: dict[str, object] = {"dsn": server.dsn, "pid": server.postmaster_pid, "is_owner": server.is_owner}
            tell(answer)
            sys.stdin.read()
    except PostgresUnavailable as error:
        tell({"error": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main()
