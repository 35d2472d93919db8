"""P1: an error says "not applied" only of what was not applied."""

import pytest

from perdure.entities import CallTimeout, Entity, Unavailable, workflow
from perdure.entities.client import use
from perdure.entities.messages import Envelope, Kind, Reply
from perdure.entities.testing import LocalCluster


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
