"""Test kit: the real engine on a store in memory, in one process, with crashes on request."""

from .local import LocalCluster

__all__ = ["LocalCluster"]
