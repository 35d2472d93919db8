"""Greeting over HTTP: `perdure dev examples.greeting.app`."""

from fastapi import FastAPI

from perdure.api import entity_router, install, lifespan

from .entities import Greeting

app = FastAPI(title="Greeting with approval", lifespan=lifespan([Greeting]))
install(app)
app.include_router(entity_router(Greeting), prefix="/greetings")
