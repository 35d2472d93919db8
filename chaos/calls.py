"""The two ways in, made equal: through the client of this process, and through gateways over HTTP.

Both raise what the client raises: OutcomeUnknown when nobody can say, other PerdureErrors when it was certainly not
applied.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Protocol

import httpx

from campaigns.entities import Sink, Source
from campaigns.safes import Safe, Transfer, move
from perdure.entities import ApplicationError, HostKilled, OutcomeUnknown, Unavailable

from .entities import Alarm, Clock, Crowd, Errand, Ledger, Villain

CALL_S = 5.0
"""How long a client waits for one answer."""
TYPES: dict[str, Any] = {
    cls.__name__: cls for cls in (Sink, Source, Safe, Transfer, Alarm, Clock, Crowd, Errand, Ledger, Villain)
}
_DEFINITE = {"unavailable", "busy"}
"""Codes of answers that promise that nothing was done and that trying again may help."""


class Gone(Exception):
    """There is no point in going on with this one."""


class Caller(Protocol):
    """A way in."""

    can_move: bool
    """Transactions begin in a process of the cluster."""

    @property
    def via(self) -> str:
        """Which way the last call of this task took."""
        ...

    async def call(self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str) -> Any: ...

    async def send(
        self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str
    ) -> None: ...

    async def query(self, type_name: str, key: str, name: str) -> Any: ...

    async def start(self, type_name: str, key: str, args: dict[str, Any]) -> None: ...

    async def move(self, source: str, target: str, amount: int) -> None: ...

    async def close(self) -> None: ...


class ClientCaller:
    """Through this process's ambient client."""

    via = "client"
    can_move = True

    async def call(self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str) -> Any:
        method = getattr(TYPES[type_name].ref(key), name)
        return await method.options(idempotency_key=idempotency_key, timeout=CALL_S)(**args)

    async def send(self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str) -> None:
        method = getattr(TYPES[type_name].ref(key), name)
        await method.options(idempotency_key=idempotency_key, timeout=CALL_S).send(**args)

    async def query(self, type_name: str, key: str, name: str) -> Any:
        return await getattr(TYPES[type_name].ref(key), name).options(timeout=CALL_S)()

    async def start(self, type_name: str, key: str, args: dict[str, Any]) -> None:
        await TYPES[type_name].ref(key).run.options(timeout=CALL_S).start(**args)

    async def move(self, source: str, target: str, amount: int) -> None:
        await move(Safe.ref(source), Safe.ref(target), amount)

    async def close(self) -> None:
        pass


class HttpCaller:
    """Through one of several gateways, chosen anew for every request as a balancer without health checks would."""

    can_move = False

    def __init__(self, ports: Sequence[int], rng: random.Random) -> None:
        self._http = httpx.AsyncClient(timeout=CALL_S, limits=httpx.Limits(max_connections=200))
        self._ports = ports
        self._rng = rng
        self._via: dict[asyncio.Task[Any] | None, str] = {}

    @property
    def via(self) -> str:
        """See Caller."""
        return self._via.get(asyncio.current_task(), "http")

    async def call(self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str) -> Any:
        return await self._ask("POST", f"{type_name}/{key}/{name}", args, {"Idempotency-Key": idempotency_key})

    async def send(self, type_name: str, key: str, name: str, args: dict[str, Any], *, idempotency_key: str) -> None:
        headers = {"Idempotency-Key": idempotency_key, "Prefer": "respond-async"}
        await self._ask("POST", f"{type_name}/{key}/{name}", args, headers)

    async def query(self, type_name: str, key: str, name: str) -> Any:
        return await self._ask("GET", f"{type_name}/{key}/{name}", None, {})

    async def start(self, type_name: str, key: str, args: dict[str, Any]) -> None:
        await self._ask("POST", f"{type_name}/{key}/run/start", args, {})

    async def move(self, source: str, target: str, amount: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        port = self._rng.choice(self._ports)
        self._via[asyncio.current_task()] = f"http:{port}"
        url = f"http://127.0.0.1:{port}/entities/{path}"
        try:
            answer = await self._http.request(method, url, json=body, headers=headers)
        except httpx.ConnectError as error:
            raise Unavailable(f"gateway {port}: {error}") from error
        except httpx.TransportError as error:
            raise OutcomeUnknown(f"gateway {port}: {error!r}") from error
        if answer.is_success:
            return answer.json() if answer.content else None
        problem = answer.json()
        if problem.get("code") in _DEFINITE:
            raise Unavailable(f"gateway {port}: {problem}")
        if problem.get("code") == HostKilled.code:
            raise HostKilled(f"gateway {port}: {problem}", reason="")
        if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
            raise ApplicationError(f"gateway {port}: {problem}")
        raise OutcomeUnknown(f"gateway {port}: {problem}")
