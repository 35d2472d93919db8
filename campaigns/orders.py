"""orders: people order meals through food delivery's web application while everything below it is killed at random
moments.

Every order follows a script: delivered, card declined, no driver in time, not delivered in time. Customers and drivers
are HTTP clients that repeat what they are not sure about: an order under the same order id, anything else under the
same idempotency key. The outside services run in a process of their own that nobody kills; a witness in front of them
writes down every request.
"""

import asyncio
import contextlib
import itertools
import json
import math
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from examples.food_delivery.menu import MENU

from .audit import audit_chains, audit_leftovers
from .harness import HEAL_S, Options, Scene, check_faults, open_scene
from .processes import free_port
from .verdict import Verdict, distribution, quantile

FAULTS = 50
SHARES = {"host": 20, "all hosts": 8, "supervisor": 7, "gateway": 8, "postgres": 7}
ORDERS_AT_ONCE = 24
CUSTOMERS = 40
PROBES = 64
PAUSE_S = (0.3, 3.0)
"""Between a recovery and the next fault."""
ASK_S = 15.0
"""How long a client waits for one answer before it asks again."""
GIVE_UP_S = 120.0
"""How long a client goes on asking; an answer later than that counts as lost."""
LONG_S, SHORT_S, RATING_S = 90.0, 1.5, 1.0
RESUME_MEDIAN_S = 2.0
"""Of at least so many hosts; fewer say more about the machine, and must only be within HEAL_S."""
RESUMED_MIN = 10
DECLINED_CARD = "0002"
TOO_MANY = 429

SCRIPTS = {"delivered": 6, "declined": 2, "no driver": 2, "too slow": 2}
"""What happens to an order, and how often."""
ENDS = {
    "delivered": ("completed", "Delivered", ""),
    "declined": ("failed", "Charging card", "card declined"),
    "no driver": ("failed", "Refunding", "not picked up in time"),
    "too slow": ("failed", "Refunding", "not delivered in time"),
}
"""Status of the run, of the order, and its problem."""


class Refused(Exception):
    """The application gave a definite answer that the script does not know."""


@dataclass
class Meal:
    """One order and what its customer was told."""

    key: str
    script: str
    customer: str
    product: int
    acked_at: float = 0.0
    result: tuple[int, str] = (0, "")
    problems: list[str] = field(default_factory=list)


class Client:
    """Asks until there is an answer."""

    def __init__(self, scene: Scene) -> None:
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{scene.gateway_port}", timeout=ASK_S)
        self.asked = 0
        self.again: Counter[str] = Counter()

    async def ask(self, method: str, path: str, *, body: Any = None, key: str = "") -> httpx.Response:
        """The definite answer. Raises TimeoutError if there is none for very long."""
        headers = {"Idempotency-Key": key} if key else {}
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                self.asked += 1
                try:
                    answer = await self._http.request(method, path, json=body, headers=headers)
                except httpx.TransportError as error:
                    self.again[type(error).__name__] += 1
                else:
                    if answer.status_code < 500 and answer.status_code != TOO_MANY:
                        return answer
                    if method == "GET" and answer.json().get("code") not in {None, "timeout", "unavailable", "busy"}:
                        return answer
                    self.again[f"{answer.status_code} {answer.json().get('code')}"] += 1
                await asyncio.sleep(random.uniform(0.05, 0.3))

    async def close(self) -> None:
        await self._http.aclose()


async def run(options: Options) -> Verdict:
    """The campaign."""
    verdict = Verdict("orders", options.seed)
    port = free_port()
    environment = {
        "FOOD_DELIVERY_OUTSIDE_URL": f"http://127.0.0.1:{port}",
        "FOOD_DELIVERY_LIMITS": json.dumps({"pick_up_s": LONG_S, "deliver_s": LONG_S, "rating_s": RATING_S}),
    }
    async with open_scene(
        verdict, options, entities=["examples.food_delivery.entities"], environment=environment
    ) as scene:
        books, witness = scene.directory / "books.sqlite", scene.directory / "witness.jsonl"
        files = {"FOOD_DELIVERY_BOOKS": str(books), "CAMPAIGN_WITNESS": str(witness)}
        scene.start_program("outside", "campaigns.outside", **files)
        await scene.until_answers("outside", f"{environment['FOOD_DELIVERY_OUTSIDE_URL']}/weather")
        await scene.start_gateway()
        client = Client(scene)
        try:
            wanted = _plan(options.rounds or FAULTS)
            day = Day(scene, client)
            await day.run(wanted)
            verdict.holds("every order was answered", not day.lost, f"{len(day.meals)} orders, {Counter(day.scripts)}")
            verdict.violations += day.lost
            await _check_ends(verdict, scene, client, day.meals)
            _check_money(verdict, books, day.meals)
            await check_witness(verdict, scene, witness)
            await _check_customers(verdict, client, books, day.meals)
            await audit_chains(verdict, scene)
            await audit_leftovers(verdict, scene)
            check_faults(verdict, scene, wanted)
            await _measure(verdict, scene, day)
            verdict.figure("requests of clients", f"{client.asked}, asked again: {dict(client.again)}")
        finally:
            await client.close()
    return verdict


