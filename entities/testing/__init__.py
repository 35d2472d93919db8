"""Test kit: the real engine on a store in memory, in one process, on virtual time, crashes included."""

from ..schema_lock import check_schemas
from .crashes import CrashReport, crash_everywhere
from .fakes import Attempt, Fake, WrongFake, fails, fake, in_turn
from .local import LocalCluster
from .replay import check_replay
from .resume_check import NotRepeatable
from .steps import FakeSteps
from .world import PerdureTest, Point, Stuck, UntimelyEffect

__all__ = [
    "Attempt",
    "CrashReport",
    "Fake",
    "FakeSteps",
    "LocalCluster",
    "NotRepeatable",
    "PerdureTest",
    "Point",
    "Stuck",
    "UntimelyEffect",
    "WrongFake",
    "check_replay",
    "check_schemas",
    "crash_everywhere",
    "fails",
    "fake",
    "in_turn",
]
