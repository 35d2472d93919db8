"""What OpenAPI says about access, so that generated clients send a key and tools can check that it is asked for."""

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI


def declare_security(app: FastAPI, *, open_paths: Collection[str]) -> None:
    """Say that every path of the application needs a credential, but for those that are open."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = {
            "ApiKey": {"type": "http", "scheme": "bearer", "description": "An API key or a token."}
        }
        document["security"] = [{"ApiKey": []}]
        for path in open_paths:
            for operation in document["paths"].get(path, {}).values():
                operation["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]