def _plan(faults: int) -> dict[str, int]:
    """So many faults, spread over the kinds."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
    picked = [kinds[number * len(kinds) // faults] for number in range(faults)] if faults < len(kinds) else kinds
    extra = itertools.islice(itertools.cycle(kinds), max(0, faults - len(kinds)))
    return dict(Counter([*picked, *extra]))


class Day:
    """Orders from the first fault to the last, each to its end."""

    def __init__(self, scene: Scene, client: Client) -> None:
        self.scene = scene
        self.client = client
        self.meals: list[Meal] = []
        self.lost: list[str] = []
        self.running_at_fault: list[int] = []
        self._is_over = False
        self._serial = itertools.count(1)
        self._under_way: set[str] = set()

    @property
    def scripts(self) -> list[str]:
        """Of all orders."""
        return [meal.script for meal in self.meals]

    async def run(self, wanted: dict[str, int]) -> None:
        """All faults, in random order at random moments."""
        background = [asyncio.create_task(self._keep_ordering()) for _ in range(ORDERS_AT_ONCE)]
        background.append(asyncio.create_task(self._probe()))
        try:
            await asyncio.sleep(2)
            kinds = [kind for kind, count in wanted.items() for _ in range(count)]
            self.scene.rng.shuffle(kinds)
            began = time.monotonic()
            for number, kind in enumerate(kinds, 1):
                await asyncio.sleep(self.scene.rng.uniform(*PAUSE_S))
                self.running_at_fault.append(len(self._under_way))
                await self._fault(kind)
                print(
                    f"  {time.monotonic() - began:6.1f} s  {number}/{len(kinds)} {kind}: {self.scene.proofs[kind][-1]}"
                )
        finally:
            self._is_over = True
        async with asyncio.timeout(GIVE_UP_S * 2):
            await asyncio.gather(*background)

    async def _fault(self, kind: str) -> None:
        scene = self.scene
        match kind:
            case "host":
                await scene.heal_hosts(await scene.kill_one_host())
            case "all hosts":
                await scene.heal_hosts(await scene.kill_all_hosts())
            case "supervisor":
                await scene.kill_supervisor()
            case "gateway":
                await scene.kill_gateway()
            case "postgres":
                await scene.kill_postgres()
                await scene.until_whole()
            case _:
                raise AssertionError(kind)

    async def _keep_ordering(self) -> None:
        """One table: orders one after the other."""
        rng = self.scene.rng
        while not self._is_over:
            number = next(self._serial)
            [script] = rng.choices(list(SCRIPTS), list(SCRIPTS.values()))
            meal = Meal(f"order-{number}", script, f"customer-{rng.randrange(CUSTOMERS)}", rng.choice(MENU).id)
            self.meals.append(meal)
            self._under_way.add(meal.key)
            try:
                await self._play(meal)
            except Exception as error:
                self.lost.append(f"{meal.key} ({meal.script}): {error!r}")
            self._under_way.discard(meal.key)

    async def _play(self, meal: Meal) -> None:
        ask, rng = self.client.ask, self.scene.rng
        path = f"/orders/{quote(meal.key)}"
        order = {"product_id": meal.product, "customer_id": meal.customer}
        if meal.script in {"delivered", "declined"}:
            card = DECLINED_CARD if meal.script == "declined" else "4242"
            _expect(await ask("PUT", path, body=order | {"card": card}), 200)
        else:
            deliver_s = SHORT_S if meal.script == "too slow" else LONG_S
            pick_up_s = SHORT_S if meal.script == "no driver" else LONG_S
            limits = {"pick_up_s": pick_up_s, "deliver_s": deliver_s, "rating_s": RATING_S}
            _expect(
                await ask("POST", f"{path}/run/start", body=order | {"limits": limits}, key=f"{meal.key}-start"), 202
            )
        meal.acked_at = time.time()
        if meal.script in {"delivered", "too slow"}:
            await self._until(path, lambda status: status == "Paid")
            await asyncio.sleep(rng.uniform(0, 1))
            _expect(await ask("POST", f"{path}/pick_up", key=f"{meal.key}-pick-up"), 200)
        if meal.script == "delivered":
            await asyncio.sleep(rng.uniform(0, 1))
            _expect(await ask("POST", f"{path}/deliver", key=f"{meal.key}-deliver"), 200)
        async with asyncio.timeout(GIVE_UP_S):
            while (answer := await ask("GET", f"{path}/run/result?timeout=5")).status_code == 202:
                pass
        meal.result = answer.status_code, "" if answer.is_success else str(answer.json().get("detail"))

    async def _until(self, path: str, is_it: Callable[[str], bool]) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while True:
                answer = await self.client.ask("GET", f"{path}/state")
                _expect(answer, 200)
                if is_it(answer.json()["status"]):
                    return
                await asyncio.sleep(0.15)

    async def _probe(self) -> None:
        """Turns without a meaning on many shards, so that the first turn of a survivor is soon wanted."""
        flying: set[asyncio.Task[Any]] = set()
        for number in itertools.count():
            if self._is_over:
                break
            path = f"/orders/probe-{number % PROBES}/pick_up"
            if len(flying) < PROBES:
                task = asyncio.create_task(self.client.ask("POST", path))
                flying.add(task)
                task.add_done_callback(flying.discard)
            await asyncio.sleep(0.03)
        await asyncio.gather(*flying, return_exceptions=True)


def _expect(answer: httpx.Response, status: int) -> None:
    if answer.status_code != status:
        raise Refused(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}")


# --- checks ---


async def _check_ends(verdict: Verdict, scene: Scene, client: Client, meals: list[Meal]) -> None:
    """In Postgres and through the status query: each order ended as its script says."""
    rows = await scene.sql("select key, status, ended_at from runs where type = 'Order' and workflow = 'run'")
    runs = {row["key"]: row for row in rows}
    acked = [meal for meal in meals if meal.acked_at]
    verdict.none_of(
        "no acknowledged order lost", [m.key for m in acked if m.key not in runs], f"{len(acked)} acknowledged"
    )
    wrong: list[str] = []
    unanswered: list[str] = []
    for meal in acked:
        run_status, status, problem = ENDS[meal.script]
        row = runs.get(meal.key)
        if row is None or row["status"] != run_status:
            wrong.append(f"{meal.key} ({meal.script}): run {row and row['status']} instead of {run_status}")
        if meal.result[0] == 0 or (meal.result[0] == 200) != (run_status == "completed"):
            wrong.append(f"{meal.key} ({meal.script}): its result was answered with {meal.result}")
        try:
            answer = await client.ask("GET", f"/orders/{meal.key}/state")
            state = answer.json()
        except Exception as error:
            unanswered.append(f"{meal.key}: {error!r}")
            continue
        if (state.get("status"), state.get("problem")) != (status, problem):
            wrong.append(f"{meal.key} ({meal.script}): {state.get('status')} {state.get('problem')!r}")
    verdict.none_of("every order ended as its script says", wrong, f"{len(acked)} orders, runs and states")
    verdict.none_of("the status query works afterwards", unanswered, f"{len(acked)} orders")


def _check_money(verdict: Verdict, books: Path, meals: list[Meal]) -> None:
    """In the payment service's own books."""
    with contextlib.closing(sqlite3.connect(books)) as db:
        db.row_factory = sqlite3.Row
        charges: dict[str, list[sqlite3.Row]] = defaultdict(list)
        for row in db.execute("select * from charges"):
            charges[row["order_id"]].append(row)
    prices = {product.id: product.price_cents for product in MENU}
    twice = [f"{order}: {[tuple(row) for row in rows]}" for order, rows in charges.items() if len(rows) > 1]
    wrong: list[str] = []
    for meal in meals:
        rows = charges.get(meal.key, [])
        cents = [(row["cents"], row["refunded_at"] is not None) for row in rows]
        is_refunded = meal.script in {"no driver", "too slow"}
        expected = [] if meal.script == "declined" else [(prices[meal.product], is_refunded)]
        if meal.acked_at and cents != expected:
            wrong.append(f"{meal.key} ({meal.script}): charged {cents} instead of {expected}")
    requests = sum(row["requests"] for rows in charges.values() for row in rows)
    verdict.none_of("none charged twice", twice, f"{len(charges)} charges made by {requests} requests that worked")
    verdict.none_of("charged and refunded as the script says", wrong, f"{len(meals)} orders")


