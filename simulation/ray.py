"""Ray, as far as Perdure uses it: named actors in processes of their own, calls with Ray's promises and no more.

What it models
--------------
* A call runs at most once; the caller of one that failed does not know whether it ran (`ActorUnavailable`), unless it
  never left. Calls of one caller may overtake each other (async actors).
* A process that dies is noticed after a while; then its calls fail with `ActorDied`. Calls that were under way, and
  those made meanwhile, hang until then.
* An actor may be declared dead although its process lives. It goes on for a while (it reaches the database, others
  do not reach it) and is ended then, as a raylet does with workers whose control service has given them up.
* An actor with restarts gets a new process under its name.
* Between machines that cannot reach each other calls hang until the network is mended, or fail after a while.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError

from perdure.cluster.process import ProcessName, Pulse

from .loop import Node, ProcessEnded, SimLoop, here
from .net import Net


class ActorDied(ActorDiedError):
    """Ray says that it will never answer."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)

    def __str__(self) -> str:
        return str(self.args[0])


class ActorUnavailable(ActorUnavailableError):
    """The call failed; it may have been executed."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)

    def __str__(self) -> str:
        return str(self.args[0])


class Process:
    """One incarnation of an actor, or a client."""

    def __init__(self, node: Node, pid: int) -> None:
        self.node = node
        self.name = ProcessName(node.machine, pid, str(pid))


class Actor:
    """What a handle points to."""

    def __init__(self, ray: "SimRay", name: str, cls: type, args: tuple[Any, ...], *, restarts: bool) -> None:
        self.ray = ray
        self.name = name
        self.cls = cls
        self.args = args
        self.restarts = restarts
        self.process: Process | None = None
        self.instance: Any = None
        self.is_ready: Any = ray.loop.create_future()
        """Its constructor is through."""
        self.is_dead = False
        """Ray says so."""
        self.calls: dict[int, tuple[Node, Any]] = {}
        """Under way: who called, and what they wait for."""


class SimRay:
    """All actors and processes of a simulation."""

    def __init__(
        self, loop: SimLoop, net: Net, seen: "Counter[str]", machines: list[str], facts: dict[str, Any]
    ) -> None:
        self.loop = loop
        self.net = net
        self.seen = seen
        self.machines = machines
        self.actors: dict[str, Actor] = {}
        self.processes: dict[ProcessName, Process] = {}
        self.make_node: Callable[[str, str], Node] = lambda name, machine: Node(name, machine)  # noqa: PLW0108
        self._facts = facts
        self._pids = itertools.count(1)
        self._calls = itertools.count(1)
        self._placed = itertools.count()

    # --- processes ---

    def start_process(self, name: str, machine: str) -> Process:
        """A new process on that machine."""
        pid = next(self._pids)
        node = self.make_node(f"{name}#{pid}", machine)
        process = Process(node, pid)
        node.facts.update(self._facts)
        node.facts["process"] = process
        self.processes[process.name] = process
        return process

    def kill_process(self, process: Process) -> None:
        """SIGKILL. Ray finds out later."""
        if not process.node.is_alive:
            return
        self.loop.trace(f"{process.node.name} dies")
        self.loop.kill(process.node)
        for actor in [it for it in self.actors.values() if it.process is process]:
            self.loop.deliver(self.loop.driver, self.net.between(0.005, 2.0), self._notice, actor, process)

    def exit(self, code: int) -> None:
        """`os._exit` of the process that runs now."""
        self.seen[f"process exits {code}"] += 1
        self.kill_process(here.get().facts["process"])
        raise ProcessEnded

    def pulse(self, name: ProcessName) -> Pulse:
        """As the process that runs now sees it."""
        if name.machine != here.get().machine:
            return Pulse.UNKNOWN
        process = self.processes.get(name)
        return Pulse.ALIVE if process is not None and process.node.is_alive else Pulse.GONE

    # --- actors ---

    def spawn(self, cls: type, *args: Any, name: str, max_restarts: int = 0, **_: Any) -> Actor:
        """Raises ValueError if the name is taken."""
        known = self.actors.get(name)
        if known is not None and not known.is_dead:
            raise ValueError(f"the name {name} is taken")
        actor = self.actors[name] = Actor(self, name, cls, args, restarts=max_restarts != 0)
        self._start(actor, self.net.between(0.01, 0.2))
        return actor

    def _start(self, actor: Actor, delay_s: float) -> None:
        self.loop.deliver(self.loop.driver, delay_s, self._born, actor)

    def _born(self, actor: Actor) -> None:
        if actor.is_dead:
            return
        machine = self.machines[next(self._placed) % len(self.machines)]
        process = actor.process = self.start_process(actor.name.removeprefix("perdure-"), machine)
        process.node.facts["actor"] = actor
        self.loop.trace(f"{process.node.name} starts on {machine}")
        self.loop.spawn(process.node, self._construct(actor, process))

    async def _construct(self, actor: Actor, process: Process) -> None:
        instance: Any = object.__new__(actor.cls)
        try:
            await instance.__init__(*actor.args)  # constructors of ours are coroutines
        except Exception as error:
            self.loop.trace(f"{process.node.name} does not start: {type(error).__name__}")
            self.seen["process did not start"] += 1
            self.kill_process(process)
            return
        actor.instance = instance
        if not actor.is_ready.done():
            actor.is_ready.set_result(None)

    def _notice(self, actor: Actor, process: Process) -> None:
        """Ray has seen that the process of this actor is gone."""
        if actor.process is process and not actor.is_dead:
            self._declare_dead(actor)

    def declare_dead(self, actor: Actor, *, ended_after_s: float) -> None:
        """Ray is wrong about a process that lives; it is ended after a while."""
        process = actor.process
        if actor.is_dead or process is None:
            return
        self.seen["declared dead while alive"] += 1
        self._declare_dead(actor)
        self.loop.deliver(self.loop.driver, ended_after_s, self.kill_process, process)

    def _declare_dead(self, actor: Actor) -> None:
        self.loop.trace(f"ray: {actor.name} is dead")
        calls, actor.calls = actor.calls, {}
        for caller, answer in calls.values():
            error = ActorUnavailable("restarting") if actor.restarts else ActorDied("its process died")
            self.loop.deliver(caller, self.net.delay(), _fail, answer, error)
        if actor.restarts:
            actor.instance, actor.is_ready, actor.process = None, self.loop.create_future(), None
            self._start(actor, self.net.between(0.05, 1.0))
        else:
            actor.is_dead = True

    async def find(self, name: str) -> Actor | None:
        """The actor of that name, as far as Ray knows."""
        await asyncio.sleep(self.net.delay())
        actor = self.actors.get(name)
        return actor if actor is not None and not actor.is_dead else None

    def kill(self, actor: Actor) -> None:
        """End its process, as soon as it can be reached; no restart."""
        actor.restarts = False
        if actor.process is None:
            self._declare_dead(actor)
        else:
            self.loop.deliver(self.loop.driver, self.net.delay(), self._reach_and_kill, here.get(), actor.process)

    def _reach_and_kill(self, caller: Node, process: Process) -> None:
        if self.net.connects(caller, process.node):
            self.kill_process(process)
        elif process.node.is_alive:
            self.loop.deliver(self.loop.driver, 0.05, self._reach_and_kill, caller, process)

    # --- calls ---

    def submit(self, actor: Actor, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method; the call is under way when this returns its future."""
        caller = here.get()
        answer = self.loop.create_future()
        if actor.is_dead:
            self.loop.deliver(caller, self.net.delay(), _fail, answer, ActorDied("it is dead"))
            return answer
        if self.net.is_call_lost():
            self.seen["call failed, not executed"] += 1
            self.loop.deliver(caller, self.net.patience(), _fail, answer, ActorUnavailable("the call was lost"))
            return answer
        number = next(self._calls)
        actor.calls[number] = (caller, answer)
        self._travel(actor, number, method, args, kwargs)
        return answer

    def _travel(self, actor: Actor, number: int, method: str, args: Any, kwargs: Any) -> None:
        """Towards the actor: it may not have begun yet, or not be reached for a while."""
        if number not in actor.calls:
            return
        caller, _ = actor.calls[number]
        process = actor.process
        if process is None or (not self.net.connects(caller, process.node) and process.node.is_alive):
            self.loop.deliver(self.loop.driver, 0.05, self._travel, actor, number, method, args, kwargs)
        elif process.node.is_alive:
            self.loop.deliver(process.node, self.net.delay(), self._begin, actor, number, method, args, kwargs)

    def _begin(self, actor: Actor, number: int, method: str, args: Any, kwargs: Any) -> None:
        """In the actor's process."""
        node = here.get()
        self.loop.trace(f"{node.name} {method}")
        task = self.loop.spawn(node, self._execute(actor, method, args, kwargs))
        task.add_done_callback(lambda done: self._end(actor, number, done))

    async def _execute(self, actor: Actor, method: str, args: Any, kwargs: Any) -> Any:
        if actor.instance is None:
            await actor.is_ready
        return await getattr(actor.instance, method)(*args, **kwargs)

    def _end(self, actor: Actor, number: int, done: Any) -> None:
        """The answer, on its way back."""
        if done.cancelled():
            error: BaseException | None = ActorUnavailable("cancelled")
        else:
            error = done.exception()
        if isinstance(error, ProcessEnded) or number not in actor.calls:
            return
        caller, answer = actor.calls[number]
        if self.net.is_call_unanswered():
            self.seen["call failed, executed"] += 1
            del actor.calls[number]
            self.loop.deliver(caller, self.net.patience(), _fail, answer, ActorUnavailable("the answer was lost"))
        elif not self.net.connects(caller, here.get()):
            self.loop.deliver(self.loop.driver, 0.05, self._retry_end, actor, number, done, here.get())
        elif error is not None:
            del actor.calls[number]
            self.loop.deliver(caller, self.net.delay(), _fail, answer, error)
        else:
            del actor.calls[number]
            self.loop.deliver(caller, self.net.delay(), _succeed, answer, done.result())

    def _retry_end(self, actor: Actor, number: int, done: Any, node: Node) -> None:
        self.loop.deliver(node, 0.0, self._end, actor, number, done)

    def tell(self, actor: Actor, method: str, *args: Any) -> None:
        """Call without interest in the result; wake-ups may get lost."""
        if self.net.is_hint_lost():
            self.seen["hint lost"] += 1
            return
        self.submit(actor, method, *args).add_done_callback(_seen)


def _seen(call: Any) -> None:
    if not call.cancelled():
        call.exception()


def _fail(answer: Any, error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def _succeed(answer: Any, value: Any) -> None:
    if not answer.done():
        answer.set_result(value)
