"""Test kit: the real engine on a store in memory, in one process, with crashes on request; checks of changed code."""

from ..schema_lock import check_schemas
from .local import LocalCluster
from .replay import check_replay
from .steps import FakeSteps

__all__ = ["FakeSteps", "LocalCluster", "check_replay", "check_schemas"]
