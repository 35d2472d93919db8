"""Test kit: the real engine on a store in memory, in one process, with crashes on request."""

from .local import LocalCluster
from .steps import FakeSteps

__all__ = ["FakeSteps", "LocalCluster"]