async def check_witness(verdict: Verdict, scene: Scene, witness: Path) -> None:
    """No attempt of a step began after the step's result was committed."""
    done = await scene.sql(
        """select type || '/' || key || '/' || workflow || '/' || run_id || '/' || (event->>1) as step,
        extract(epoch from min(recorded_at))::float8 as at
        from journal, jsonb_array_elements(entry->'events') as event
        where event->>0 in ('value', 'error') group by 1"""
    )
    results = {row["step"]: row["at"] for row in done}
    starts: dict[str, list[float]] = defaultdict(list)
    for line in witness.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "start":
            starts[event["idempotency_key"]].append(event["at"])
    late = [
        f"{step}: {at - results[step]:.3f} s after"
        for step, times in starts.items()
        for at in times
        if at > results.get(step, math.inf)
    ]
    without = [step for step in starts if step not in results]
    repeated = sum(1 for times in starts.values() if len(times) > 1)
    attempts = sum(len(times) for times in starts.values())
    verdict.none_of(
        "no step executed after its result was committed",
        late,
        f"{attempts} attempts of {len(starts)} steps, {repeated} of them more than once",
    )
    verdict.none_of("every executed step has its result", without, f"{len(results)} results in journals")
    gaps = [results[step] - max(times) for step, times in starts.items() if step in results]
    verdict.figure("last attempt → its result committed", distribution(gaps))


