"""P1: an error says "not applied" only of what was not applied."""

import asyncio

import pytest

from perdure.entities import CallTimeout, Entity, Unavailable, workflow
from perdure.entities.client import use
from perdure.entities.ids import EntityId
from perdure.entities.messages import IN_DOUBT, Envelope, Kind, Reply, Status
from perdure.entities.testing import LocalCluster

from .faults import Fault, FaultyStore
from .waiting import eventually


class Deaf:
    """A client whose connection goes after so many requests."""

    session = "deaf"
    default_timeout_s = 1.0

    def __init__(self, cluster: LocalCluster, *, requests: int) -> None:
        self.cluster = cluster
        self.requests = requests
        self.kinds: list[Kind] = []

    async def request(self, envelope: Envelope, *, timeout_s: float) -> Reply:
        if len(self.kinds) == self.requests:
            raise Unavailable("no host took it; it was not applied")
        self.kinds.append(envelope.kind)
        return await self.cluster.request(envelope, timeout_s=timeout_s)


class Trip(Entity):
    legs: int = 0

    @workflow
    async def travel(self, legs: int) -> int:
        self.legs += legs
        return self.legs


async def test_a_workflow_that_was_started_is_never_reported_as_not_applied() -> None:
    """Found by simulation (W9, seed 30032): the question for the result got lost, and its error was passed on."""
    async with LocalCluster([Trip]) as cluster:
        with use(Deaf(cluster, requests=1)), pytest.raises(CallTimeout, match=r"was started.*\.travel\.result\(\)"):
            await Trip.ref("t").travel(3)
        assert await Trip.ref("t").travel.result() == 3


async def test_a_workflow_that_was_not_started_is_reported_as_not_applied() -> None:
    async with LocalCluster([Trip]) as cluster:
        with use(Deaf(cluster, requests=0)), pytest.raises(Unavailable):
            await Trip.ref("t").travel(3)
        assert await Trip.ref("t").travel(2) == 2


async def test_what_was_in_an_unknown_commit_when_its_shard_left_is_not_said_to_be_refused(
    cluster: LocalCluster, store: FaultyStore
) -> None:
    """Found by simulation (W5, seed 37): its client was told "not applied" in the end, and it was."""
    engine, entity = cluster.engines[0], EntityId("Account", "a")
    replies: list[Reply] = []
    store.hold_commits()
    for number in (1, 2):  # one in the commit; one that never ran
        message = Envelope(f"m{number}", entity.type, entity.key, Kind.CALL, "deposit", b'{"amount": 5}', "me", number)
        engine.deliver(message, replies.append)
        await store.waiting.wait()
    store.faults.append(Fault.AFTER)
    leaving = asyncio.create_task(engine.disown({engine.shard_of(entity)}))
    await eventually(lambda: not engine.owns(entity))
    store.let_commits_go()
    await leaving
    told = {reply.id: (reply.status, reply.body) for reply in replies}
    assert told["m1"] == (Status.NOT_OWNER, IN_DOUBT)
    assert told["m2"][0] is Status.NOT_OWNER
    assert store.version("Account/a") == 1
