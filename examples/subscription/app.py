"""Subscriptions over HTTP: `perdure dev examples.subscription.app`."""

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan

from .entities import Plan, Subscription, SubscriptionStatus

app = FastAPI(title="Subscription", lifespan=lifespan([Subscription]))
install(app)


@app.put("/subscriptions/{customer}")
async def subscribe(customer: str, plan: Plan) -> SubscriptionStatus:
    """Subscribing again to the same plan is the same subscription; to another plan, a conflict."""
    subscription = Subscription.ref(customer)
    await subscription.run.start(plan)
    return await subscription.state()


@app.delete("/subscriptions/{customer}")
async def cancel(customer: str) -> SubscriptionStatus:
    subscription = Subscription.ref(customer)
    await subscription.cancel()
    return await subscription.state()


app.include_router(entity_router(Subscription), prefix="/subscriptions")  # GET …/state, …/run/result
