"""What people and programs touch: gateway, console and command line."""

from .activities import activity_router
from .connection import lifespan
from .gateway import create_app
from .health import health_router
from .problems import install
from .routes import entity_router, gateway_router
from .serve import serve
from .settings import Settings

__all__ = [
    "Settings",
    "activity_router",
    "create_app",
    "entity_router",
    "gateway_router",
    "health_router",
    "install",
    "lifespan",
    "serve",
]
