"""What the workloads run: the smallest useful entity and a workflow of five no-op steps."""

from perdure.entities import Entity, activity, handler, workflow

STEPS = 5


@activity
async def no_op(step: int) -> int:
    """One step."""
    return step


class Counter(Entity):
    """Adds up."""

    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        """One durable turn."""
        self.value += amount
        return self.value


class Steps(Entity):
    """Five steps in a row."""

    @workflow
    async def run(self) -> int:
        """Returns the number of steps."""
        for step in range(STEPS):
            await no_op(step)
        return STEPS
