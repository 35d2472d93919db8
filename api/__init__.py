"""What people and programs touch: gateway, console and command line."""

from .access import Authenticator, Guard
from .activities import activity_router
from .api_keys import ApiClient
from .authorise import Authoriser, principal_of
from .connection import lifespan
from .console.beside import Console
from .gateway import create_app
from .gateway_client import GatewayClient
from .health import health_router
from .jwt_settings import JwtSettings
from .principal import Asked, Grant, Principal, Right
from .problems import Refused, install
from .routes import entity_router, gateway_router
from .serve import serve
from .settings import Settings
from .sync_client import SyncClient
from .webhook_signatures import GithubSignature, StandardWebhookSignature, StripeSignature, WebhookScheme
from .webhooks import WebhookEvent, webhook, webhook_router

__all__ = [
    "ApiClient",
    "Asked",
    "Authenticator",
    "Authoriser",
    "Console",
    "GatewayClient",
    "GithubSignature",
    "Grant",
    "Guard",
    "JwtSettings",
    "Principal",
    "Refused",
    "Right",
    "Settings",
    "StandardWebhookSignature",
    "StripeSignature",
    "SyncClient",
    "WebhookEvent",
    "WebhookScheme",
    "activity_router",
    "create_app",
    "entity_router",
    "gateway_router",
    "health_router",
    "install",
    "lifespan",
    "principal_of",
    "serve",
    "webhook",
    "webhook_router",
]
