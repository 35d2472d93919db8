"""The world outside: a payment service and a push service, as unreliable as the real ones.

It knows nothing of Perdure, runs in a process of its own (the demo starts it; by hand it is
`python -m examples.food_delivery.outside`), and keeps its books in a SQLite file, so that after everything has been
killed anybody can look whether a card was charged once.
"""

import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

URL = os.environ.get("FOOD_DELIVERY_OUTSIDE_URL", "http://127.0.0.1:8400")
BOOKS = Path(os.environ.get("FOOD_DELIVERY_BOOKS", ".perdure/food_delivery_outside.sqlite"))
DECLINED_CARD = "0002"

TABLES = """
    create table if not exists charges (
        idempotency_key text primary key, payment text, order_id text, cents int, at real,
        requests int default 1, refunded_at real
    );
    create table if not exists pushes (
        id integer primary key, idempotency_key text unique, customer_id text, text text, at real
    );
"""

app = FastAPI(title="The world outside")


class Weather(BaseModel):
    failure_rate: Annotated[float, Field(ge=0, le=1)]
    """Share of the requests that fail; 1 is an outage."""


weather = Weather(failure_rate=float(os.environ.get("FOOD_DELIVERY_FAILURE_RATE", "0.25")))


@contextmanager
def unreliable() -> Generator[None]:
    """Sometimes the service is down, and sometimes it goes down just after the work: then nobody hears its answer."""
    stumble("before the work")
    yield
    stumble("after the work")


def stumble(when: str) -> None:
    if weather.failure_rate == 1 or random.random() < weather.failure_rate / 2:
        raise HTTPException(503, f"temporarily unavailable ({when})")


@contextmanager
def books() -> Generator[sqlite3.Connection]:
    """One transaction."""
    with closing(sqlite3.connect(BOOKS, timeout=10)) as db, db:
        db.row_factory = sqlite3.Row
        yield db


class Request(BaseModel):
    idempotency_key: str


class Charge(Request):
    order_id: str
    cents: int
    card: str


@app.post("/charges")
def charge(request: Charge) -> dict[str, str]:
    with unreliable(), books() as db:
        if request.card == DECLINED_CARD:
            raise HTTPException(402, "card declined")
        (payment,) = db.execute(
            "insert into charges (idempotency_key, payment, order_id, cents, at) values (?, ?, ?, ?, ?) "
            "on conflict do update set requests = requests + 1 returning payment",
            (request.idempotency_key, f"pay-{uuid4().hex[:8]}", request.order_id, request.cents, time.time()),
        ).fetchone()
        return {"payment": payment}


@app.get("/charges")
def charges(order_id: str | None = None) -> list[dict[str, Any]]:
    with books() as db:
        rows = db.execute("select * from charges where ?1 is null or order_id = ?1 order by at", (order_id,))
        return [dict(row) for row in rows]


class Refund(Request):
    payment: str


@app.post("/refunds")
def refund(request: Refund) -> dict[str, str]:
    with unreliable(), books() as db:
        db.execute(
            "update charges set refunded_at = coalesce(refunded_at, ?) where payment = ?",
            (time.time(), request.payment),
        )
        return {}


class Push(Request):
    customer_id: str
    text: str


@app.post("/pushes")
def push(request: Push) -> dict[str, str]:
    with unreliable(), books() as db:
        db.execute(
            "insert into pushes (idempotency_key, customer_id, text, at) values (?, ?, ?, ?) on conflict do nothing",
            (request.idempotency_key, request.customer_id, request.text, time.time()),
        )
        return {}


@app.get("/pushes")
def pushes(customer_id: str, after: int = 0) -> list[dict[str, Any]]:
    """What the customer's phone shows."""
    with books() as db:
        rows = db.execute("select * from pushes where customer_id = ? and id > ? order by id", (customer_id, after))
        return [dict(row) for row in rows]


@app.get("/weather")
def get_weather() -> Weather:
    return weather


@app.put("/weather")
def put_weather(wanted: Weather) -> Weather:
    weather.failure_rate = wanted.failure_rate
    return weather


def open_books() -> None:
    BOOKS.parent.mkdir(parents=True, exist_ok=True)
    with books() as db:
        db.executescript(TABLES)


def main() -> None:
    open_books()
    address = urlsplit(URL)
    server = uvicorn.Server(
        uvicorn.Config(app, address.hostname or "127.0.0.1", address.port or 80, log_level="warning")
    )
    if "--until-stdin-closes" in sys.argv:  # whoever started it is gone, in whatever way

        def wait_for_end() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=wait_for_end, daemon=True).start()
    server.run()


if __name__ == "__main__":
    main()
