"""Entities of the campaigns. Each keeps just enough for a checker to see what was lost, doubled or out of order."""

import os

from pydantic import BaseModel

from perdure.entities import Dedicated, Entity, Mailbox, handler, query, workflow


class Counter(Entity):
    value: int = 0

    @handler
    async def add(self) -> int:
        self.value += 1
        return self.value

    @query
    async def get(self) -> int:
        return self.value


class Seen(BaseModel):
    """What a query saw, and which process answered it."""

    uids: list[str]
    pid: int


class Witness(Entity):
    """Says in every outcome which process made it."""

    uids: list[str] = []

    @handler
    async def add(self, uid: str) -> int:
        self.uids.append(uid)
        return os.getpid()

    @query
    async def seen(self) -> Seen:
        return Seen(uids=self.uids, pid=os.getpid())


class Note(Entity):
    """Sits there with a state of some size."""

    text: str = ""
    reads: int = 0

    @handler
    async def write(self, text: str) -> None:
        self.text = text

    @handler
    async def read(self) -> str:
        self.reads += 1
        return self.text


class Worker(Entity, hosting=Dedicated()):
    """Lives in a Ray actor of its own."""

    words: list[str] = []

    @handler
    async def learn(self, word: str) -> int:
        self.words.append(word)
        return os.getpid()

    @query
    async def known(self) -> list[str]:
        return self.words


class Source(Entity):
    """Sends numbered messages to every relay."""

    sent: int = 0

    @handler
    async def emit(self, count: int, relays: int) -> int:
        for _ in range(count):
            self.sent += 1
            for relay in range(relays):
                await Relay.ref(f"relay-{relay}").take.send(self.key, self.sent)
        return self.sent

    @query
    async def total(self) -> int:
        return self.sent


class Intake(BaseModel):
    """What a receiver has taken, by sender."""

    last: dict[str, int]
    wrong: list[str]


class Relay(Entity):
    """Takes numbered messages, and passes each on."""

    last: dict[str, int] = {}
    wrong: list[str] = []

    @handler
    async def take(self, source: str, number: int) -> None:
        note_number(self.last, self.wrong, source, number)
        await Sink.ref(f"sink-of-{self.key}").take.send(f"{self.key}<{source}", number)

    @query
    async def intake(self) -> Intake:
        return Intake(last=self.last, wrong=self.wrong)


class Sink(Entity):
    """The end of the chain; also takes messages of clients."""

    last: dict[str, int] = {}
    wrong: list[str] = []

    @handler
    async def take(self, source: str, number: int) -> None:
        note_number(self.last, self.wrong, source, number)

    @query
    async def intake(self) -> Intake:
        return Intake(last=self.last, wrong=self.wrong)


class Ruling(BaseModel):
    """A decision on an approval."""

    is_approved: bool
    by: str


class Stream(Entity):
    """Handles numbered signals for a long time; begins a new journal now and then."""

    received: int = 0
    numbers = Mailbox(int)

    @workflow
    async def run(self, per_journal: int, until: int) -> int:
        for _ in range(per_journal):
            number = await self.numbers.receive()
            if number != self.received + 1:
                raise ValueError(f"signal {number} came after {self.received}")
            self.received = number
            if number == until:
                break
        else:
            await self.run.continue_as_new(per_journal, until)
        return self.received


class Approval(Entity):
    """Waits for its decision, however long that takes."""

    status: str = "waiting"
    decision = Mailbox(Ruling)

    @workflow
    async def run(self, request: str, clerks: int) -> str:
        ruling = await self.decision.receive()
        self.status = f"{request} {'approved' if ruling.is_approved else 'rejected'} by {ruling.by}"
        clerk = Clerk.ref(f"clerk-{int(self.key[1:]) % clerks}")
        await clerk.process.send(self.key, ruling.by)
        return ruling.by


class Clerk(Entity):
    """Writes down every decision that reaches it."""

    decisions: list[str] = []

    @handler
    async def process(self, approval: str, by: str) -> None:
        self.decisions.append(f"{approval}: {by}")

    @query
    async def processed(self) -> list[str]:
        return self.decisions


def note_number(last: dict[str, int], wrong: list[str], source: str, number: int) -> None:
    """Numbers of one source come as 1, 2, 3, …; anything else is remembered."""
    expected = last.get(source, 0) + 1
    if number != expected and len(wrong) < 100:
        wrong.append(f"{source}: {number} came instead of {expected}")
    last[source] = max(last.get(source, 0), number)
