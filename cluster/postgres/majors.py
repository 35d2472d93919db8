"""Major versions of Postgres: which ones Perdure needs, and which its tests ran on (`make postgres-versions`)."""

MAJOR_MIN = 15
MAJOR_TESTED_MAX = 18


def major_of(server_version: int) -> int:
    """Of the number that servers and drivers give, such as 180004 for 18.4."""
    return server_version // 10_000


def untested(major: int) -> str | None:
    """A sentence about a server that is newer than what was tested; None for the others. Those too old are refused."""
    if major <= MAJOR_TESTED_MAX:
        return None
    return (
        f"Postgres {major} is newer than what this release of Perdure was tested on ({MAJOR_MIN} to"
        f" {MAJOR_TESTED_MAX}). Nothing is known to be wrong with it; look for a newer release of Perdure before you"
        " rely on it"
    )
