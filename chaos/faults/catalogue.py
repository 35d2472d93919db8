"""All kinds of faults, and the order in which a seed draws them."""

import random
import shutil
from collections.abc import Iterator, Sequence

from . import misbehaviour, network, postgres, processes
from .injury import Fault, Inflict, Injury

__all__ = ["FAULTS", "Fault", "Injury", "draw", "usable"]


def _fault(kind: str, inflict: Inflict, *, weight: int, seconds: float, needs: str = "") -> Fault:
    return Fault(kind=kind, inflict=inflict, weight=weight, seconds=seconds, needs=needs)


FAULTS: dict[str, Fault] = {
    fault.kind: fault
    for fault in (
        _fault("host kill", processes.kill_host, weight=5, seconds=5),
        _fault("host stop", processes.stop_host, weight=1, seconds=9),
        _fault("all hosts kill", processes.kill_all_hosts, weight=1, seconds=8),
        _fault("raylet kill", processes.kill_raylet, weight=1, seconds=14),
        _fault("raylet stop", processes.stop_raylet, weight=1, seconds=25),
        _fault("supervisor kill", processes.kill_supervisor, weight=4, seconds=4),
        _fault("supervisor stop", processes.stop_supervisor, weight=1, seconds=8),
        _fault("gateway kill", processes.kill_gateway, weight=3, seconds=5),
        _fault("gateway stop", processes.stop_gateway, weight=3, seconds=4),
        _fault("head kill", processes.kill_head, weight=0, seconds=60),
        _fault("head kill, nodes stay", processes.kill_head_only, weight=0, seconds=90),
        _fault("postgres kill", postgres.kill_postgres, weight=4, seconds=5),
        _fault("postgres restart", postgres.restart_postgres, weight=3, seconds=5),
        _fault("postgres backend kill", postgres.kill_backend, weight=2, seconds=5),
        _fault("postgres terminate storm", postgres.terminate_backends, weight=4, seconds=4),
        _fault("postgres connections", postgres.exhaust_connections, weight=1, seconds=8),
        _fault("postgres disk full", postgres.fill_disk, weight=2, seconds=8),
        _fault("postgres slow fsync", postgres.slow_fsync, weight=1, seconds=6, needs="strace"),
        _fault("network cut", network.everybody("cut"), weight=4, seconds=4),
        _fault("network cut, one host", network.one_host("cut"), weight=1, seconds=12),
        _fault("network hole", network.everybody("hole"), weight=4, seconds=4),
        _fault("network hole, one host", network.one_host("hole"), weight=1, seconds=12),
        _fault("network delay", network.everybody("delay"), weight=3, seconds=4),
        _fault("answers lost", network.everybody("hold"), weight=5, seconds=4),
        _fault("clock step", misbehaviour.step_clock, weight=3, seconds=5),
        _fault("drain", misbehaviour.drain, weight=0, seconds=20),
        _fault("upgrade", misbehaviour.upgrade, weight=0, seconds=25),
        _fault("poison raises", misbehaviour.poison_raises, weight=1, seconds=4),
        _fault("poison hangs", misbehaviour.poison_hangs, weight=1, seconds=5),
        _fault("poison kills", misbehaviour.poison_kills, weight=0, seconds=15),
        _fault("poison blocks", misbehaviour.poison_blocks, weight=0, seconds=25),
        _fault("flood", misbehaviour.flood, weight=1, seconds=12),
        _fault("reminders", misbehaviour.many_reminders, weight=0, seconds=90),
    )
}


def usable(kinds: Sequence[str], skipped: dict[str, str]) -> list[Fault]:
    """Those kinds that can be done here; the others are noted in `skipped` with the reason."""
    for kind in kinds:
        if FAULTS[kind].needs and shutil.which(FAULTS[kind].needs) is None:
            skipped[kind] = f"there is no {FAULTS[kind].needs}"
    return [FAULTS[kind] for kind in kinds if kind not in skipped]


def draw(seed: int, faults: Sequence[Fault]) -> Iterator[Fault]:
    """Faults for ever: first each kind once, then bag after bag by weight, each shuffled."""
    rng = random.Random(f"faults {seed}")
    bag = list(faults)
    while bag:
        rng.shuffle(bag)
        yield from bag
        bag = [fault for fault in faults for _ in range(fault.weight)] or list(faults)
