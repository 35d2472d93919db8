"""A client for code without an event loop of its own: scripts, Django, Flask, notebooks.

One thread carries one event loop with one asynchronous client; every call of any thread runs there, and its thread
waits. So there is one implementation of everything, with its promises, and this adds none: whatever can be awaited can
be called. The connection is opened by the first call, so a client may be made at import and used after a fork (in each
worker of a server that preloads); one that is open cannot be taken through a fork, which is refused clearly.
"""

import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from typing import ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..entities.client import Caller, use
from ..entities.context import current
from ..entities.errors import DurableAwaitInHandler, NotConnected, OutcomeUnknown, StartRefused
from .connection import Connect
from .gateway_client import DEFAULT_TIMEOUT_S, GatewayClient
from .settings import Settings

P = ParamSpec("P")
R = TypeVar("R")


class SyncClient:
    """Calls entities from code that cannot await. May be used by any number of threads.

    ```python
    with SyncClient.over_http("https://shop.example", api_key="…") as client:
        balance = client.call(Account.ref("alice").deposit, 10)
    ```

    `SyncClient.over_http` goes through a gateway; `SyncClient.in_cluster` joins the Ray cluster and Postgres directly;
    `SyncClient(lambda: LocalCluster([Account]))` is for tests. In a coroutine you need none of them: await the ref.
    """

    def __init__(self, connect: Connect, /) -> None:
        """connect: opens the asynchronous client that does the work. Nothing happens until the first call."""
        self._connect = connect
        self._opening = threading.Lock()
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal
        self._caller: Caller
        self._process = 0

    @classmethod
    def over_http(cls, url: str = "", *, api_key: str = "", timeout: timedelta | float = DEFAULT_TIMEOUT_S) -> Self:
        """A client of a gateway. Empty `url`, `api_key`: PERDURE_URL and PERDURE_API_KEY, else this machine's.

        timeout: of calls that do not say their own (numbers are seconds).
        """
        return cls(functools.partial(GatewayClient, url, api_key=api_key, timeout=timeout, is_default=False))

    @classmethod
    def in_cluster(
        cls,
        *,
        dsn: str = "",
        namespace: str = "",
        ray_address: str = "",
        codec: str = "",
        timeout: timedelta | float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """A client that joins the cluster itself: everything works, `find`, `history` and transactions too.

        What is empty is taken from the environment (PERDURE_DSN, PERDURE_NAMESPACE, …), as `lifespan` does it.
        """
        timeout_s = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)

        @asynccontextmanager
        async def join() -> AsyncGenerator[Caller]:
            from ..cluster.connect import connect  # noqa: PLC0415 - importing Ray takes a second

            chosen = Settings()  # now: a client may be made at import, before the environment is complete
            address = dsn or chosen.dsn.get_secret_value()
            if not address:
                raise StartRefused("no database: pass dsn=…, set PERDURE_DSN, or go through a gateway: over_http(…)")
            connection = await connect(
                dsn=address,
                namespace=namespace or chosen.namespace,
                ray_address=ray_address or chosen.ray_address or None,
                codec=codec or chosen.codec,
                is_pooled=chosen.pooled,
                default_timeout_s=timeout_s,
                is_default=False,
            )
            async with connection:
                yield connection

        return cls(join)

    def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await `fn(*args, **kwargs)` with this client as the one that refs use; returns or raises what that does.

        fn: whatever can be awaited, and type-checked like it: `client.call(order.deposit, 10)`,
        `client.call(order.run.start, product_id=3)`, `client.call(order.run.result, timeout=60)`,
        `client.call(order.deposit.options(idempotency_key="k").send, 10)`, `client.call(lambda: find(Order, id=3))`,
        or a coroutine function of your own, for several at a time.

        An interrupted call (Ctrl-C) is no longer waited for: what was sent may or may not have been applied.
        Raises NotConnected (closed, or open since before a fork) and DurableAwaitInHandler (in a turn) too.
        """
        _refuse_turn(fn)
        return self._wait(functools.partial(self._await, functools.partial(fn, *args, **kwargs)))

    def each(self, fn: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        """Iterate over `fn(*args, **kwargs)`, such as `client.each(watch, Order.ref("o-1"))`."""
        _refuse_turn(fn)
        with self._open().wrap_async_context_manager(self._iterating(functools.partial(fn, *args, **kwargs))) as take:
            while found := self._wait(take):
                yield found[0]

    def open(self) -> Self:
        """Connect now, so that what is wrong is told now. Otherwise the first call does. Idempotent.

        Raises Unavailable (no gateway there), StartRefused (the database is not in order).
        """
        self._open()
        return self

    def close(self) -> None:
        """End the connection and its thread; calls under way fail. Idempotent; a later call connects again."""
        with self._opening:
            stack, self._stack = self._stack, None
            if stack is not None and self._process == os.getpid():  # a fork's child has no such thread to end
                atexit.unregister(self.close)
                stack.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> BlockingPortal:
        if self._stack is None:
            with self._opening:
                if self._stack is None:
                    self._start()
        if self._process != os.getpid():
            raise NotConnected(
                f"this SyncClient was opened in process {self._process}, and this is its fork {os.getpid()}: its "
                "thread and its sockets are the other's. Make the client before the fork if you like, but call it only "
                "after"
            )
        return self._portal

    def _start(self) -> None:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="perdure-client"))
            stack.callback(portal.call, portal.stop, True)  # cancels what is still under way when it is closed
            self._caller = stack.enter_context(portal.wrap_async_context_manager(self._connect()))
            self._portal, self._process = portal, os.getpid()
            self._stack = stack.pop_all()
        atexit.register(self.close)  # of a client that nobody closes: Ray and the sockets end in order all the same

    def _wait(self, work: Callable[[], Awaitable[R]]) -> R:
        """Have the other thread do it."""
        portal = self._open()
        try:
            doing = portal.start_task_soon(work)
        except RuntimeError as error:
            raise NotConnected(f"this SyncClient cannot be called here: {error}") from error
        try:
            return doing.result()
        except CancelledError:
            raise OutcomeUnknown(
                "the SyncClient was closed, or the call cancelled, before there was an answer: it may or may not have "
                "been applied. Repeat it with the same idempotency key"
            ) from None
        except BaseException:
            doing.cancel()
            raise

    async def _await(self, work: Callable[[], Awaitable[R]]) -> R:
        with use(self._caller):
            return await work()

    @asynccontextmanager
    async def _iterating(
        self, begin: Callable[[], AsyncIterator[R]]
    ) -> AsyncGenerator[Callable[[], Awaitable[tuple[R, ...]]]]:
        """Gives what takes the next item: a tuple of it, empty at the end."""
        with use(self._caller):
            items = begin()

        async def take() -> tuple[R, ...]:
            with use(self._caller):
                try:
                    return (await anext(items),)
                except StopAsyncIteration:
                    return ()

        try:
            yield take
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()


def _refuse_turn(fn: object) -> None:
    turn = current.get()
    if turn is not None:
        raise DurableAwaitInHandler(
            f"{turn.entity}: a {turn.mode} used a SyncClient ({getattr(fn, '__name__', fn)!r}), which would block its "
            "host. Await the ref in a @workflow, `.send(...)` to it in a handler, or do it in an @activity"
        )
