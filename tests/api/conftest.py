from collections.abc import AsyncGenerator, Generator

import httpx
import pytest
from fastapi import FastAPI

from perdure.api import Settings, create_app, entity_router
from perdure.entities.client import set_default

from .fake import FakeCaller
from .shop import Customer, Order

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def caller() -> Generator[FakeCaller]:
    fake = FakeCaller()
    set_default(fake)
    yield fake
    set_default(None)


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings()


@pytest.fixture(scope="session")
def app(settings: Settings) -> FastAPI:
    """All classes below /entities, orders also below /orders."""
    app = create_app([Order, Customer], settings=settings)
    app.include_router(entity_router(Order), prefix="/orders")
    return app


@pytest.fixture
async def http(app: FastAPI, caller: FakeCaller) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=HERE
    ) as client:
        yield client
