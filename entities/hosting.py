"""Where active instances live. By default many share a host; `Dedicated` gives each a Ray actor of its own."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Dedicated:
    """Each active instance runs in its own Ray actor with these resources; same engine, same promises."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    """Custom Ray resources by name."""
