"""What is done to the installation. Each fault returns once what it broke is whole again, with what proves it."""

from .catalogue import FAULTS, Fault, Injury, draw, usable

__all__ = ["FAULTS", "Fault", "Injury", "draw", "usable"]
