"""Transactional steps without Postgres, for tests of workflows that have some."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..transactional import StepAttempt


class FakeSteps:
    """`StepTransactions` in memory: `steps = FakeSteps(connection)`, `LocalCluster([...], steps=lambda: steps)`.

    `connection()` opens what the steps receive first (whatever they are happy with) as one transaction: its context
    manager commits on leaving, and rolls back if an exception passes. Each operation is done once.
    """

    def __init__(self, connection: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._connection = connection
        self.results: dict[str, bytes] = {}
        """JSON result by idempotency key of each step that was done."""

    async def run(self, attempt: StepAttempt) -> bytes:
        """See StepTransactions."""
        key = attempt.info.idempotency_key
        if key not in self.results:
            async with self._connection() as connection:
                value = await attempt.fn(connection, **attempt.signature.load_arguments(attempt.args))
                result = attempt.signature.dump_result(value)
            self.results[key] = result
        return self.results[key]

    async def close(self) -> None:
        """See StepTransactions."""
