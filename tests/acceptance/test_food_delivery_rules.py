"""The rules of story 1 as plain method calls, and the promises of the services around it. No cluster."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from examples.food_delivery import outside
from examples.food_delivery.entities import Board, Customer, Limits, Order, Status
from examples.food_delivery.menu import MENU, product_by_id
from perdure.entities import ApplicationError

PIZZA = MENU[0]


def order(status: Status, key: str = "o-1") -> Order:
    return Order(key=key, customer_id="ada", product=PIZZA, status=status)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Charging card", "Charging card"),
        ("Paid", "Picked up"),
        ("Picked up", "Picked up"),
        ("Delivered", "Delivered"),
        ("Refunding", "Refunding"),
    ],
)
async def test_only_a_paid_order_is_picked_up(before: Status, after: Status) -> None:
    it = order(before)
    await it.pick_up()
    assert it.status == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Charging card", "Charging card"),
        ("Paid", "Paid"),
        ("Picked up", "Delivered"),
        ("Refunding", "Refunding"),
    ],
)
async def test_only_a_picked_up_order_is_delivered(before: Status, after: Status) -> None:
    it = order(before)
    await it.deliver()
    assert it.status == after
    assert (it.delivered_at is not None) == (after == "Delivered")


async def test_the_time_of_delivery_is_noted_once() -> None:
    it = order("Delivered")
    it.delivered_at = noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    await it.deliver()
    assert it.delivered_at == noon


async def test_only_who_was_asked_can_rate() -> None:
    it = order("Delivered")
    await it.rate(4)
    assert it.stars is None
    it.is_rating_wanted = True
    await it.rate(4)
    assert (await it.state()).stars == 4


async def test_a_customer_pays_only_for_what_arrived() -> None:
    ada = Customer(key="ada")
    await ada.remember(await order("Delivered", "o-1").state())
    await ada.remember(await order("Refunding", "o-2").state())
    await ada.remember(await order("Delivered", "o-3").state())
    account = await ada.account()
    assert (account.meals, account.spent_cents) == (2, 2 * PIZZA.price_cents)
    assert [past.key for past in account.history] == ["o-3", "o-2", "o-1"]


async def test_the_details_of_a_customers_orders_are_bounded_and_the_totals_are_not() -> None:
    ada = Customer(key="ada")
    for number in range(150):
        await ada.remember(await order("Delivered", f"o-{number}").state())
    assert (len(ada.history), ada.meals, ada.history[0].key) == (100, 150, "o-149")


async def test_the_board_shows_what_a_driver_can_act_on() -> None:
    board = Board(key="main")
    steps: list[Status] = ["Paid", "Picked up", "Delivered"]
    seen: list[list[Status]] = []
    for status in steps:
        await board.update(await order(status).state())
        seen.append([shown.status for shown in await board.open_orders()])
    assert seen == [["Paid"], ["Picked up"], []]


def test_an_unknown_product_is_named() -> None:
    with pytest.raises(ApplicationError, match="no product 99") as raised:
        product_by_id(99)
    assert raised.value.type == "UnknownProduct"


def test_every_picture_on_the_menu_exists() -> None:
    drawings = (Path(outside.__file__).parent / "static" / "food.svg").read_text()
    assert [product.id for product in MENU if f'id="{product.picture}"' not in drawings] == []


def test_limits_are_part_of_the_input_and_have_no_unknown_parts() -> None:
    assert Limits.model_validate_json('{"pick_up_s": 3}').deliver_s == 60
    with pytest.raises(ValidationError):
        Limits.model_validate_json('{"pick_up": 3}')


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(outside, "BOOKS", tmp_path / "books.sqlite")
    monkeypatch.setattr(outside.weather, "failure_rate", 0)
    outside.open_books()
    with TestClient(outside.app) as client:
        yield client


CHARGE = {"idempotency_key": "k", "order_id": "o-1", "cents": 1150, "card": "4242"}


def test_the_payment_service_charges_once_per_key(services: TestClient) -> None:
    first, again = (services.post("/charges", json=CHARGE).json() for _ in range(2))
    other = services.post("/charges", json=CHARGE | {"idempotency_key": "other"}).json()
    assert first == again != other
    assert [charge["requests"] for charge in services.get("/charges").json()] == [2, 1]


def test_the_payment_service_may_die_after_the_work_and_still_charges_once(
    services: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = iter([0.9, 0.1, 0.9, 0.9])  # fine before the work, down after it; then fine twice
    monkeypatch.setattr(outside.weather, "failure_rate", 0.5)
    monkeypatch.setattr("random.random", lambda: next(chances))
    assert services.post("/charges", json=CHARGE).status_code == 503
    assert services.post("/charges", json=CHARGE).status_code == 200
    [charge] = services.get("/charges").json()
    assert charge["requests"] == 2


def test_a_declined_card_is_a_refusal_and_an_outage_is_not(
    services: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.post("/charges", json=CHARGE | {"card": outside.DECLINED_CARD}).status_code == 402
    monkeypatch.setattr(outside.weather, "failure_rate", 1)
    assert services.post("/charges", json=CHARGE).status_code == 503
    assert services.get("/charges").json() == []


def test_a_refund_is_noted_once(services: TestClient) -> None:
    payment = services.post("/charges", json=CHARGE).json()["payment"]
    times: list[float] = []
    for _ in range(2):
        services.post("/refunds", json={"idempotency_key": "r", "payment": payment})
        times.append(services.get("/charges").json()[0]["refunded_at"])
    assert times[0] is not None
    assert times[0] == times[1]
