from perdure.cluster.memory import LEFT_MIN, Ebb, return_free_memory


def test_memory_is_given_back_once_most_of_a_crowd_has_left() -> None:
    acts: list[int] = []
    ebb = Ebb(lambda: acts.append(1))
    for active in (10, 5_000, 4_000, 2_501):
        ebb.look(active)
    assert not acts
    ebb.look(2_500)
    assert len(acts) == 1
    ebb.look(0)
    assert len(acts) == 2
    ebb.look(0)
    assert len(acts) == 2


def test_a_few_entities_that_leave_are_not_worth_it() -> None:
    acts: list[int] = []
    ebb = Ebb(lambda: acts.append(1))
    ebb.look(LEFT_MIN - 1)
    ebb.look(0)
    assert not acts


def test_free_memory_can_be_returned_on_this_platform() -> None:
    return_free_memory()
