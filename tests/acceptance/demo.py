"""`perdure dev examples.food_delivery.app` as a person runs it: a process of its own, talked to over HTTP."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
import psutil

from campaigns.processes import free_port
from tests.scratch import scratch_directory

START_S = 90
STOP_S = 90
ANSWER_S = 60
POLL_S = 0.05

Json = Any


class Demo:
    """The demo, its state directory and its address; both stay the same when it is started again."""

    def __init__(self, directory: Path, *, failure_rate: float, limits: dict[str, float]) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{free_port()}"
        self.outside_url = f"http://127.0.0.1:{free_port()}"
        self._environment = os.environ | {
            "FOOD_DELIVERY_OUTSIDE_URL": self.outside_url,
            "FOOD_DELIVERY_BOOKS": str(directory / "books.sqlite"),
            "FOOD_DELIVERY_FAILURE_RATE": str(failure_rate),
            "FOOD_DELIVERY_LIMITS": json.dumps(limits),
        }
        self._http = httpx.Client(base_url=self.url, timeout=ANSWER_S + 10)
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def in_temporary_directory(
        cls, *, failure_rate: float = 0, limits: dict[str, float] | None = None
    ) -> Generator[Self]:
        """Started; in the end stopped and removed."""
        with scratch_directory("food-delivery-") as directory:
            demo = cls(directory, failure_rate=failure_rate, limits=limits or {})
            try:
                demo.start()
                yield demo
                demo.stop()
            finally:
                demo.crash()
                demo._http.close()

    # --- its life ---

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def start(self) -> None:
        command = [sys.executable, "-c", "from perdure.api.cli import main; main()"]
        command += ["dev", "examples.food_delivery.app", "--port", self.url.rpartition(":")[2]]
        command += ["--data-dir", str(self.directory / "state")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"the demo ended:\n{self.log}"
            with contextlib.suppress(httpx.TransportError):
                if all(httpx.get(url).is_success for url in (f"{self.url}/products", f"{self.outside_url}/weather")):
                    return
            time.sleep(POLL_S)
        raise TimeoutError(f"the demo did not start:\n{self.log}")

    def stop(self) -> None:
        """Ctrl-C."""
        assert self._process is not None
        below = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(STOP_S)
        _, alive = psutil.wait_procs(below, timeout=20)
        assert not alive, f"left running: {alive}\n{self.log}"
        self._process = None

    def crash(self) -> None:
        """SIGKILL for everything at once: gateway, hosts, supervisor, Ray, Postgres, the outside services."""
        if self._process is None or self._process.poll() is not None:
            return
        processes = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=60)
        self._process.wait()
        self._process = None

    # --- requests ---

    def ask(self, method: str, path: str, body: Json = None, *, expect: int = 200) -> Json:
        answer = self._http.request(method, path, json=body)
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def order(self, product_id: int = 1, *, card: str = "4242", customer_id: str = "", **limits: float) -> str:
        """A new order with time limits of its own (default: far away); its id."""
        order_id = f"order-{uuid4().hex[:10]}"
        limits = {"pick_up_s": 60, "deliver_s": 60, "rating_s": 0.2} | limits
        arguments = {"product_id": product_id, "customer_id": customer_id or f"of-{order_id}", "card": card}
        self.ask("POST", f"/orders/{order_id}/run/start", arguments | {"limits": limits}, expect=202)
        return order_id

    def state(self, order_id: str) -> Json:
        return self.ask("GET", f"/orders/{order_id}/state")

    def pick_up(self, order_id: str) -> None:
        self.ask("POST", f"/orders/{order_id}/pick_up")

    def deliver(self, order_id: str) -> None:
        self.ask("POST", f"/orders/{order_id}/deliver")

    def result(self, order_id: str, *, expect: int = 200) -> Json:
        """How its workflow ended; waits for that."""
        return self.ask("GET", f"/orders/{order_id}/run/result?timeout={ANSWER_S}", expect=expect)

    def account(self, customer_id: str) -> Json:
        return self.ask("GET", f"/customers/{customer_id}/account")

    def open_orders(self) -> list[str]:
        return [order["key"] for order in self.ask("GET", "/boards/main/open_orders")]

    def charges(self, order_id: str) -> list[Json]:
        """What the payment service has in its books for this order."""
        answer = httpx.get(f"{self.outside_url}/charges", params={"order_id": order_id})
        return list(answer.raise_for_status().json())

    def pushes(self, customer_id: str) -> list[str]:
        """What the customer's phone has shown."""
        answer = httpx.get(f"{self.outside_url}/pushes", params={"customer_id": customer_id})
        return [push["text"] for push in answer.raise_for_status().json()]

    def weather(self, failure_rate: float) -> None:
        """How often the outside services fail from now on."""
        httpx.put(f"{self.outside_url}/weather", json={"failure_rate": failure_rate}).raise_for_status()

    def until(self, order_id: str, **wanted: Json) -> Json:
        """Wait until the order's state has these values; returns it."""
        return until(lambda: self.state(order_id), lambda state: wanted.items() <= state.items())


def until(look: Callable[[], Json], is_good: Callable[[Json], bool], timeout_s: float = ANSWER_S) -> Json:
    """Look again and again until it is good."""
    deadline = time.monotonic() + timeout_s
    while not is_good(seen := look()):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(POLL_S)
    return seen
