"""Food delivery over HTTP: `perdure dev examples.food_delivery.app`, then open http://127.0.0.1:8000."""

import os
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from perdure.api import entity_router, install, lifespan

from . import demo
from .entities import Board, Customer, Limits, Order, OrderStatus
from .menu import MENU, Product

STATIC = Path(__file__).parent / "static"
LIMITS = Limits.model_validate_json(os.environ.get("FOOD_DELIVERY_LIMITS", "{}"))

app = FastAPI(title="Late Supper", lifespan=lifespan([Order, Customer, Board], inner=demo.stage))
install(app, every_error=True)


class NewOrder(BaseModel, strict=True):
    product_id: int
    customer_id: str = "guest"
    card: str = "4242"


@app.put("/orders/{order_id}")
async def place_order(order_id: str, wish: NewOrder) -> OrderStatus:
    """The customer names the order: whoever is not sure whether it arrived asks again, and it stays one order."""
    order = Order.ref(order_id)
    await order.run.start(wish.product_id, wish.customer_id, wish.card, LIMITS)
    return await order.state()


app.include_router(entity_router(Order), prefix="/orders")  # GET …/state, POST …/pick_up, …/deliver, …/rate
app.include_router(entity_router(Customer), prefix="/customers")
app.include_router(entity_router(Board), prefix="/boards")
app.include_router(demo.router, prefix="/demo")


@app.get("/products")
async def products() -> list[Product]:
    return MENU


@app.get("/", include_in_schema=False)
async def menu_page() -> FileResponse:
    return FileResponse(STATIC / "menu.html")


@app.get("/driver", include_in_schema=False)
async def driver_page() -> FileResponse:
    return FileResponse(STATIC / "driver.html")


app.mount("/static", StaticFiles(directory=STATIC))
