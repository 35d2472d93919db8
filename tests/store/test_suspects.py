"""P9: points against messages and runs over which hosts have died."""

from perdure.entities.store.rows import RunStatus, Suspicion, suspect_id

from .conftest import World
from .rows import HOUR_US, A, B, run


async def test_points_add_up_and_the_last_reason_counts(world: World) -> None:
    store = world.store
    assert await store.suspicions([(A, "m1")]) == {}
    await store.suspect([Suspicion(A, "m1", 1), Suspicion(A, "m2", 1, "first"), Suspicion(B, "m1", 3, "blocked")])
    await store.suspect([Suspicion(A, "m1", 1), Suspicion(A, "m2", 3, "second"), Suspicion(B, "m1", 1)])
    known = await store.suspicions([(A, "m1"), (A, "m2"), (B, "m1"), (B, "m2"), (A, "m1")])
    assert known == {
        (A, "m1"): Suspicion(A, "m1", 2),
        (A, "m2"): Suspicion(A, "m2", 4, "second"),
        (B, "m1"): Suspicion(B, "m1", 4, "blocked"),
    }


async def test_points_can_be_taken_back_and_nothing_is_left_of_none(world: World) -> None:
    store = world.store
    await store.suspect([Suspicion(A, "m1", 1), Suspicion(A, "m2", 3)])
    await store.suspect([Suspicion(A, "m1", -1), Suspicion(A, "m2", -1), Suspicion(B, "m1", -1)])
    assert await store.suspicions([(A, "m1"), (A, "m2"), (B, "m1")]) == {(A, "m2"): Suspicion(A, "m2", 2)}


async def test_a_change_counts_once_however_often_it_is_sent(world: World) -> None:
    store = world.store
    one, other = Suspicion(A, "m1", 1, change="c1"), Suspicion(A, "m1", 2, "seen", change="c2")
    for evidence in ([one], [other, Suspicion(B, "m1", 1, change="c1")], [one], [other], [Suspicion(A, "m1", 1)]):
        await store.suspect(evidence)
    known = await store.suspicions([(A, "m1"), (B, "m1")])
    assert known == {(A, "m1"): Suspicion(A, "m1", 4, "seen"), (B, "m1"): Suspicion(B, "m1", 1)}
    back = Suspicion(A, "m1", -1, change="c3")
    await store.suspect([back])
    await store.suspect([back])
    assert (await store.suspicions([(A, "m1")]))[A, "m1"].points == 3
    await store.acquit([(A, "m1")])
    await store.suspect([one])
    assert (await store.suspicions([(A, "m1")]))[A, "m1"].points == 1


async def test_the_acquitted_are_forgotten(world: World) -> None:
    store = world.store
    await store.suspect([Suspicion(A, "m1", 9), Suspicion(A, "m2", 1)])
    await store.acquit([(A, "m1"), (B, "never heard of")])
    await store.acquit([])
    await store.suspect([])
    assert await store.suspicions([(A, "m1"), (A, "m2")]) == {(A, "m2"): Suspicion(A, "m2", 1)}


async def test_prune_keeps_what_keeps_a_run_parked(world: World) -> None:
    store = world.store
    parked, ended = run("parked", "p", status=RunStatus.PARKED), run("ended", "e", status=RunStatus.COMPLETED)
    await world.commit(world.write(A, runs=[parked, ended]))
    kept, gone = (A, suspect_id("parked", "p")), (A, suspect_id("ended", "e"))
    await store.suspect([Suspicion(*kept, 5), Suspicion(*gone, 5), Suspicion(A, "m1", 5)])
    await store.prune(older_than_us=HOUR_US, limit=100)
    assert len(await store.suspicions([kept, gone, (A, "m1")])) == 3
    await store.prune(older_than_us=-1, limit=100)
    assert list(await store.suspicions([kept, gone, (A, "m1")])) == [kept]
