"""Order processing over HTTP: `perdure dev examples.order_processing.app`."""

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan

from .activities import Cart
from .entities import Confirmation, Order

app = FastAPI(title="Order processing", lifespan=lifespan([Order]))
install(app)


@app.put("/orders/{order_id}")
async def process(order_id: str, cart: Cart) -> Confirmation:
    """Answers when all four steps are done. Asked again with the same cart, it is the same order."""
    return await Order.ref(order_id).process(cart)


app.include_router(entity_router(Order), prefix="/orders")  # GET …/at, …/process/result, POST …/process_as_graph/start