async def _check_customers(verdict: Verdict, client: Client, books: Path, meals: list[Meal]) -> None:
    """What orders sent to their customers arrived once: totals, and pushes."""
    wrong: list[str] = []
    prices = {product.id: product.price_cents for product in MENU}
    names = {product.id: product.name for product in MENU}
    texts: dict[str, Counter[str]] = defaultdict(Counter)
    for meal in meals:
        text = texts[meal.customer]
        if meal.script == "delivered":
            name = names[meal.product]
            text[f"Your {name} has arrived. Enjoy!"] += 1
            text[f"Rate your meal. How was the {name}?"] += 1
        else:
            text[f"We are sorry, there is no meal today: {ENDS[meal.script][2]}"] += 1
    with contextlib.closing(sqlite3.connect(books)) as db:
        pushed: dict[str, Counter[str]] = defaultdict(Counter)
        for customer, push in db.execute("select customer_id, text from pushes"):
            pushed[customer][push] += 1
    for customer, expected in texts.items():
        eaten = [meal for meal in meals if meal.customer == customer and meal.script == "delivered"]
        account = (await client.ask("GET", f"/customers/{customer}/account")).json()
        found = account["meals"], account["spent_cents"], len(account["history"])
        ordered = sum(1 for meal in meals if meal.customer == customer)
        wanted = len(eaten), sum(prices[meal.product] for meal in eaten), min(100, ordered)
        if found != wanted:
            wrong.append(f"{customer}: (meals, cents, history) {found} instead of {wanted}")
        if pushed[customer] != expected:
            wrong.append(
                f"{customer}: pushes {pushed[customer] - expected} too many, {expected - pushed[customer]} missing"
            )
    open_orders = (await client.ask("GET", "/boards/main/open_orders")).json()
    wrong += [f"the board still shows {order['key']}" for order in open_orders]
    verdict.none_of("messages and pushes arrived once", wrong, f"{len(texts)} customers, the board is empty")


_FIRST_TURN = """
select extract(epoch from min(recorded_at))::float8 as at from (
    select recorded_at from history where shard = any(%s) union all
    select recorded_at from journal where shard = any(%s)
) as turns where recorded_at > (select gone_at from hosts where incarnation = %s)
"""


async def _measure(verdict: Verdict, scene: Scene, day: Day) -> None:
    """From a host's death to the first turn that somebody else committed on its shards."""
    times: dict[str, list[float]] = defaultdict(list)
    for fault in scene.faults:
        for host in fault.hosts:
            # Nothing of the dead host commits after it was fenced, so whatever comes then is by a successor.
            shards = list(host.shards)
            rows = await scene.sql(_FIRST_TURN, shards, shards, host.incarnation)
            if rows[0]["at"] is not None:
                times[fault.kind].append(rows[0]["at"] - fault.at)
    resumed = times["host"]
    limit_s = RESUME_MEDIAN_S if len(resumed) >= RESUMED_MIN else HEAL_S
    verdict.holds(
        f"work resumes within {limit_s:g} s of a host's death (median)",
        bool(resumed) and quantile(resumed, 0.5) < limit_s,
        distribution(resumed),
    )
    verdict.figure("host killed → first turn by a survivor", distribution(resumed))
    verdict.figure("all hosts killed → first turn by a replacement", distribution(times["all hosts"]))
    verdict.figure("orders under way at each fault", distribution([float(n) for n in day.running_at_fault], "orders"))
