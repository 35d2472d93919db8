"""The catalogue of metrics, and the plain figures that processes hand to whoever asks (they uphold no promise).

Nothing here knows Prometheus: hosts count in integers, and a gateway turns what they report into text when it is asked
(api/metrics.py). Labels are bounded: types, members and activities of the code, routes of the gateway, and fixed words.
What a caller can invent (keys, unknown names, ids) is never a label.
"""

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

OTHER = "-"
"""Stands for a member where there is none of the class's: maintenance, or a name that the class does not have."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class MetricKind(StrEnum):
    """What a metric does over time."""

    COUNTER = "counter"
    """It only grows; a new process begins at 0."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """One entry of the catalogue."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    """Beside `host`, which everything has but what a gateway counts of itself (`perdure_http_…`)."""
    help: str
    bounds: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""

    @property
    def is_of_gateway(self) -> bool:
        """Whether a gateway counts it of itself."""
        return self.name.startswith("perdure_http_")

    @property
    def all_labels(self) -> tuple[str, ...]:
        """In the order in which they are shown."""
        return self.labels if self.is_of_gateway else ("host", *self.labels)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(f"perdure_{name}_total", MetricKind.COUNTER, labels, text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric(f"perdure_{name}", MetricKind.GAUGE, labels, text)


def _histogram(name: str, labels: tuple[str, ...], text: str, bounds: tuple[float, ...] = _SECONDS) -> Metric:
    return Metric(f"perdure_{name}", MetricKind.HISTOGRAM, labels, text, bounds)


HOST_UP = _gauge("host_up", (), "1 if the host answered this scrape in time, else 0.")
TURNS = _counter(
    "turns",
    ("type", "kind", "handler", "outcome"),
    "Turns that were committed, by what set them off (kind `resume`: a workflow went on); outcome ok or error.",
)
QUERIES = _counter("queries", ("type", "handler", "outcome"), "Queries answered; outcome ok or error.")
HANDLER_RETRIES = _counter(
    "handler_retries", ("type", "handler"), "One-way messages whose handler raised and which are tried again."
)
DEAD_LETTERS = _counter("dead_letters", ("type", "handler"), "One-way messages given up.")
RUNS_ENDED = _counter(
    "runs_ended", ("type", "handler", "outcome"), "Workflow runs ended: completed, failed, cancelled or terminated."
)
RUNS_PARKED = _counter("runs_parked", ("type", "handler"), "Times that a workflow run was parked: it needs a person.")
ATTEMPTS = _counter(
    "activity_attempts",
    ("type", "activity", "outcome"),
    "Attempts of activities: ok, retry (failed, another follows), failed (for good), paused (waits for a person), "
    "outside (completed later, from outside).",
)
ACTIVITIES = _gauge("activities_running", (), "Attempts of activities under way.")
COMMITS = _counter(
    "commits",
    ("outcome",),
    "Group commits: ok, conflict (another writer), refused (not storable), unknown (the store did not answer), fenced, "
    "unexpected.",
)
COMMIT_SECONDS = _histogram("commit_seconds", (), "Time of group commits that succeeded.")
COMMIT_ENTITIES = _histogram(
    "commit_entities",
    (),
    "Entities written by one group commit.",
    (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000),
)
ACTIVATIONS = _gauge("activations", ("type",), "Entities in memory.")
MAILBOX = _gauge("mailbox_messages", ("type",), "Messages that wait in the mailboxes of entities in memory.")
LOADING = _gauge("entities_loading", (), "Entities being read from the store.")
REMINDERS = _gauge("reminders_loaded", (), "Reminders and timers in memory, due soon.")
LEFT_ALONE = _gauge(
    "reminders_left_alone",
    (),
    "Reminders and timers that are due and nobody can take: of parked entities and runs, or of types that the host does"
    " not have. At most 100,000 are counted.",
)
LATENESS = _histogram(
    "reminder_lateness_seconds",
    (),
    "From the due time of a reminder or timer to when its host hands it to its entity.",
    (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3_600.0),
)
WAITERS = _gauge("result_waiters", (), "Callers that wait for the result of a workflow.")
SHARDS = _gauge("shards", (), "Shards that the host owns.")
SHARDS_GAINED = _counter("shards_gained", (), "Shards claimed.")
SHARDS_TAKEN_OVER = _counter("shards_taken_over", (), "Of these, those that a host that died had not released.")
LEASE_SECONDS = _gauge(
    "lease_remaining_seconds", (), "For how long the host may answer from memory unless it renews its lease."
)
RENEWALS = _counter("lease_renewals", ("outcome",), "Renewals of the host's lease; outcome ok or error.")
RECEIVED = _counter("messages_received", (), "Messages that clients have sent to the host.")
UNANSWERED = _gauge("messages_unanswered", (), "Of these, those that have no reply yet.")
ROUTER_RETRIES = _counter(
    "router_retries",
    ("reason",),
    "Requests sent once more: not_owner (stale route), busy (a full host, and an earlier attempt is in doubt), "
    "link_lost (the host or the way to it). Host `gateway`: the one that was asked for these figures.",
)
ROUTER_EXPIRED = _counter(
    "router_expired",
    ("outcome",),
    "Requests given up at their deadline: unavailable (not applied), unknown (perhaps applied).",
)
ROUTER_PENDING = _gauge("router_pending", (), "Requests that wait for their reply.")
HTTP_REQUESTS = _counter("http_requests", ("route", "method", "status"), "Requests that the gateway has answered.")
HTTP_SECONDS = _histogram("http_request_seconds", ("route",), "Time from a request to the end of its response.")
HTTP_UNDER_WAY = _gauge("http_requests_under_way", (), "Requests that the gateway is answering.")

CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric there is."""


class Level(NamedTuple):
    """Where a counter or gauge stands."""

    name: str
    labels: tuple[str, ...]
    value: float


class Spread(NamedTuple):
    """Where a histogram stands: how many were at most each bound (each counted once), and the sum of all."""

    name: str
    labels: tuple[str, ...]
    counts: list[int]
    """One more than there are bounds: the last are those beyond."""
    sum: float


class Reading(msgspec.Struct, array_like=True):
    """What one process reports of itself."""

    levels: list[Level] = []
    spreads: list[Spread] = []

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """A counter or gauge."""
        self.levels.append(Level(metric.name, labels, value))

    def add_all(self, metric: Metric, values: "dict[str, int]") -> None:
        """A metric with one label, by its value."""
        self.levels.extend(Level(metric.name, (label,), value) for label, value in values.items())


_decoder = msgspec.msgpack.Decoder(Reading)


def encode_reading(reading: Reading) -> bytes:
    """For the way from a host to a gateway."""
    return msgspec.msgpack.encode(reading)


def decode_reading(data: bytes) -> Reading:
    """Inverse of encode_reading(). Raises msgspec.DecodeError on anything else."""
    return _decoder.decode(data)


class Histogram:
    """Counts values by size."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def spread(self, metric: Metric, *labels: str) -> Spread:
        """Where it stands."""
        return Spread(metric.name, labels, list(self.counts), self.sum)
