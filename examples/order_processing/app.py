"""Order processing over HTTP: `perdure dev examples.order_processing.app`."""

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan
from perdure.entities import publish

from .activities import Cart
from .entities import Confirmation, Order

app = FastAPI(title="Order processing", lifespan=lifespan([Order]))
install(app)


@app.put("/orders/{order_id}")
async def process(order_id: str, cart: Cart) -> Confirmation:
    """Answers when all four steps are done. Asked again with the same cart, it is the same order."""
    return await Order.ref(order_id).process(cart)


class OrderCreated(Cart, frozen=True):
    """The event: what is ordered, and under which id."""

    order_id: str


@app.post("/events/order:create", status_code=202)
async def order_created(event: OrderCreated) -> int:
    """Answers at once: whoever subscribes will process it. Sent again it is the same event. Returns how many do."""
    return await publish("order:create", event, idempotency_key=event.order_id)


app.include_router(entity_router(Order), prefix="/orders")  # GET …/at, …/process/result, POST …/process_as_graph/start
