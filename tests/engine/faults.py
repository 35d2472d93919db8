"""The kit's faults, under the name by which the engine's tests know them."""

from perdure.entities.testing.faults import Crasher, Fault, FaultyStore

__all__ = ["Crasher", "Fault", "FaultyStore"]
