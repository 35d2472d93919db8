"""A module for `perdure dev` with an application of its own."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan
from tests.dev import shop


@asynccontextmanager
async def opening(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    await shop.Basket.ref("opening").add(shop.Item(name="first"))
    yield {"motto": "open"}


app = FastAPI(lifespan=lifespan([shop.Basket], inner=opening))
install(app)
app.include_router(entity_router(shop.Basket), prefix="/baskets")


@app.get("/total/{key}")
async def total(key: str) -> int:
    return await shop.Basket.ref(key).count()


@app.get("/fail/{key}")
async def fail(key: str) -> None:
    await shop.Basket.ref(key).fail()
