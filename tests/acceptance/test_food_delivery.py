"""Story 1 over HTTP, against everything running: real processes, real Postgres, services that sometimes fail."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import psutil
import pytest

from .demo import Demo, until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("acceptance")]


def test_an_order_is_paid_picked_up_delivered_and_rated(demo: Demo) -> None:
    order = demo.order(product_id=2)
    demo.until(order, status="Paid")
    until(demo.open_orders, lambda orders: order in orders)
    demo.pick_up(order)
    demo.deliver(order)
    assert demo.result(order) is None
    state = demo.state(order)
    assert (state["status"], state["is_rating_wanted"], state["problem"]) == ("Delivered", True, "")
    assert datetime.fromisoformat(state["delivered_at"]) > datetime.fromisoformat(state["ordered_at"])
    assert order not in demo.open_orders()
    demo.ask("POST", f"/orders/{order}/rate", {"stars": 5})
    assert demo.state(order)["stars"] == 5
    assert [text.split()[0] for text in demo.pushes(f"of-{order}")] == ["Your", "Rate"]
    [charge] = demo.charges(order)
    assert (charge["cents"], charge["refunded_at"]) == (1390, None)


def test_a_declined_card_ends_the_order_and_tells_the_customer(demo: Demo) -> None:
    order = demo.order(card="0002")
    problem = demo.result(order, expect=422)
    assert (problem["error_type"], problem["cause"]["message"]) == ("CardDeclined", "card declined")
    assert demo.state(order)["problem"] == "card declined"
    assert demo.charges(order) == []
    [push] = demo.pushes(f"of-{order}")
    assert "card declined" in push


def test_an_order_that_nobody_picks_up_is_refunded(demo: Demo) -> None:
    order = demo.order(pick_up_s=0.3)
    assert "not picked up in time" in demo.result(order, expect=422)["detail"]
    assert_refunded(demo, order, "not picked up in time")


def test_an_order_that_is_not_delivered_is_refunded(demo: Demo) -> None:
    order = demo.order(deliver_s=0.3)
    demo.until(order, status="Paid")
    demo.pick_up(order)
    assert "not delivered in time" in demo.result(order, expect=422)["detail"]
    assert_refunded(demo, order, "not delivered in time")


def assert_refunded(demo: Demo, order: str, reason: str) -> None:
    state = demo.state(order)
    assert (state["status"], state["problem"]) == ("Refunding", reason)
    [charge] = demo.charges(order)
    assert charge["refunded_at"] is not None
    assert reason in demo.pushes(f"of-{order}")[-1]
    until(demo.open_orders, lambda orders: order not in orders)
    demo.pick_up(order)
    demo.deliver(order)
    assert demo.state(order) == state


def test_an_unknown_product_fails_the_order_with_a_clear_error(demo: Demo) -> None:
    order = demo.order(product_id=99)
    problem = demo.result(order, expect=422)
    assert problem["error_type"] == "UnknownProduct"
    assert "there is no product 99 on the menu" in problem["detail"]
    assert demo.charges(order) == []


def test_ordering_twice_under_one_id_is_one_order_and_one_charge(demo: Demo) -> None:
    wish = {"product_id": 3, "customer_id": "impatient"}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: demo.ask("PUT", "/orders/twice", wish), range(8)))
    demo.until("twice", status="Paid")
    demo.ask("PUT", "/orders/twice", wish)
    assert len(demo.charges("twice")) == 1
    problem = demo.ask("PUT", "/orders/twice", wish | {"product_id": 4}, expect=409)
    assert problem["code"] == "already_started"
    assert demo.state("twice")["product"]["id"] == 3


def test_the_driver_can_act_only_in_order(demo: Demo) -> None:
    demo.weather(1)
    order = demo.order()
    demo.pick_up(order)
    demo.deliver(order)
    assert demo.state(order)["status"] == "Charging card"
    demo.weather(0.2)
    demo.until(order, status="Paid")
    demo.deliver(order)
    assert demo.state(order)["status"] == "Paid"
    demo.pick_up(order)
    demo.pick_up(order)
    assert demo.state(order)["status"] == "Picked up"
    demo.deliver(order)
    demo.pick_up(order)
    assert demo.state(order)["status"] == "Delivered"


def test_an_order_waits_until_the_payment_service_is_back(demo: Demo) -> None:
    demo.weather(1)
    order = demo.order()
    assert demo.state(order)["status"] == "Charging card"
    demo.weather(0.2)
    demo.until(order, status="Paid")
    assert len(demo.charges(order)) == 1


def test_a_customer_keeps_the_history_and_the_totals_of_all_orders(demo: Demo) -> None:
    orders = [demo.order(product, customer_id="regular") for product in (1, 2, 3)]
    for order in orders:
        demo.until(order, status="Paid")
        demo.pick_up(order)
        demo.deliver(order)
        demo.result(order)
    failed = demo.order(4, customer_id="regular", card="0002")
    demo.result(failed, expect=422)
    account = until(lambda: demo.account("regular"), lambda account: len(account["history"]) == 4)
    assert (account["meals"], account["spent_cents"]) == (3, 1150 + 1390 + 1080)
    assert [past["key"] for past in account["history"]] == [failed, *reversed(orders)]


def test_an_order_that_nobody_made_has_a_state_too(demo: Demo) -> None:
    state = demo.state("never-ordered")
    assert (state["product"], state["ordered_at"]) == (None, None)
    assert demo.ask("GET", "/orders/never-ordered/run/result", expect=404)["code"] == "no_such_run"


def test_killing_the_host_while_the_driver_is_on_the_way_changes_nothing(demo: Demo) -> None:
    order = demo.order()
    demo.until(order, status="Paid")
    demo.pick_up(order)
    before = demo.state(order)
    pid = demo.ask("POST", f"/demo/kill-host?order_id={order}")["pid"]
    after = demo.state(order)
    assert (before["status"], after["status"]) == ("Picked up", "Picked up")
    demo.deliver(order)
    demo.result(order)
    assert demo.state(order)["is_rating_wanted"]
    assert len(demo.charges(order)) == 1
    assert_one_meal(demo, f"of-{order}")
    assert not psutil.pid_exists(pid)
    until(lambda: demo.ask("GET", "/demo/hosts")["hosts"], lambda hosts: len(hosts) == 2)


@pytest.mark.parametrize("end", [pytest.param("in order", marks=pytest.mark.long), "by SIGKILL"])
def test_orders_go_on_after_everything_was_down(demo: Demo, end: str) -> None:
    delivered, refunded = demo.order(), demo.order(pick_up_s=0.2)
    demo.until(delivered, status="Paid")
    demo.pick_up(delivered)
    demo.deliver(delivered)
    demo.result(delivered)
    demo.result(refunded, expect=422)
    waiting, away, too_late = demo.order(pick_up_s=600), demo.order(deliver_s=600), demo.order(pick_up_s=3)
    for order in (waiting, away):
        demo.until(order, status="Paid")
    until(lambda: demo.charges(too_late), lambda charges: len(charges) == 1)  # "Paid" may be over before anyone looks
    demo.pick_up(away)
    demo.weather(1)
    unpaid = demo.order()
    states = {order: demo.state(order) for order in (delivered, refunded, waiting)}  # unpaid goes on by itself

    if end == "in order":
        demo.stop()
    else:
        demo.crash()
    demo.start()

    assert {order: demo.state(order) for order in states} == states
    assert demo.state(away)["status"] == "Picked up"
    demo.weather(0.2)
    demo.until(unpaid, status="Paid")
    demo.pick_up(waiting)
    for order in (waiting, away):
        demo.deliver(order)
        assert demo.result(order) is None
        assert demo.state(order)["status"] == "Delivered"
    demo.result(too_late, expect=422)
    assert_refunded(demo, too_late, "not picked up in time")
    for order in (delivered, refunded, waiting, away, too_late, unpaid):
        assert len(demo.charges(order)) == 1
    for customer in (f"of-{order}" for order in (delivered, waiting, away)):
        assert_one_meal(demo, customer)


def assert_one_meal(demo: Demo, customer: str) -> None:
    account = until(lambda: demo.account(customer), lambda account: bool(account["meals"]))
    assert (account["meals"], len(account["history"])) == (1, 1)


def test_the_api_describes_itself(demo: Demo) -> None:
    paths = demo.ask("GET", "/openapi.json")["paths"]
    assert {"/orders/{order_id}", "/orders/{key}/pick_up", "/orders/{key}/state", "/products"} <= paths.keys()
