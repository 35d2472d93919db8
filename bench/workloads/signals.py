"""Signal → completion: workflows that wait in a durable mailbox, senders that wait for the result."""

from bench.entities import Patient
from bench.harness import Figures, Size, each
from bench.scene import Scene

WORKFLOWS = 1_000
SENDERS = 64


async def measure(scene: Scene, size: Size) -> Figures:
    """All workflows wait before the first signal leaves."""
    number, base = size.of(WORKFLOWS), next(scene.keys)

    async def start(one: int) -> None:
        await Patient.ref(f"patient-{base}-{one}").run.start()

    async def complete(one: int) -> None:
        patient = Patient.ref(f"patient-{base}-{one}")
        await patient.go.send(one)
        assert await patient.run.result() == one

    await each(start, number, at_once=SENDERS)
    return {"signals": number / await each(complete, number, at_once=SENDERS)}
